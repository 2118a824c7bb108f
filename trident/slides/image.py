"""Plain images (PNG, JPEG, small TIFF) read as slides of one level."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from trident.errors import SlideMemoryError, UnreadableSlideError
from trident.slides.base import RGBImage, Slide
from trident.slides.diagnosis import require_file, way_to_pyramid
from trident.slides.limits import require_plausible_tiff, require_size
from trident.slides.metadata import resolve_resolution
from trident.slides.pillow import BadImageError, NotAnImageError, OversizedImageError, load_pixels, opened_image
from trident.slides.registry import slide_name
from trident.slides.shared_pixels import SharedPixels, rgb_pixels, shared_pixels
from trident.slides.thumbnail import fitted_size, shrink_in_bands
from trident.slides.tiff_pixels import look_at_image_tiff

logger = logging.getLogger(__name__)

MAX_DECODED_BYTES = 1 << 31
"""An image of more than 2 GiB as 8-bit RGB (715 megapixels) is refused: a slide that large needs a pyramid."""

_EIGHT_BIT_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr", "RGBa")

_THUMBNAIL_AT_ONCE_PX = 1 << 24
"""A larger image is shrunk in bands, since Pillow would copy it whole."""


class ImageSlide(Slide):
    """A plain image as a slide of one level. Alpha is dropped, EXIF rotation ignored; a TIFF to be turned is refused.

    The whole image is decoded at the first read and held, once in a process, while one of the slides that were opened
    from its file is open: 3 bytes a pixel, and 7 for the moment of decoding.

    Such files carry no trustworthy resolution: `mpp` must be given (or a text field that holds it named in
    `custom_mpp_keys`), else `Slide.mpp` raises `MissingMppError`.

    Args:
        path: the image file.
        mpp: µm/px.
        custom_mpp_keys: text fields of the image that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: not an 8-bit image that Pillow reads, or larger than `MAX_DECODED_BYTES`.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    reader_type: ClassVar[str] = "image"

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        custom_mpp_keys: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = slide_name(self.path) if name is None else name
        require_file(self.path)
        require_plausible_tiff(self.path)
        with self._opened() as image:
            more_notes = look_at_image_tiff(self.path) if image.format == "TIFF" else ()
            self.dimensions = (image.width, image.height)
            self.properties = {
                "image.format": image.format or "",
                "image.mode": image.mode,
                **{str(key): value for key, value in image.info.items() if isinstance(value, str)},
            }
        self.level_dimensions = (self.dimensions,)
        self.level_downsamples = (1.0,)
        resolution = resolve_resolution(self.path, self.properties, mpp, custom_mpp_keys)
        self.mpp_or_none = resolution.mpp
        self.mpp_source = resolution.source
        self.notes = [*resolution.notes, *more_notes]
        self._lock = threading.Lock()
        self._shared: SharedPixels | None = shared_pixels(self.path)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        """See `Slide.read_region`."""
        if level != 0:
            raise ValueError(f"{self.path}: level {level} is not one of its 1 levels")
        if size[0] < 1 or size[1] < 1:
            raise ValueError(f"{self.path}: a region of {size[0]} x {size[1]} px cannot be read")
        pixels = self._decoded()
        (x, y), (width_px, height_px) = location, self.dimensions
        region = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + size[0], width_px), min(y + size[1], height_px)
        if left < right and top < bottom:
            region[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
        return region

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        """See `Slide.thumbnail`."""
        pixels = self._decoded()
        target = fitted_size(self.dimensions, max_size)
        if self.dimensions[0] * self.dimensions[1] > _THUMBNAIL_AT_ONCE_PX:
            return shrink_in_bands(lambda top_px, rows: pixels[top_px : top_px + rows], self.dimensions, target)
        return np.array(Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0))

    def close(self) -> None:
        """See `Slide.close`."""
        with self._lock:
            self._shared = None

    def _decoded(self) -> RGBImage:
        with self._lock:
            shared = self._shared
        if shared is None:
            raise UnreadableSlideError(self.path, "the slide was closed before this read; open it again")
        return shared.get(self._decode)

    def _decode(self) -> RGBImage:
        with self._opened() as image:
            try:
                load_pixels(image)
                return rgb_pixels(image)
            except MemoryError as error:
                raise SlideMemoryError(
                    self.path,
                    f"its {image.width:,} x {image.height:,} px do not fit into the memory that is left; "
                    "convert it to a pyramidal TIFF, or fetch it again if it is not that large",
                ) from error

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        """The image with its header read and checked; its pixels are decoded when they are asked for."""
        try:
            with opened_image(self.path, max_px=MAX_DECODED_BYTES // 3) as image:
                self._check(image)
                yield image
        except NotAnImageError as error:
            raise UnreadableSlideError(self.path, f"{error}; fetch it again or use another reader") from error
        except OversizedImageError as error:
            width_px, height_px = error.size
            raise UnreadableSlideError(
                self.path,
                f"{width_px} x {height_px} px are {width_px * height_px * 3 / 2**30:.1f} GiB decoded, over the limit "
                f"of {MAX_DECODED_BYTES / 2**30:.0f} GiB for a plain image, so it must become a pyramidal TIFF: "
                f"{way_to_pyramid(self.path)}",
            ) from error
        except BadImageError as error:
            raise UnreadableSlideError(self.path, f"{error}; fetch it again") from error

    def _check(self, image: Image.Image) -> None:
        require_size(self.path, [(image.width, image.height)], size_bytes=self.path.stat().st_size)
        if image.mode not in _EIGHT_BIT_MODES:
            raise UnreadableSlideError(
                self.path, f"its pixels are of mode {image.mode}, not 8 bits a channel; convert it to 8-bit RGB"
            )
