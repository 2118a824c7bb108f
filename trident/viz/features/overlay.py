"""Values of patches as colours over a picture of the whole slide."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trident.errors import DiscoveryError, StoreError, TridentError
from trident.slides.base import RGBImage
from trident.slides.diagnosis import one_line
from trident.slides.pillow import BadImageError, load_pixels, opened_image
from trident.slides.thumbnail import fitted_size
from trident.store.h5_read import Attributes
from trident.store.layout import JobLayout
from trident.viz.features.slide_files import SlideFiles
from trident.viz.heatmap import mean_over_patches

logger = logging.getLogger(__name__)

_WHITE = 255


@dataclass(frozen=True)
class Backdrop:
    """What colours are laid over.

    Attributes:
        image: the whole slide, uint8 (height, width, 3); white where there is no picture of it.
        slide_size: (width, height) of level 0.
        side_level0_px: side of a patch in level-0 pixels.
    """

    image: RGBImage
    slide_size: tuple[int, int]
    side_level0_px: int

    def tinted(
        self, values: NDArray[np.float64], corners: NDArray[np.int64], table: RGBImage, opacity: float
    ) -> RGBImage:
        """The slide with each patch in grey, tinted by its value; where patches overlap, by their mean.

        Args:
            values: (N,) in [0, 1].
            corners: (N, 2) level-0 px.
            table: uint8 (256, 3), the colours from 0 to 1.
            opacity: of the tint, 0 to 1.
        """
        means, covered = self._means(values, corners)
        return self._blended(table[np.round(means * 255).astype(np.uint8)], covered, opacity)

    def tinted_rgb(self, values: NDArray[np.float64], corners: NDArray[np.int64], opacity: float) -> RGBImage:
        """The same with a colour of its own for each patch: values (N, 3) in [0, 1] are red, green and blue."""
        channels = [self._means(values[:, channel], corners) for channel in range(3)]
        colours = np.stack([np.round(means * 255) for means, _ in channels], axis=-1)
        return self._blended(colours, channels[0][1], opacity)

    def _means(
        self, values: NDArray[np.float64], corners: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        size = (self.image.shape[1], self.image.shape[0])
        places = corners.astype(np.float64)
        means, covered = mean_over_patches(values, places, self.side_level0_px, size, self.slide_size)
        return means.clip(0, 1), covered

    def _blended(self, colours: NDArray[Any], covered: NDArray[np.bool_], opacity: float) -> RGBImage:
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)[..., np.newaxis]  # stain would change the colours' meaning
        mixed = np.round(grey * (1 - opacity) + colours * opacity).astype(np.uint8)
        return np.where(covered[..., np.newaxis], mixed, self.image)


def find_backdrop(
    slides: SlideFiles,
    layout: JobLayout,
    slide: str,
    *,
    attributes: Attributes,
    corners: NDArray[np.int64],
    side_px: int,
) -> Backdrop:
    """The slide itself, else the thumbnail in the job directory, else white.

    Args:
        slides: where slide files are.
        layout: of the job.
        slide: its name.
        attributes: of its coordinates.
        corners: (N, 2) level-0 px.
        side_px: longest side of the picture.

    Raises:
        StoreError: the coordinates do not say how large a patch is, and the slide cannot be asked.
        DiscoveryError: the folder that the user named for slides cannot be used.
    """
    try:
        with slides.open(slide) as opened:
            from trident.patching.legacy import plan_from_attributes

            stored = plan_from_attributes(attributes, opened, source=f"coordinates of {slide}")
            return Backdrop(opened.thumbnail((side_px, side_px)), opened.dimensions, stored.patch_size_level0)
    except DiscoveryError:
        raise  # a mistyped --wsi_dir
    except TridentError as error:
        logger.warning("%s: the slide is not read: %s", slide, error)
    side_level0_px = _positive(attributes, "patch_size_level0")
    if side_level0_px is None:
        raise StoreError(
            f"{slide}: its coordinates lack patch_size_level0, and the slide cannot be asked; name its folder with "
            "--wsi_dir"
        )
    size = _positive(attributes, "level0_width"), _positive(attributes, "level0_height")
    far = (corners.max(axis=0) + side_level0_px).tolist() if len(corners) else [side_level0_px, side_level0_px]
    slide_size = (size[0] or max(1, far[0]), size[1] or max(1, far[1]))
    fitted = fitted_size(slide_size, (side_px, side_px))
    return Backdrop(_thumbnail(layout.thumbnail(slide), fitted), slide_size, side_level0_px)


def _thumbnail(path: Any, size: tuple[int, int]) -> RGBImage:
    try:
        with opened_image(path) as image:
            load_pixels(image)
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)
    except (BadImageError, MemoryError) as error:
        logger.warning("%s: no thumbnail either (%s); patches are shown on white", path, one_line(error))
        return np.full((size[1], size[0], 3), _WHITE, np.uint8)


def _positive(attributes: Mapping[str, Any], key: str) -> int | None:
    value = attributes.get(key)
    return int(value) if isinstance(value, int | float) and 1 <= value < 2**31 else None
