"""Build a slide encoder by its name. torch is imported when the factory is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trident.encoders.patch.registry import SPECS
from trident.encoders.slide.registry import check_available, required_patch_encoder
from trident.errors import SettingsError

if TYPE_CHECKING:
    from trident.encoders.slide.base import SlideEncoder


def encoder_factory(name: str, *, weights_path: Path | str | None = None, **kwargs: object) -> SlideEncoder:
    """The slide encoder `name`, on the CPU, in evaluation mode.

    Args:
        name: one of `AVAILABLE_SLIDE_ENCODERS`.
        weights_path: weights file, for encoders that have weights.
        kwargs: refused; there is no further option.

    Raises:
        SettingsError: unknown name or option, or a path for an encoder without weights.
        NotAvailableError: a known encoder that this version does not have.
    """
    check_available(name)
    if kwargs:
        raise SettingsError(
            f"slide encoder {name} has no option {', '.join(sorted(kwargs))}; its option is weights_path"
        )
    if weights_path is not None:
        raise SettingsError(f"{name} has no weights, so it cannot load {weights_path}; leave the path out")

    from trident.encoders.slide.mean import MeanSlideEncoder

    declared = SPECS.get(required_patch_encoder(name))
    encoder = MeanSlideEncoder(name, None if declared is None else declared.embedding_dim)
    encoder.eval()
    return encoder
