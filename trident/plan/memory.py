"""GPU memory that a model will take, roughly, from its declaration and the size of its weights. No model is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trident.encoders.patch.spec import PatchEncoderSpec
from trident.plan.weights import WeightsNeed

CONTEXT_BYTES = 500 << 20
"""What CUDA itself and its libraries take in a process."""

_FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_WIDTH_DEPTH = {
    "tiny": (192, 12),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "huge": (1280, 32),
    "giant": (1408, 40),
}
_DINOV2_GIANT = (1536, 40)
_VIT = re.compile(r"vit_(?P<size>tiny|small|base|large|huge|giant)_patch(?P<patch>\d+)_(?P<rest>.*)")
_USUAL_RATIO = 4.0
_GIANT_RATIO = 48 / 11
_DINOV2_GIANT_RATIO = 2.66667 * 2
_LIVE_WIDTHS = 4
"""Arrays of a token's width that are alive at once beside the widest one of the block: input, sum, query-key-value."""


@dataclass(frozen=True)
class VitShape:
    """A vision transformer, as far as its size goes."""

    width: int
    depth: int
    hidden: int
    """Width of the widest layer of a block."""
    token_px: int
    is_gated: bool
    """Whether the widest layer is two halves of which one gates the other (SwiGLU)."""

    @property
    def n_parameters(self) -> int:
        """Weights of all blocks and of the patch embedding; the small rest (norms, positions) is left out."""
        second = self.hidden // 2 if self.is_gated else self.hidden
        block = 4 * self.width**2 + self.width * (self.hidden + second) + 4 * self.width + self.hidden + self.width
        return self.depth * block + 3 * self.token_px**2 * self.width


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of one model on a GPU, in bytes.

    Attributes:
        model: its name.
        weights_bytes: parameters in float32; None where nothing says how many there are.
        activations_bytes: of one batch; None as above.
        how: where the figures come from.
    """

    model: str
    weights_bytes: int | None
    activations_bytes: int | None
    how: str


def vit_shape(declared: PatchEncoderSpec) -> VitShape | None:
    """The transformer behind a declaration; None where it names another kind of network."""
    match = _VIT.match(declared.architecture)
    if match is None:
        return None
    given = declared.arguments
    size, is_dinov2 = match["size"], "dinov2" in match["rest"]
    width, depth = _DINOV2_GIANT if size == "giant" and is_dinov2 else _WIDTH_DEPTH[size]
    gated_giant = size == "giant" and is_dinov2
    ratio = _USUAL_RATIO
    if size == "giant":
        ratio = _DINOV2_GIANT_RATIO if gated_giant else _GIANT_RATIO
    width = int(given.get("embed_dim", width))
    return VitShape(
        width=width,
        depth=int(given.get("depth", depth)),
        hidden=int(width * float(given.get("mlp_ratio", ratio))),
        token_px=int(given.get("patch_size", match["patch"])),
        is_gated="SwiGLU" in str(given.get("mlp_layer", "SwiGLU" if gated_giant else "")),
    )


def memory_of(
    declared: PatchEncoderSpec, weights: WeightsNeed | None, *, batch_size: int, img_size_px: int | None, precision: str
) -> MemoryNeed:
    """What a patch encoder takes beside `CONTEXT_BYTES`.

    Parameters are kept in float32: four bytes each of a transformer's that the declaration describes, else the size of
    the weights' file. Activations are those of one block of the transformer, since nothing is kept for a backward
    pass: for each token its widest layer and `_LIVE_WIDTHS` more, in the type that is computed in, and the batch
    of images twice in float32.

    Args:
        declared: the encoder.
        weights: whether and where its weights are; None where it has none.
        batch_size: patches at once.
        img_size_px: of the network's input, where it is not the usual one.
        precision: a value of `--precision`.
    """
    if not declared.filenames:
        return MemoryNeed(declared.name, 0, 0, "it has no weights")
    shape = vit_shape(declared)
    side_px = img_size_px or declared.input_size_px
    if shape is not None and side_px is not None:
        tokens = (side_px // shape.token_px) ** 2 + 1
        number = _FLOAT_BYTES[declared.precision if precision == "auto" else precision]
        per_image = tokens * (shape.hidden + _LIVE_WIDTHS * shape.width) * number + 2 * 3 * side_px**2 * 4
        how = (
            f"{shape.n_parameters / 1e6:.0f} million parameters by its declaration ({declared.architecture}), "
            f"{tokens} tokens an image, {batch_size} images at once"
        )
        return MemoryNeed(declared.name, 4 * shape.n_parameters, batch_size * per_image, how)
    if weights is not None and weights.size_bytes is not None:
        return MemoryNeed(declared.name, weights.size_bytes, None, "the size of its weights; activations are not known")
    return MemoryNeed(declared.name, None, None, "neither its declaration nor a file of weights tells its size")
