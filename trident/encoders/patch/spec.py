"""What a patch encoder's declaration says. Plain data: nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["float32", "float16", "bfloat16"]
Builder = Literal["timm", "stain-stats"]
Pooling = Literal["model", "map-mean"]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class TransformSpec:
    """From an RGB patch to the network's input: resize, centre crop, scale to [0, 1], normalise."""

    resize_px: int | None = None
    """The shorter side becomes this long, antialiased, aspect kept; None leaves the patch as it is."""
    crop_px: int | None = None
    """Side of the centre crop; None crops nothing."""
    interpolation: Interpolation = "bilinear"
    mean: Colour | None = None
    """Per-channel mean that is subtracted, for pixels in [0, 1]; None normalises nothing."""
    std: Colour | None = None
    """Per-channel divisor; given with `mean`."""

    def at_size(self, img_size_px: int) -> TransformSpec:
        """The same transform for a custom input size: shorter side and crop are both `img_size_px`."""
        return TransformSpec(img_size_px, img_size_px, self.interpolation, self.mean, self.std)


@dataclass(frozen=True)
class PatchEncoderSpec:
    """Everything that a user must know about a patch encoder, and that its builder needs."""

    name: str
    builder: Builder
    """Which builder of `trident.encoders.patch.factory` makes the network."""
    transform: TransformSpec
    embedding_dim: int
    """Length D of a feature vector."""
    precision: Precision
    """Autocast type on a GPU; parameters are kept in float32, and a CPU always computes in float32."""
    magnification: float
    """Magnification that the encoder was made for."""
    patch_size_px: int
    """Recommended patch size at that magnification."""
    licence: str
    """Licence of the weights, or "not stated"."""
    repo_id: str | None = None
    """Hub repository of the weights; None: the encoder has no weights."""
    filenames: tuple[str, ...] = ()
    """Names under which the weights are published there, best first."""
    gated: bool = False
    """Whether access to the repository must be asked for."""
    architecture: str = ""
    """The builder's own name of the architecture."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the architecture; modules are named by strings, so that this file stays free of torch."""
    pooling: Pooling = "model"
    """From the network's output to (B, D): as it comes, or the mean over its last feature map."""
    unused_weights: tuple[str, ...] = ()
    """Prefixes of published tensors that this encoder does not use; every other tensor must fit."""
    input_size_px: int | None = None
    """Side of the network's input after the default transform; None: any."""
    img_size_multiple: int | None = None
    """A custom input size must be a multiple of this; None: `img_size` is refused, for `fixed_size_reason`."""
    fixed_size_reason: str = ""
    """Why a custom input size is refused."""
    weights_kind: Literal["patch"] = "patch"
    """Section of the registry of local weights."""
