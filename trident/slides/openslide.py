"""Slides read with OpenSlide: the reader whose pixels are the contract for every other one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import cv2
import numpy as np
import openslide
from PIL import Image

from trident.errors import UnreadableSlideError
from trident.slides.base import RGBImage, Slide
from trident.slides.diagnosis import explain_unopenable, one_line, require_file
from trident.slides.dicom import file_and_notes
from trident.slides.limits import require_plausible_tiff, require_size
from trident.slides.metadata import GENERIC_TIFF, resolve_resolution
from trident.slides.registry import slide_name
from trident.slides.thumbnail import fitted_size, shrink_in_bands
from trident.slides.tiff_pixels import TiffLook, look_at_plain_tiff

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

THUMBNAIL_AT_ONCE_PX = 1 << 24
"""A level of more pixels than this is shrunk in bands, so that a slide without a pyramid does not fill the memory."""


class OpenSlideSlide(Slide):
    """A slide in any format that OpenSlide reads.

    An OpenSlide handle stays in its error state after the first region that does not decode, and threads that share it
    then fail on regions that are sound. Such a handle is replaced, and each failed read is tried once on a handle of
    its own: only a region that is damaged itself is reported.

    Args:
        path: the slide file, or a folder that holds one DICOM series.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: the file does not open as a slide; the message says why.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    reader_type: ClassVar[str] = "openslide"

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        custom_mpp_keys: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = slide_name(self.path, is_folder=self.path.is_dir()) if name is None else name
        self._lock = threading.Lock()
        self._closed = False
        self._file, dicom_notes = file_and_notes(self.path)
        require_file(self._file)
        require_plausible_tiff(self._file)
        self._handle: openslide.OpenSlide | None = self._open()
        self.dimensions = self._handle.dimensions
        self.level_dimensions = self._handle.level_dimensions
        require_size(self.path, self.level_dimensions)
        self.level_downsamples = self._handle.level_downsamples
        properties = self._handle.properties
        # openslide-python lists names that are no UTF-8, and then does not find them.
        known = {name: properties[name] for name in properties if name in properties}
        is_plain_tiff = known.get(openslide.PROPERTY_NAME_VENDOR) == GENERIC_TIFF
        look = look_at_plain_tiff(self.path) if is_plain_tiff else TiffLook()
        self.properties = {**known, **look.properties}
        resolution = resolve_resolution(self.path, self.properties, mpp, custom_mpp_keys)
        self.mpp_or_none = resolution.mpp
        self.mpp_source = resolution.source
        self.notes = [*resolution.notes, *look.notes, *dicom_notes]

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        """See `Slide.read_region`."""
        self._check_request(level, size)
        what = f"the {size[0]} x {size[1]} px region at ({location[0]}, {location[1]}) of level {level}"
        return _without_alpha(self._read(what, lambda handle: handle.read_region(location, level, size)))

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        """See `Slide.thumbnail`; read from the smallest level that is large enough, on the slide's background colour.

        A level too large to hold at once is shrunk band by band.

        Raises:
            UnreadableSlideError: a part of that level does not decode.
        """
        level = self._thumbnail_level(max_size)
        width_px, height_px = self.level_dimensions[level]
        if width_px * height_px <= THUMBNAIL_AT_ONCE_PX:
            return np.array(self._read("the thumbnail", lambda handle: handle.get_thumbnail(max_size)))
        background = "#" + self.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")

        def read_band(top_px: int, rows: int) -> RGBImage:
            location = (0, round(top_px * self.level_downsamples[level]))
            size = (width_px, rows)
            band = self._read("the thumbnail", lambda handle: handle.read_region(location, level, size))
            flat = Image.new("RGB", size, background)
            flat.paste(band, None, band)
            return np.asarray(flat)

        return shrink_in_bands(read_band, (width_px, height_px), fitted_size(self.dimensions, max_size))

    def _thumbnail_level(self, max_size: tuple[int, int]) -> int:
        downsample = max(side / limit for side, limit in zip(self.dimensions, max_size, strict=True))
        return self._read("the pyramid", lambda handle: handle.get_best_level_for_downsample(downsample))

    def close(self) -> None:
        """See `Slide.close`. A read that another thread has begun is finished first."""
        # Dropping the reference, not closing the handle: it goes when the last thread that reads with it is done.
        with self._lock:
            self._closed = True
            self._handle = None

    def _check_request(self, level: int, size: tuple[int, int]) -> None:
        # OpenSlide answers a level that it does not have with transparent pixels: silently black.
        if not 0 <= level < len(self.level_dimensions):
            raise ValueError(f"{self.path}: level {level} is not one of its {len(self.level_dimensions)} levels")
        if size[0] < 1 or size[1] < 1:
            raise ValueError(f"{self.path}: a region of {size[0]} x {size[1]} px cannot be read")

    def _open(self) -> openslide.OpenSlide:
        require_file(self._file)
        try:
            return openslide.OpenSlide(self._file)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnreadableSlideError(self.path, explain_unopenable(self._file)) from error
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(self.path, explain_unopenable(self._file, error)) from error

    def _current(self) -> openslide.OpenSlide:
        with self._lock:
            if self._closed:
                raise UnreadableSlideError(self.path, "the slide was closed before this read; open it again")
            if self._handle is None:
                self._handle = self._open()
            return self._handle

    def _read(self, what: str, action: Callable[[openslide.OpenSlide], _Result]) -> _Result:
        handle = self._current()
        try:
            return action(handle)
        except openslide.OpenSlideError as error:
            logger.debug("%s: %s: %s; trying once on a new handle", self.path, what, error)
        with self._lock:
            if self._handle is handle:
                self._handle = None
        own = self._open()
        try:
            return action(own)
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(
                self.path, f"{what} does not decode ({one_line(error)}); fetch the file again or leave the slide out"
            ) from error
        finally:
            own.close()


def _without_alpha(image: Image.Image) -> RGBImage:
    """RGBA to RGB by leaving alpha out; OpenSlide's transparent pixels are black below their alpha."""
    # A tenth of the time of slicing the alpha channel off in NumPy.
    return np.asarray(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGBA2RGB), dtype=np.uint8)
