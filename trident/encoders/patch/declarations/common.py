"""What several declarations share."""

from __future__ import annotations

from trident.encoders.patch.spec import Colour, Option, TransformSpec

TIMM = "trident.encoders.patch.timm_models:build"
"""Builder of the networks that timm has."""

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
HALF: Colour = (0.5, 0.5, 0.5)

IMAGENET_224 = TransformSpec(224, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
IMAGENET_224_BICUBIC = TransformSpec(224, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
HALF_224 = TransformSpec(224, 224, "bilinear", HALF, HALF)

ONLY_224 = "it was published for an input of 224 px only"
"""Why `img_size` is refused."""


def return_type(with_mean_dim: int) -> Option:
    """The option that joins the mean of the patch tokens to the class token: `with_mean_dim` numbers then."""
    return Option("return_type", ("cls", "cls+mean"), {"cls+mean": with_mean_dim})
