"""What a patch encoder's declaration says. Plain data: nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trident.errors import SettingsError

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Precision = Literal["float32", "float16", "bfloat16"]
Pooling = Literal["model", "map-mean", "cls", "cls+mean"]
Colour = tuple[float, float, float]
OptionValue = bool | str


@dataclass(frozen=True)
class TransformSpec:
    """From an RGB patch to the network's input: resize, centre crop, scale to [0, 1], normalise."""

    resize_px: int | None = None
    """The shorter side becomes this long, antialiased; None leaves the patch as it is."""
    crop_px: int | None = None
    """Side of the centre crop; None crops nothing."""
    interpolation: Interpolation = "bilinear"
    mean: Colour | None = None
    """Per-channel mean that is subtracted, for pixels in [0, 1]; None normalises nothing."""
    std: Colour | None = None
    """Per-channel divisor; given with `mean`."""
    keep_aspect: bool = True
    """False: both sides become `resize_px`, whatever the patch's aspect."""

    def at_size(self, img_size_px: int) -> TransformSpec:
        """The same transform for a custom input size: shorter side and crop, if there is one, are `img_size_px`."""
        return replace(self, resize_px=img_size_px, crop_px=None if self.crop_px is None else img_size_px)


@dataclass(frozen=True)
class Option:
    """A keyword of `encoder_factory` that only some encoders have."""

    name: str
    values: tuple[OptionValue, ...]
    """What it may be; the first is the default."""
    embedding_dims: Mapping[OptionValue, int] = field(default_factory=dict)
    """Length of a feature vector under those values that change it."""


@dataclass(frozen=True)
class PatchEncoderSpec:
    """Everything that a user must know about a patch encoder, and that its builder needs."""

    name: str
    builder: str
    """`module:function` that makes the network, imported when it is needed.

    It is called with (this declaration, path of the weights or None where there are none, **every option) and gives
    an `nn.Module`: (B, 3, H, W) -> (B, D), float32, on the CPU.
    """
    transform: TransformSpec
    embedding_dim: int | None
    """Length D of a feature vector, at the options' defaults; None: only the built encoder can tell."""
    precision: Precision
    """Autocast type on a GPU; parameters are kept in float32, and a CPU always computes in float32."""
    magnification: float | None
    """Magnification that the encoder was made for; None: not stated."""
    patch_size_px: int | None
    """Recommended patch size at that magnification; None: not stated."""
    licence: str
    """Licence of the weights, or "not stated"."""
    repo_id: str | None = None
    """Hub repository of the weights; None: there are none on the hub."""
    filenames: tuple[str, ...] = ()
    """Names under which the weights are published, best first; empty: the encoder has no weights."""
    gated: bool = False
    """Whether access to the repository must be asked for."""
    architecture: str = ""
    """The builder's own name of the architecture."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the architecture; modules are named by strings, so that this file stays free of torch."""
    naming: str = ""
    """`module:function` from the published tensors to the network's own names; empty: they are the same."""
    resampled_positions: Literal["", "bicubic", "bicubic-antialias"] = ""
    """How a published position table of another grid than the network's is made to fit; empty: it is refused."""
    pooling: Pooling = "model"
    """From the network's output to (B, D): as it comes, the mean over its last feature map, the class token, or the
    class token joined with the mean of the patch tokens."""
    options: tuple[Option, ...] = ()
    """Keywords of `encoder_factory` that this encoder has beside `weights_path` and `img_size`."""
    unused_weights: tuple[str, ...] = ()
    """Prefixes of published tensors that this encoder does not use; every other tensor must fit."""
    needed_weights: tuple[str, ...] = ()
    """Prefixes of the tensors that are needed, where the weights are published in several files."""
    transform_builder: str = ""
    """`module:function` from a TransformSpec to the transform; empty: `transforms.build_transform`."""
    input_size_px: int | None = None
    """Side of the network's input after the default transform; None: any."""
    img_size_multiple: int | None = None
    """A custom input size must be a multiple of this; None: `img_size` is refused, for `fixed_size_reason`."""
    fixed_size_reason: str = ""
    """Why a custom input size is refused."""
    plugin: bool = False
    """Whether another installed package brings it; `builder` then makes the whole encoder."""
    weights_kind: Literal["patch"] = "patch"
    """Section of the registry of local weights."""

    def resolve_options(self, given: Mapping[str, object]) -> dict[str, OptionValue]:
        """Every option of this encoder with its value: as given, or the default.

        Raises:
            SettingsError: an option that this encoder does not have, or a value that it does not take.
        """
        known = {option.name: option for option in self.options}
        unknown = sorted(given.keys() - known.keys())
        if unknown:
            listed = ", ".join(("weights_path", "img_size", *known))
            raise SettingsError(
                f"patch encoder {self.name} has no option {', '.join(unknown)}; its options are {listed}"
            )
        return {name: _chosen(self.name, option, given) for name, option in known.items()}

    def unusual(self, options: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
        """Those of these options that are not at their default."""
        defaults = {option.name: option.values[0] for option in self.options}
        return {name: value for name, value in options.items() if value != defaults[name]}

    def embedding_dim_for(self, options: Mapping[str, OptionValue]) -> int | None:
        """Length D of a feature vector under these options, which are complete; None as in `embedding_dim`."""
        dim = self.embedding_dim
        for option in self.options:
            dim = option.embedding_dims.get(options[option.name], dim)
        return dim


def _chosen(encoder: str, option: Option, given: Mapping[str, object]) -> OptionValue:
    if option.name not in given:
        return option.values[0]
    asked = given[option.name]
    for value in option.values:
        if type(asked) is type(value) and asked == value:  # 1 is not True here
            return value
    allowed = ", ".join(map(repr, option.values))
    raise SettingsError(f"option {option.name}={asked!r} of patch encoder {encoder} is not one of {allowed}")
