"""A slide that is opened when something of it is first needed: its metadata, its pixels, its patches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from trident.errors import SettingsError, StageNotRequestedError
from trident.slides.discovery import SlideSource
from trident.slides.folders import source_bytes
from trident.slides.registry import READER_TYPES, open_slide, slide_extension, slide_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike
    from PIL import Image
    from shapely.geometry import Polygon

    from trident.patcher import WSIPatcher
    from trident.slides.base import RGBImage, Slide

PathLike = str | os.PathLike[str]
_Self = TypeVar("_Self", bound="LazySlide")


class LazySlide:
    """A whole-slide image. It is opened when something of it is first needed, and again after `release()`."""

    fixed_reader: ClassVar[str | None] = None
    """Reader of a subclass that has one."""

    def __init__(  # noqa: PLR0917 - TRIDENT's order
        self,
        slide_path: PathLike,
        name: str | None = None,
        tissue_seg_path: PathLike | None = None,
        custom_mpp_keys: Sequence[str] | None = None,
        lazy_init: bool = True,
        mpp: float | None = None,
        max_workers: int | None = None,
        reader_type: str | None = None,
    ) -> None:
        """Args:
            slide_path: the slide file.
            name: names the outputs, with or without the file's extension; the file name by default.
            tissue_seg_path: GeoJSON with tissue outlines in level-0 pixels, where there is one already.
            custom_mpp_keys: further metadata keys that may hold µm/px.
            lazy_init: False opens the slide now.
            mpp: µm/px of level 0, where the file's own is missing or wrong.
            max_workers: reading threads; None for one a processor, 0 to read in the calling thread.
            reader_type: one of `trident.slides.registry.READER_TYPES`; None chooses by the file.

        Raises:
            SettingsError: an unknown reader, another one than this class stands for, or a name that is none.
            TridentError: with `lazy_init=False`, whatever `slide` raises.
        """
        self.slide_path = os.fspath(slide_path)
        self.reader_type = self._checked_reader(reader_type)
        self.ext = slide_extension(self.slide_path)
        own_name = slide_name(self.slide_path, is_folder=Path(self.slide_path).is_dir())
        self.name = own_name if name is None else _checked_name(name, self.ext)
        self.rel_path = Path(self.slide_path).name
        """Path relative to the folder of slides, for the state file; the file name where there is no such folder."""
        self.tissue_seg_path = None if tissue_seg_path is None else os.fspath(tissue_seg_path)
        """GeoJSON with the tissue outlines; None before the tissue was looked for."""
        self.custom_mpp_keys = tuple(custom_mpp_keys or ())
        self.max_workers = max_workers
        self.given_mpp = mpp
        self._tissue: list[Polygon] | None = None
        self._slide: Slide | None = None
        if not lazy_init:
            self._slide = self.slide

    def _checked_reader(self, reader_type: str | None) -> str | None:
        if reader_type is not None and reader_type not in READER_TYPES:
            raise SettingsError(f"unknown reader type {reader_type!r}; choose one of {', '.join(READER_TYPES)}")
        if self.fixed_reader is not None and reader_type not in (None, self.fixed_reader):
            raise SettingsError(
                f"{type(self).__name__} reads with {self.fixed_reader}, not {reader_type}; use load_wsi for another"
            )
        return self.fixed_reader or reader_type

    # The file.

    @property
    def slide(self) -> Slide:
        """The opened slide.

        Raises:
            UnreadableSlideError: the file does not open as a slide, or not with the reader that was asked for.
            NotAvailableError: this version or this installation does not have the reader.
            MissingMppError: the `mpp` that was given is not a positive number.
        """
        if self._slide is None:
            self._slide = open_slide(
                self.slide_path,
                reader_type=self.reader_type,
                mpp=self.given_mpp,
                custom_mpp_keys=self.custom_mpp_keys,
                name=self.name,
            )
        return self._slide

    @property
    def source(self) -> SlideSource:
        """The slide as the stages of the pipeline know it."""
        path = Path(os.path.abspath(self.slide_path))  # noqa: PTH100 - Path.resolve() would follow links
        try:
            size_bytes = source_bytes(path, path.stat())
        except OSError:
            size_bytes = 0  # opening it says what is wrong
        return SlideSource(path, self.rel_path, self.name, self.given_mpp, size_bytes)

    def release(self) -> None:
        """Close the file. Whatever needs it next opens it again."""
        slide, self._slide = self._slide, None
        if slide is not None:
            slide.close()

    def close(self) -> None:
        """The same as `release()`."""
        self.release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.slide_path}>"

    # Facts.

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.slide.dimensions

    @property
    def width(self) -> int:
        """Level-0 pixels."""
        return self.dimensions[0]

    @property
    def height(self) -> int:
        """Level-0 pixels."""
        return self.dimensions[1]

    @property
    def mpp(self) -> float:
        """µm/px of level 0.

        Raises:
            MissingMppError: it is not in the metadata and was not given.
        """
        return self.slide.mpp

    @property
    def mag(self) -> int:
        """Level-0 magnification, from µm/px: 80, 60, 40, 20, 10 or 5.

        Raises:
            MissingMppError: µm/px unknown, or coarser than 5x.
        """
        return self.slide.magnification

    @property
    def level_count(self) -> int:
        """Number of pyramid levels."""
        return len(self.slide.level_dimensions)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level."""
        return self.slide.level_downsamples

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level in its own pixels."""
        return self.slide.level_dimensions

    @property
    def properties(self) -> Mapping[str, str]:
        """The file's metadata as the reader gives it."""
        return self.slide.properties

    @property
    def tissue(self) -> list[Polygon]:
        """Tissue outlines in level-0 pixels: the last segmentation's, else those of `tissue_seg_path`.

        Raises:
            StageNotRequestedError: the tissue has not been looked for.
            StoreError: the file is missing or damaged.
        """
        if self._tissue is not None:
            return self._tissue
        from trident.store import geojson

        return geojson.read_tissue(self.tissue_file())

    def tissue_file(self) -> Path:
        """The file of `tissue_seg_path`.

        Raises:
            StageNotRequestedError: there is none yet.
        """
        if self.tissue_seg_path is None:
            raise StageNotRequestedError(
                f"{self.slide_path}: there is no file of its tissue yet; call segment_tissue(model, job_dir=...), "
                "or give tissue_seg_path"
            )
        return Path(self.tissue_seg_path)

    def get_dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.dimensions

    def get_best_level_and_custom_downsample(self, downsample: float, tolerance: float = 0.01) -> tuple[int, float]:
        """The level to read for a wanted downsample, and the factor by which what is read must still be shrunk.

        Args:
            downsample: level-0 pixels per wanted pixel.
            tolerance: a level that is this close is taken as it is, with the factor 1.

        Returns:
            The coarsest level that is not coarser than wanted, else level 0, which must then be enlarged (factor < 1).

        Raises:
            SettingsError: `downsample` is not positive.
        """
        if not downsample > 0:
            raise SettingsError(f"downsample is {downsample}; it must be a positive number")
        downsamples = self.level_downsamples
        for level, candidate in enumerate(downsamples):
            if abs(candidate - downsample) <= tolerance:
                return level, 1.0
        finer = [level for level, candidate in enumerate(downsamples) if candidate <= downsample]
        best = max(finer, key=lambda level: downsamples[level], default=0)
        return best, downsample / downsamples[best]

    # Pixels.

    def read_region(
        self,
        location: tuple[int, int],
        level: int,
        size: tuple[int, int],
        read_as: Literal["pil", "numpy"] = "pil",
    ) -> Image.Image | RGBImage:
        """Pixels of one region: RGB, black beyond the slide.

        Args:
            location: (x, y) of the top-left corner in level-0 pixels.
            level: pyramid level.
            size: (width, height) in pixels of that level.
            read_as: `pil` for a PIL image, `numpy` for uint8 (height, width, 3).

        Raises:
            UnreadableSlideError: the region does not decode.
            SettingsError: no such level, an empty size, or another `read_as`.
        """
        if read_as not in ("pil", "numpy"):
            raise SettingsError(f"read_as is {read_as!r}; choose pil or numpy")
        if not 0 <= level < self.level_count:
            raise SettingsError(f"{self.slide_path}: no level {level}; its levels are 0 to {self.level_count - 1}")
        if min(size) < 1:
            raise SettingsError(f"a region of {size[0]} x {size[1]} px has no pixels")
        region = self.slide.read_region((int(location[0]), int(location[1])), level, (int(size[0]), int(size[1])))
        return region if read_as == "numpy" else _as_pil(region)

    def get_thumbnail(self, size: tuple[int, int]) -> Image.Image:
        """The whole slide as a PIL image that fits into `size` (width, height), its aspect kept.

        Raises:
            SettingsError: an empty size.
        """
        if min(size) < 1:
            raise SettingsError(f"a thumbnail of {size[0]} x {size[1]} px has no pixels")
        return _as_pil(self.slide.thumbnail((int(size[0]), int(size[1]))))

    def create_patcher(  # noqa: PLR0917 - TRIDENT's order
        self,
        patch_size: int,
        src_pixel_size: float | None = None,
        dst_pixel_size: float | None = None,
        src_mag: float | None = None,
        dst_mag: float | None = None,
        overlap: int = 0,
        mask: Any = None,
        coords_only: bool = False,
        custom_coords: ArrayLike | None = None,
        threshold: float = 0.15,
        pil: bool = False,
    ) -> WSIPatcher:
        """The slide's patches as a sequence; arguments and errors as in `trident.patcher.WSIPatcher`."""
        from trident.patcher import WSIPatcher

        return WSIPatcher(
            self,
            patch_size,
            src_pixel_size,
            dst_pixel_size,
            src_mag,
            dst_mag,
            overlap,
            mask,
            coords_only,
            custom_coords,
            threshold,
            pil,
        )


def _as_pil(pixels: RGBImage) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)


def _checked_name(name: str, extension: str) -> str:
    """A slide name; scripts written for TRIDENT give it with the file's extension."""
    bare = slide_name(name) if slide_extension(name).lower() == extension.lower() else name
    if not bare or bare in (".", "..") or "/" in bare or "\0" in bare:
        raise SettingsError(f"the slide name {name!r} cannot name a file; leave it out to use the slide's file name")
    return bare
