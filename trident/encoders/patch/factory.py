"""Build a patch encoder by its name. torch is imported when the factory is called."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident.encoders import weights
from trident.encoders.patch import plugins
from trident.encoders.patch.registry import PatchEncoderSpec, spec
from trident.encoders.patch.transforms import Transform, build_transform
from trident.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder


def encoder_factory(
    model_name: str, *, weights_path: Path | str | None = None, img_size: int | None = None, **kwargs: object
) -> PatchEncoder:
    """The patch encoder `model_name` with its weights, on the CPU, in evaluation mode.

    Args:
        model_name: one of `AVAILABLE_PATCH_ENCODERS`, `timm/<model>` for any model of timm, or the name of an installed
            plugin.
        weights_path: weights file, or the folder that holds it; None looks in the registry of local weights, then on
            the hub.
        img_size: custom side in pixels of the network's input, for encoders that allow one: the patch's shorter side
            is resized to it.
        kwargs: the options that this encoder's declaration lists, such as `return_cls` of virchow. A plugin gets
            whatever is given.

    Raises:
        SettingsError: unknown name or option, or an input size that the encoder cannot take.
        NotAvailableError: a known encoder that this version does not have.
        WeightsError: the weights are missing, damaged or those of another model.
    """
    declared = spec(model_name)
    if declared.plugin:
        return plugins.build(declared, weights_path=weights_path, img_size=img_size, **kwargs)
    options = declared.resolve_options(kwargs)
    check_img_size(declared, img_size)
    found = weights.fetch(declared, weights_path)
    if found is None and declared.filenames:
        raise WeightsError(f"{model_name}: its weights are not published on the hub; give a file as weights_path")

    import torch

    from trident.encoders.patch.base import PatchEncoder

    model = _function(declared.builder)(declared, None if found is None else found.path, **options)
    encoder = PatchEncoder(
        declared.name,
        model,
        _transform(declared, img_size),
        getattr(torch, declared.precision),
        embedding_dim=declared.embedding_dim_for(options),
        weights_sha256=None if found is None else found.sha256,
        input_size=declared.input_size_px if img_size is None else img_size,
        options=declared.unusual(options),
        reentrant=True,
    )
    return encoder.eval().requires_grad_(False)


def check_img_size(declared: PatchEncoderSpec, img_size: int | None) -> None:
    """Check that an encoder can take this custom input size; None is its usual one.

    Raises:
        SettingsError: it cannot; the message says why, and which sizes are near.
    """
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


def _transform(declared: PatchEncoderSpec, img_size: int | None) -> Transform:
    transform = declared.transform if img_size is None else declared.transform.at_size(img_size)
    if not declared.transform_builder:
        return build_transform(transform)
    built: Transform = _function(declared.transform_builder)(transform)
    return built


def _function(place: str) -> Any:
    """The function that `module:function` names."""
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
