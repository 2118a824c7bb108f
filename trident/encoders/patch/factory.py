"""Build a patch encoder by its name. torch is imported when the factory is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trident.encoders import weights
from trident.encoders.patch.registry import PatchEncoderSpec, spec
from trident.encoders.patch.transforms import build_transform
from trident.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    from torch import nn

    from trident.encoders.patch.base import PatchEncoder


def encoder_factory(
    name: str, *, weights_path: Path | str | None = None, img_size: int | None = None, **kwargs: object
) -> PatchEncoder:
    """The patch encoder `name` with its weights, on the CPU, in evaluation mode.

    Args:
        name: one of `AVAILABLE_PATCH_ENCODERS`.
        weights_path: weights file, or the folder that holds it; None looks in the registry of local weights, then on
            the hub.
        img_size: custom side in pixels of the network's input, for encoders that allow one: the patch's shorter side
            is resized to it.
        kwargs: refused; there is no further option.

    Raises:
        SettingsError: unknown name or option, or an input size that the encoder cannot take.
        NotAvailableError: a known encoder that this version does not have.
        WeightsError: the weights are missing, damaged or those of another model.
    """
    declared = spec(name)
    if kwargs:
        raise SettingsError(
            f"patch encoder {name} has no option {', '.join(sorted(kwargs))}; its options are weights_path, img_size"
        )
    _check_img_size(declared, img_size)
    found = weights.fetch(declared, weights_path)

    import torch

    from trident.encoders.patch.base import PatchEncoder

    transform = declared.transform if img_size is None else declared.transform.at_size(img_size)
    encoder = PatchEncoder(
        declared.name,
        _BUILDERS[declared.builder](declared, found),
        build_transform(transform),
        getattr(torch, declared.precision),
        embedding_dim=declared.embedding_dim,
        weights_sha256=None if found is None else found.sha256,
        input_size=declared.input_size_px if img_size is None else img_size,
    )
    return encoder.eval().requires_grad_(False)


def _check_img_size(declared: PatchEncoderSpec, img_size: int | None) -> None:
    if img_size is None:
        return
    multiple = declared.img_size_multiple
    if multiple is None:
        raise SettingsError(
            f"patch encoder {declared.name} takes no custom img_size: {declared.fixed_size_reason}; leave it out"
        )
    if isinstance(img_size, bool) or not isinstance(img_size, int) or img_size < 1:
        raise SettingsError(f"img_size {img_size!r} of patch encoder {declared.name} is not a positive whole number")
    if img_size % multiple:
        below = img_size - img_size % multiple
        near = f"{below} or {below + multiple}" if below else str(multiple)
        raise SettingsError(
            f"img_size {img_size} of patch encoder {declared.name} is not a multiple of its token size, "
            f"{multiple} px; try {near}"
        )


def _build_timm(declared: PatchEncoderSpec, found: weights.WeightsFile | None) -> nn.Module:
    from trident.encoders.patch.timm_models import build

    if found is None:
        raise WeightsError(f"patch encoder {declared.name} needs weights, and its declaration names none; report this")
    return build(declared, found.path)


def _build_stain_stats(_declared: PatchEncoderSpec, _found: weights.WeightsFile | None) -> nn.Module:
    from trident.encoders.patch.stats import StainStatistics

    return StainStatistics()


_BUILDERS: dict[str, Callable[[PatchEncoderSpec, weights.WeightsFile | None], nn.Module]] = {
    "timm": _build_timm,
    "stain-stats": _build_stain_stats,
}
"""How the network of each kind of declaration is made."""
