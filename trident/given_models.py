"""Models that a caller of the Python interface hands over: are they what they should be, and where do they compute."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trident.errors import NotAvailableError, SettingsError

if TYPE_CHECKING:
    import torch

    from trident.segmentation.base import Segmenter
    from trident.segmentation.neural import NeuralSegmenter

logger = logging.getLogger(__name__)

USUAL_SEGMENTATION_MAG = 10
"""TRIDENT's default for a segmenter's magnification: with it, nobody has asked for one."""


def usable_device(device: str | torch.device) -> str:
    """The torch name of the device to compute on: the CPU, with a warning, where a GPU is asked for and there is none.

    Raises:
        SettingsError: torch knows no such device, or there are fewer GPUs.
    """
    name = str(device)
    if name == "cpu":  # without torch, which takes seconds to load
        return name
    import torch

    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device {name!r} is unknown; give for example cpu, cuda or cuda:1") from error
    if wanted.type != "cuda":
        return name
    if not torch.cuda.is_available():
        logger.warning("device %s: torch finds no GPU here, so the CPU computes", name)
        return "cpu"
    if wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise SettingsError(f"device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return name


def place_segmenter(segmenter: Segmenter, target_mag: float, device: str | torch.device) -> None:
    """Move a neural segmenter to its device, and say where a magnification was asked for that it does not use."""
    if target_mag not in (USUAL_SEGMENTATION_MAG, segmenter.target_magnification):
        logger.warning(
            "segmenter %s looks at slides at %gx; the %gx that were asked for are not used",
            segmenter.name,
            segmenter.target_magnification,
            target_mag,
        )
    move = getattr(segmenter, "to", None)
    if move is not None:
        move(usable_device(device))


def place_artifact_remover(remover: object, device: str | torch.device) -> NeuralSegmenter | None:
    """Move the model that removes artifacts to its device; None, for no removal, stays None.

    Raises:
        SettingsError: `remover` is something else, such as a tissue segmenter, or torch knows no such device.
    """
    if remover is None:
        return None
    from trident.segmentation.neural import NeuralSegmenter
    from trident.segmentation.spec import ARTIFACT_REMOVER

    if not isinstance(remover, NeuralSegmenter) or remover.spec.name != ARTIFACT_REMOVER:
        name = getattr(remover, "name", type(remover).__name__)
        raise SettingsError(
            f"{name} is no model that removes artifacts; give segmentation_model_factory({ARTIFACT_REMOVER!r}) as "
            "artifact_remover_model, or leave it out"
        )
    return remover.to(usable_device(device))


def check_saveas(saveas: str, allowed: Sequence[str] = ("h5",)) -> None:
    """Raise NotAvailableError unless features can be saved in this format."""
    if saveas not in allowed:
        known = " or ".join(allowed)
        raise NotAvailableError(f"features are saved as {known} here, not as {saveas!r}; leave saveas out")


def check_patch_encoder(encoder: object) -> None:
    """Raise SettingsError unless `encoder` is a patch encoder whose name can name files."""
    from trident.encoders.patch.base import PatchEncoder

    if not isinstance(encoder, PatchEncoder):
        raise SettingsError(
            f"a {type(encoder).__name__} is no patch encoder; wrap a model of your own in "
            "trident.patch_encoder_models.CustomInferenceEncoder"
        )
    from trident.encoders.patch.registry import TIMM_PREFIX

    _check_file_name(encoder.enc_name.removeprefix(TIMM_PREFIX))  # the layout knows what to make of this slash


def check_slide_encoder(encoder: object) -> None:
    """Raise SettingsError unless `encoder` is a slide encoder whose name can name files."""
    from trident.encoders.slide.base import SlideEncoder

    if not isinstance(encoder, SlideEncoder):
        raise SettingsError(
            f"a {type(encoder).__name__} is no slide encoder; subclass trident.encoders.slide.base.SlideEncoder"
        )
    _check_file_name(encoder.enc_name)


def _check_file_name(encoder: str) -> None:
    if not encoder or "/" in encoder or os.sep in encoder:
        raise SettingsError(f"the encoder name {encoder!r} names files and folders; give it one without a slash")
