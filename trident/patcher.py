"""Patches of a slide as a Python sequence, by the geometry that coordinates files are made with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trident.errors import SettingsError
from trident.patching.grid import PatchGeometry, plan_read
from trident.patching.reader import PatchReader

if TYPE_CHECKING:
    from PIL import Image

    from trident.lazy_slide import LazySlide
    from trident.slides.base import RGBImage

_Item = tuple[int, int] | tuple["RGBImage | Image.Image", int, int]


class WSIPatcher:
    """The patches of a slide, in order: `len()`, an index or iteration gives (tile, x, y), or (x, y).

    A tile is uint8 (patch_size, patch_size, 3), RGB, black beyond the slide; x and y are the level-0 pixels of its
    top-left corner. The grid, the choice of patches and their pixels are those of the output contract.
    """

    def __init__(  # noqa: PLR0917 - TRIDENT's order
        self,
        wsi: LazySlide,
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
    ) -> None:
        """Lay the grid; no pixel is read yet.

        Args:
            wsi: the slide.
            patch_size: side of a patch in pixels at the target resolution.
            src_pixel_size: µm/px of level 0; the slide's own by default.
            dst_pixel_size: target µm/px. Without it and without `dst_mag`, patches are cut at level 0.
            src_mag: level-0 magnification; the slide's own by default.
            dst_mag: target magnification.
            overlap: of neighbouring patches, in pixels at the target resolution.
            mask: tissue in level-0 pixels: a shapely geometry, an iterable of them, or of objects with a `geometry`;
                a GeoDataFrame will do. None takes every patch.
            coords_only: give (x, y) and read no pixels.
            custom_coords: corners to use instead of the grid's, whole level-0 pixels, (N, 2); `mask` applies to them.
            threshold: least share of a patch, 0 to 1, that must be in `mask`; 0 keeps what touches it.
            pil: give tiles as PIL images.

        Raises:
            SettingsError: an argument is out of its range, or two contradict each other.
            MissingMppError: the slide's own resolution is needed and not known.
        """
        if not 0.0 <= threshold <= 1.0:
            raise SettingsError(f"threshold is {threshold}; it is a share of a patch, from 0 to 1")
        self.wsi = wsi
        self.name = wsi.name
        self.coords_only = coords_only
        self.pil = pil
        level0, target = _resolutions(wsi, src_pixel_size, dst_pixel_size, src_mag, dst_mag)
        self.geometry = PatchGeometry(
            patch_size_px=patch_size,
            overlap_px=overlap,
            target_magnification=target,
            level0_magnification=level0,
            level0_width_px=wsi.width,
            level0_height_px=wsi.height,
        )
        self.plan = plan_read(self.geometry, wsi.level_downsamples)
        corners = self.geometry.corners() if custom_coords is None else _checked_corners(custom_coords)
        if mask is not None:
            from trident.patching.tissue import select_on_tissue

            kept = select_on_tissue(
                corners,
                self.geometry.side_level0_px,
                _geometries(mask),
                min_proportion=threshold,
                simplify_px=self.geometry.simplify_level0_px,
            )
            corners = corners[kept]
        self.coords: NDArray[np.int64] = corners
        """Corners (x, y) of the patches in level-0 pixels, (N, 2)."""

    @property
    def valid_coords(self) -> NDArray[np.int64]:
        """The same as `coords`."""
        return self.coords

    @property
    def valid_patches_nb(self) -> int:
        """Number of patches, as `len()` gives it."""
        return len(self.coords)

    @property
    def patch_size_src(self) -> int:
        """Side of a patch in level-0 pixels."""
        return self.geometry.side_level0_px

    @property
    def level(self) -> int:
        """Pyramid level that the patches are read from."""
        return self.plan.level

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, index: int) -> _Item:
        """Patch number `index`; negative ones count from the end.

        Raises:
            IndexError: there is no such patch.
            UnreadableSlideError: it does not decode.
        """
        x, y = (int(value) for value in self.coords[index])
        if self.coords_only:
            return x, y
        # The slide is asked for each time: it may have been released since, and is then opened again.
        tile = PatchReader(self.wsi.slide, self.plan).read(x, y)
        if not self.pil:
            return tile, x, y
        from PIL import Image

        return Image.fromarray(tile), x, y

    def __iter__(self) -> Iterator[_Item]:
        for index in range(len(self)):
            yield self[index]


def _resolutions(
    wsi: LazySlide,
    src_pixel_size: float | None,
    dst_pixel_size: float | None,
    src_mag: float | None,
    dst_mag: float | None,
) -> tuple[float, float]:
    """(level-0, target) magnification, or two numbers in the same ratio: nothing else of them is used."""
    given = {"src_pixel_size": src_pixel_size, "dst_pixel_size": dst_pixel_size, "src_mag": src_mag, "dst_mag": dst_mag}
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingsError(f"{name} is {value}; it must be a positive number")
    if (src_pixel_size or dst_pixel_size) and (src_mag or dst_mag):
        raise SettingsError(
            "give pixel sizes (src_pixel_size, dst_pixel_size) or magnifications (src_mag, dst_mag), not both: "
            "they can contradict each other"
        )
    if dst_mag is not None:
        return wsi.mag if src_mag is None else src_mag, dst_mag
    if dst_pixel_size is not None:
        # Magnification falls as µm/px rises, so the two change places.
        return dst_pixel_size, wsi.mpp if src_pixel_size is None else src_pixel_size
    return 1.0, 1.0


def _checked_corners(coords: ArrayLike) -> NDArray[np.int64]:
    values = np.asarray(coords)
    if values.size == 0:
        return np.empty((0, 2), np.int64)
    if values.ndim != 2 or values.shape[1] != 2 or values.dtype.kind not in "iuf":
        raise SettingsError(f"custom_coords are numbers of shape (N, 2), not {values.dtype} of shape {values.shape}")
    with np.errstate(invalid="ignore"):  # NaN becomes some number, which then is not equal
        corners = values.astype(np.int64)
    if not np.array_equal(corners, values):
        raise SettingsError("custom_coords are whole level-0 pixels; round them first")
    return corners


def _geometries(mask: Any) -> list[Any]:
    """The shapely geometries in a mask of any of the accepted kinds."""
    from shapely.geometry.base import BaseGeometry

    shapes = getattr(mask, "geometry", mask)
    members: list[Any]
    if isinstance(shapes, BaseGeometry):
        members = [shapes]
    elif isinstance(shapes, Iterable):
        members = [getattr(member, "geometry", member) for member in shapes]
    else:
        members = [shapes]
    for member in members:
        if not isinstance(member, BaseGeometry):
            raise SettingsError(f"mask holds a {type(member).__name__}; give shapely polygons in level-0 pixels")
    return members
