"""A tile's way into a segmenter's network. torchvision is imported when called."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from trident.segmentation.spec import TILE_MEAN, TILE_STD

if TYPE_CHECKING:
    from trident.encoders.patch.transforms import Transform
    from trident.segmentation.spec import SegmentationModelSpec


class SwappedJpeg:
    """Through JPEG and back with red and blue swapped inside the codec, as OpenCV does to an RGB array.

    GrandQC's networks were trained on such tiles: the codec takes red for blue when it splits light from colour, so
    its losses differ from those of a JPEG in the right order.
    """

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB image of the same size."""
        file = io.BytesIO()
        _swapped(image).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        return _swapped(Image.open(file))

    def __repr__(self) -> str:
        return f"SwappedJpeg(quality={self.quality})"


def tile_transform(spec: SegmentationModelSpec) -> Transform:
    """The torchvision `Compose` from a tile, a PIL RGB image, to float32 (3, H, W); it keeps the tile's size."""
    from torchvision import transforms

    to_input = [transforms.ToTensor(), transforms.Normalize(mean=TILE_MEAN, std=TILE_STD)]
    first = [] if spec.jpeg_quality is None else [SwappedJpeg(spec.jpeg_quality)]
    built: Transform = transforms.Compose([*first, *to_input])
    return built


def _swapped(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (blue, green, red))
