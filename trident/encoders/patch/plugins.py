"""Patch encoders that other installed packages bring, by the entry-point group `trident.patch_encoders`.

An entry point is a name and a callable that returns a `PatchEncoder` (or a `CustomInferenceEncoder`). The callable is
given `weights_path` and `img_size` only where the user gave them, and any further keyword as it is. Its module is
imported when the encoder is built, not before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from trident.encoders.patch.spec import PatchEncoderSpec, TransformSpec
from trident.errors import SettingsError

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder

GROUP = "trident.patch_encoders"
"""Entry-point group in which a package lists its encoders."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pth")
"""Looked for where the user names a folder instead of a file."""

_logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _entry_points() -> Mapping[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=GROUP):
        if point.name in found:
            _logger.warning("%s: two packages bring a patch encoder of this name; %s is used", point.name, found)
            continue
        found[point.name] = point
    return found


def plugin_names() -> tuple[str, ...]:
    """Names of the encoders that installed packages bring, in alphabetical order."""
    return tuple(sorted(_entry_points()))


def declare(name: str) -> PatchEncoderSpec:
    """What can be said about the plugin `name` without importing it: little more than where it is.

    The weights, if it takes any, are a file that the user gives; nothing is looked up on the hub.
    """
    point = _entry_points()[name]
    package = "" if point.dist is None else f" {point.dist.name} {point.dist.version}"
    return PatchEncoderSpec(
        name=name,
        builder=point.value,
        transform=TransformSpec(),
        embedding_dim=None,
        precision="float32",
        magnification=None,
        patch_size_px=None,
        licence=f"see the package{package}",
        filenames=_WEIGHTS,
        plugin=True,
    )


def build(
    declared: PatchEncoderSpec, *, weights_path: Path | str | None, img_size: int | None, **kwargs: object
) -> PatchEncoder:
    """The plugin's encoder, in evaluation mode, under the name by which it was asked for. Imports torch.

    Raises:
        SettingsError: the plugin cannot be imported, refuses an option, or returns something else.
    """
    from trident.encoders.patch.base import PatchEncoder

    given = {**kwargs, "weights_path": weights_path, "img_size": img_size}
    given = {name: value for name, value in given.items() if value is not None}
    where = f"patch encoder {declared.name} ({declared.builder}, {declared.licence.removeprefix('see the ')})"
    try:
        make = _entry_points()[declared.name].load()
        encoder = make(**given)
    except (ImportError, AttributeError, TypeError) as error:
        listed = f" with {', '.join(sorted(given))}" if given else ""
        raise SettingsError(f"{where} cannot be made{listed}: {error}; correct the options or the package") from error
    if not isinstance(encoder, PatchEncoder):
        raise SettingsError(
            f"{where} is a {type(encoder).__name__}; its callable must return a PatchEncoder or CustomInferenceEncoder"
        )
    encoder.enc_name = declared.name
    return encoder.eval().requires_grad_(False)
