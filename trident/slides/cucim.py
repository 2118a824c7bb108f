"""Slides read with cuCIM's decoder on the CPU: OpenSlide's pixels at several times its speed.

Importing cuCIM opens a CUDA context on every visible GPU, so it is imported when a slide is opened; set
CUDA_VISIBLE_DEVICES before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides.base import AnnouncedRegions, RGBImage
from trident.slides.diagnosis import one_line
from trident.slides.eligibility import JPEG, IneligibleError, TiledPage, import_cucim, tiled_pages
from trident.slides.jpeg_tiles import JpegTiles, jpeg_decoder
from trident.slides.metadata import GENERIC_TIFF
from trident.slides.openslide import THUMBNAIL_AT_ONCE_PX, OpenSlideSlide
from trident.slides.tile_check import TileChecker, has_filled_block
from trident.slides.tile_regions import TileRegions

logger = logging.getLogger(__name__)

_VENDORS = ("aperio", GENERIC_TIFF)
"""OpenSlide's names of the formats whose levels are plain tiled pages; the others shift, overlap or omit tiles."""

_JPEG_2000_DIFFERENCE = 1
"""Grey levels by which two builds of a JPEG 2000 decoder may differ; its wavelets are floating-point arithmetic."""

_BETWEEN_PIXELS_DIFFERENCE = 1
"""Grey levels by which a region at a fraction of a pixel may differ from OpenSlide's; see `subpixel`."""

_MAX_TILE_PX = 1 << 22
"""Tiles of more pixels are not decoded whole."""
_MAX_ANNOUNCED_CHECK_PX = 256
_ANNOUNCED_CHECKS = 5

_CHECK_PX = 96
_CHECK_SHARES = ((0.0, 0.0), (0.27, 0.31), (0.5, 0.5), (0.71, 0.63), (1.0, 1.0))


class CuCimSlide(OpenSlideSlide):
    """A tiled JPEG or JPEG 2000 TIFF, read with cuCIM where that gives OpenSlide's pixels and with OpenSlide elsewhere.

    OpenSlide reads a region where its corner is between two pixels of its level (OpenSlide interpolates there, cuCIM
    does not), where a tile under it is missing or looks damaged (see `tile_check`), and where cuCIM fails. What lies
    beyond the slide is left black here, as cuCIM would make it white. On opening, a few patches of each level are
    compared with OpenSlide's. JPEG gives the same bits; JPEG 2000 gives one grey level more or less in about one value
    of a million, because the two libraries' decoders round differently.

    Many JPEG regions together (`announce_regions`) are not read with cuCIM but from the file's own tiles, several times
    faster still; see `tile_regions`.

    Damage that OpenSlide does not notice either (a flipped bit in a JPEG tile whose data still has the right length,
    most damage to a JPEG 2000 tile) changes pixels without an error.

    Args:
        path: the slide file.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: not a slide, or one that cuCIM cannot read with OpenSlide's pixels.
        NotAvailableError: cuCIM is not installed.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    reader_type: ClassVar[str] = "cucim"

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        custom_mpp_keys: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        super().__init__(path, mpp=mpp, custom_mpp_keys=custom_mpp_keys, name=name)
        self._failed_reads = 0
        self._steps: list[int | None] = []
        try:
            pages = self.level_pages = tuple(self._level_pages())
            self._is_jpeg = [page.compression == JPEG for page in pages]
            self._tiles: TileChecker | None = TileChecker(self.path, pages)
            self._cucim: Any = self._open_cucim(pages)
            self._compare_with_openslide()
        except IneligibleError as reason:
            self.close()
            raise UnreadableSlideError(
                self.path, f"cuCIM cannot be used: {reason}; use --reader_type openslide"
            ) from reason

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage:
        """See `Slide.read_region`."""
        self._check_request(level, size)
        pixels = self._read_fast(location, level, size)
        return super().read_region(location, level, size) if pixels is None else pixels

    def thumbnail(self, max_size: tuple[int, int]) -> RGBImage:
        """See `OpenSlideSlide.thumbnail`; the same pixels, with its level decoded by cuCIM where that may be."""
        level = self._thumbnail_level(max_size)
        size = self.level_dimensions[level]
        small = size[0] * size[1] <= THUMBNAIL_AT_ONCE_PX
        pixels = self._read_fast((0, 0), level, size) if small and self._is_jpeg[level] else None
        if pixels is None:
            return super().thumbnail(max_size)
        image = Image.fromarray(pixels)
        image.thumbnail(max_size, Image.Resampling.LANCZOS)
        return np.array(image)

    def announce_regions(self, level: int, side_px: int, corners: NDArray[np.int64]) -> AnnouncedRegions | None:
        """See `Slide.announce_regions`; for JPEG, where a few of the regions turn out to be OpenSlide's."""
        self._check_request(level, (side_px, side_px))
        decoder = jpeg_decoder()
        if decoder is None or not self._is_jpeg[level] or not len(corners):
            return None
        page = self.level_pages[level]
        if page.tile_size[0] * page.tile_size[1] > _MAX_TILE_PX:
            return None
        tiles = JpegTiles(self.path, page, decoder)
        downsample = self.level_downsamples[level]
        # Their middles: small regions are compared, however large the asked ones are.
        check_px = min(side_px, _MAX_ANNOUNCED_CHECK_PX)
        inset = int((side_px - check_px) // 2 * downsample)
        chosen = corners[np.unique(np.linspace(0, len(corners) - 1, _ANNOUNCED_CHECKS).astype(int))] + inset
        reason = self._reason_against(TileRegions(tiles, downsample, check_px, chosen), level, check_px, chosen)
        if reason is not None:
            logger.info("%s: level %d is read region by region: %s", self.path, level, reason)
            self.notes.append(f"level {level} is read region by region: {reason}")
            return None
        return TileRegions(tiles, downsample, side_px, corners)

    def _reason_against(self, regions: TileRegions, level: int, side_px: int, corners: NDArray[np.int64]) -> str | None:
        """Why regions from tiles may not be used, after comparing each with OpenSlide's, or None."""

        def compare(index: int) -> str | None:
            corner, pixels = (int(corners[index, 0]), int(corners[index, 1])), np.empty((side_px, side_px, 3), np.uint8)
            if not regions.read(index, pixels):
                return None
            try:
                true = OpenSlideSlide.read_region(self, corner, level, (side_px, side_px))
            except UnreadableSlideError:
                return f"the one at {corner} is damaged, which its tiles do not show"
            if np.abs(pixels.astype(np.int16) - true).max() > _BETWEEN_PIXELS_DIFFERENCE:
                return f"its tiles do not give OpenSlide's pixels at {corner}"
            return None

        with ThreadPoolExecutor(len(corners), thread_name_prefix="compare") as pool:
            return next(filter(None, pool.map(compare, range(len(corners)))), None)

    def close(self) -> None:
        """See `Slide.close`. Regions that were announced can still be read."""
        super().close()
        self._cucim = None
        self._tiles = None

    def _read_fast(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage | None:
        """The region by cuCIM, or None where OpenSlide must read it."""
        cucim, tiles = self._cucim, self._tiles
        step = self._whole_step(location, level)
        if step is None or cucim is None or tiles is None:
            return None
        x, y = location[0] // step, location[1] // step
        width_px, height_px = self.level_dimensions[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + size[0], width_px), min(y + size[1], height_px)
        if left >= right or top >= bottom:
            return np.zeros((size[1], size[0], 3), dtype=np.uint8)
        box = (left, top, right, bottom)
        if not tiles.is_sound(level, box):
            return None
        pixels = self._decode(cucim, (left * step, top * step), level, (right - left, bottom - top))
        if pixels is not None and self._is_jpeg[level] and has_filled_block(pixels):
            tiles.doubt(level, box)
            return None
        if pixels is None or pixels.shape[1::-1] == tuple(size):
            return pixels
        region = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        region[top - y : bottom - y, left - x : right - x] = pixels
        return region

    def _decode(self, cucim: Any, location: tuple[int, int], level: int, size: tuple[int, int]) -> RGBImage | None:
        """A region that lies wholly inside the slide, or None where cuCIM fails."""
        try:
            pixels: RGBImage = np.asarray(cucim.read_region(location, size, level))
        except (RuntimeError, ValueError) as error:
            self._record_failure(one_line(error))
            return None
        if pixels.shape != (size[1], size[0], 3) or pixels.dtype != np.uint8:
            self._record_failure(f"an array of {pixels.dtype} {pixels.shape} came back")
            return None
        return pixels

    def _whole_step(self, location: tuple[int, int], level: int) -> int | None:
        """Level-0 pixels per pixel of the level where `location` falls on a whole pixel of it, else None."""
        step = self._steps[level]
        if step is None:
            # 0 is whole at any downsample. Elsewhere two libraries need not round a fractional one alike.
            return 1 if tuple(location) == (0, 0) else None
        return step if location[0] % step == 0 and location[1] % step == 0 else None

    def _record_failure(self, reason: str) -> None:
        with self._lock:
            self._failed_reads += 1
            first = self._failed_reads == 1
        if first:
            logger.info("%s: cuCIM failed on a region (%s); OpenSlide reads such regions", self.path, reason)
            self.notes.append(f"cuCIM failed on at least one region, which OpenSlide read: {reason}")

    def _level_pages(self) -> list[TiledPage]:
        """The TIFF page of each of OpenSlide's levels.

        Raises:
            IneligibleError: cuCIM may not read this file, or its pages are not OpenSlide's levels.
        """
        pages = tiled_pages(self.path)
        vendor = self.properties.get("openslide.vendor", "unknown")
        if vendor not in _VENDORS:
            raise IneligibleError(f"its format ({vendor}) is more than plain tiled pages")
        levels = []
        for size in self.level_dimensions:
            same = [page for page in pages if page.size == size]
            if len(same) != 1:
                raise IneligibleError(f"{len(same)} tiled pages are of {size[0]} x {size[1]} px, a level's size")
            levels.append(same[0])
        absent = sum(int((page.byte_counts == 0).sum()) for page in levels)
        if vendor == "aperio" and absent:
            # OpenSlide then redraws parts of other levels too, from the level above.
            raise IneligibleError(f"{absent} of its tiles are not in the file, and OpenSlide fills them in its own way")
        return levels

    def _open_cucim(self, pages: Sequence[TiledPage]) -> Any:
        try:
            reader = import_cucim().CuImage
        except (ImportError, OSError) as error:
            self.close()
            raise NotAvailableError(
                f"{self.path}: cuCIM does not load here ({one_line(error)}); "
                "install cucim-cu13 or use --reader_type openslide"
            ) from error
        try:
            image = reader(str(self.path))
            resolutions = image.resolutions
        except (RuntimeError, ValueError) as error:
            raise IneligibleError(f"it does not open ({one_line(error)})") from error
        if tuple(resolutions["level_dimensions"]) != self.level_dimensions:
            raise IneligibleError(f"its levels are {resolutions['level_dimensions']}, OpenSlide's are others")
        # A corner is handed on only where both libraries place it on the same whole pixel.
        self._steps = [
            int(ours) if ours == int(ours) == theirs else None
            for ours, theirs in zip(self.level_downsamples, resolutions["level_downsamples"], strict=True)
        ]
        if tuple(resolutions["level_tile_sizes"]) != tuple(page.tile_size for page in pages):
            raise IneligibleError("its tile sizes are not the file's")
        return image

    def _compare_with_openslide(self) -> None:
        """Compare a few patches with OpenSlide's.

        Raises:
            IneligibleError: one differs, one is damaged and cuCIM did not notice, or none of level 0 could be compared.
        """

        def is_compared(level: int, location: tuple[int, int], size: tuple[int, int]) -> bool:
            fast = self._read_fast(location, level, size)
            if fast is None:
                return False
            try:
                true = OpenSlideSlide.read_region(self, location, level, size)
            except UnreadableSlideError as error:
                raise IneligibleError(
                    f"its pixels at {location} of level {level} come back without an error though the file is damaged"
                ) from error
            limit = 0 if self._is_jpeg[level] else _JPEG_2000_DIFFERENCE
            if np.abs(fast.astype(np.int16) - true).max() > limit:
                raise IneligibleError(f"its pixels at {location} of level {level} are not OpenSlide's")
            return level == 0

        with ThreadPoolExecutor(len(_CHECK_SHARES), thread_name_prefix="compare") as pool:
            compared = list(pool.map(is_compared, *zip(*self._check_patches(), strict=True)))
        if not any(compared):
            raise IneligibleError("no patch of level 0 could be compared with OpenSlide's")

    def _check_patches(self) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
        """(level, location, size) of patches over the slide, the last of each level reaching beyond it."""
        for level, (width_px, height_px) in enumerate(self.level_dimensions):
            step = int(self.level_downsamples[level])
            for across, down in _CHECK_SHARES:
                x = int(max(width_px - _CHECK_PX // 2, 0) * across) * step
                y = int(max(height_px - _CHECK_PX // 2, 0) * down) * step
                yield level, (x, y), (_CHECK_PX, _CHECK_PX)
