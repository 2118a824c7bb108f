"""Build a slide encoder by its name. torch is imported when the factory is called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from trident.encoders import weights
from trident.encoders.slide.registry import missing_weights, spec
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    from trident.encoders.slide.base import SlideEncoder

logger = logging.getLogger(__name__)


def encoder_factory(
    model_name: str,
    *,
    weights_path: Path | str | None = None,
    pretrained: bool = True,
    freeze: bool = True,
    **kwargs: object,
) -> SlideEncoder:
    """The slide encoder `model_name` with its weights, float32, on the CPU.

    Args:
        model_name: one of `AVAILABLE_SLIDE_ENCODERS`.
        weights_path: weights file, or the folder that holds it; None looks in the registry of local weights, then on
            the hub.
        pretrained: False looks for no weights, which only encoders that may do without them allow (`abmil`, `mean-*`).
        freeze: True for inference (evaluation mode, no gradients); False for training (training mode, gradients).
        kwargs: the options that the encoder's declaration names, such as `n_heads` of abmil.

    Raises:
        SettingsError: unknown name or option, a path for an encoder without weights, or one that needs its weights.
        NotAvailableError: an encoder that nobody can run.
        WeightsError: the weights are missing, damaged or those of another model.
    """
    declared = replace(spec(model_name), name=model_name)  # an older spelling stays the name of its outputs
    unknown = sorted(kwargs.keys() - set(declared.options))
    if unknown:
        options = ", ".join(("weights_path", "pretrained", "freeze", *declared.options))
        raise SettingsError(f"slide encoder {model_name} has no option {', '.join(unknown)}; its options are {options}")
    if not pretrained:
        _check_without_weights(declared, weights_path)
    found = _find(declared, weights_path) if pretrained else None
    encoder = _builder(declared)(declared, None if found is None else found.path, **kwargs)
    if found is not None:
        encoder.weights_sha256 = found.sha256
    return encoder.train(not freeze).requires_grad_(not freeze)


def _check_without_weights(declared: SlideEncoderSpec, weights_path: Path | str | None) -> None:
    """Check that an encoder can be built with pretrained=False."""
    if weights_path is not None:
        raise SettingsError(f"slide encoder {declared.name}: pretrained=False and weights_path exclude each other")
    if (declared.filenames or declared.remote_code) and not declared.weights_optional:
        raise SettingsError(
            f"slide encoder {declared.name} is of use only with its weights; leave out pretrained=False"
        )


def _find(declared: SlideEncoderSpec, weights_path: Path | str | None) -> weights.WeightsFile | None:
    """The weights, downloaded if need be; None where the encoder has none, may do without, or fetches its own code."""
    if declared.remote_code:
        found = weights.locate(declared, weights_path)
        # What lies in the hub's cache is of whichever revision was looked at last.
        return None if found is None or found.origin == "hub" else found
    found = weights.fetch(declared, weights_path)
    if found is None and declared.filenames and not declared.weights_optional:
        raise missing_weights(declared)
    if found is not None and found.origin == "hub":
        _fetch_companions(declared)
    return found


def _fetch_companions(declared: SlideEncoderSpec) -> None:
    """Lay the files that belong to the weights beside them; without them the builder checks less."""
    for filename in declared.companions:
        try:
            weights.fetch(replace(declared, filenames=(filename,)))
        except WeightsError as error:
            logger.warning("%s: going on without %s: %s", declared.name, filename, error)


def _builder(declared: SlideEncoderSpec) -> Callable[..., SlideEncoder]:
    module, _, function = declared.builder.partition(":")
    builder: Callable[..., SlideEncoder] = getattr(import_module(module), function)
    return builder
