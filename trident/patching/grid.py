"""Arithmetic of a patch grid: where patches lie and how their pixels are read. No slide is opened here.

Three lengths must not be confused. A patch is `patch_size_px` wide at the target scale; the same square covers
`side_level0_px` level-0 pixels; and it is read as `ReadPlan.read_px` pixels of one pyramid level, then resized.

The target scale is a magnification, to which level 0 is related by its own (rounded) magnification, or µm/px, to which
it is related by its true µm/px; see `PatchGeometry.at_mpp`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trident.errors import SettingsError

LEVEL_TOLERANCE = 0.1
"""A level whose downsample is this close to the wanted one is read as it is."""

MAX_CANDIDATES = 50_000_000
"""Most patches of one grid: their coordinates take 16 bytes each in memory."""


@dataclass(frozen=True)
class PatchGeometry:
    """A regular grid of square patches over one slide.

    Raises:
        SettingsError: a value is out of its range, or the overlap leaves no step between two patches.
    """

    patch_size_px: int
    """Side of a patch at the target scale."""
    overlap_px: int
    """Overlap of neighbours at the target scale."""
    target_magnification: float
    level0_magnification: float
    level0_width_px: int
    level0_height_px: int
    target_mpp: float | None = None
    """Target µm/px, where the grid is laid by µm/px (`at_mpp`); the two magnifications then shape nothing."""
    level0_mpp: float | None = None
    """True µm/px of level 0; given together with `target_mpp`."""

    @classmethod
    def at_mpp(
        cls,
        *,
        patch_size_px: int,
        overlap_px: int,
        target_mpp: float,
        level0_mpp: float,
        level0_magnification: float,
        level0_width_px: int,
        level0_height_px: int,
    ) -> PatchGeometry:
        """A grid by true resolution: a pixel of a patch is `target_mpp` µm wide, but for rounding to level-0 pixels.

        The target magnification becomes the one that stands in the same ratio to `level0_magnification` as `target_mpp`
        to `level0_mpp`: a reader that knows the magnifications alone then finds the same patches.

        Args:
            patch_size_px: side of a patch in pixels of `target_mpp`.
            overlap_px: overlap of neighbours in pixels of `target_mpp`.
            target_mpp: µm/px of the patches.
            level0_mpp: true µm/px of level 0.
            level0_magnification: of the output contract's table; recorded only.
            level0_width_px: width of level 0.
            level0_height_px: height of level 0.

        Raises:
            SettingsError: as for the class, or one of the µm/px is not a positive number.
        """
        for label, mpp in (("target", target_mpp), ("level-0", level0_mpp)):
            if not (math.isfinite(mpp) and mpp > 0):
                raise SettingsError(
                    f"the {label} resolution is {mpp} µm/px; give a positive number, e.g. --target_mpp 0.5"
                )
        return cls(
            patch_size_px=patch_size_px,
            overlap_px=overlap_px,
            target_magnification=level0_magnification * level0_mpp / target_mpp,
            level0_magnification=level0_magnification,
            level0_width_px=level0_width_px,
            level0_height_px=level0_height_px,
            target_mpp=target_mpp,
            level0_mpp=level0_mpp,
        )

    def __post_init__(self) -> None:
        if (self.target_mpp is None) != (self.level0_mpp is None):
            raise SettingsError(
                f"a grid by µm/px needs both the target's ({self.target_mpp}) and level 0's ({self.level0_mpp})"
            )
        for label, magnification in (
            ("target magnification", self.target_magnification),
            ("level-0 magnification", self.level0_magnification),
        ):
            if not (math.isfinite(magnification) and magnification > 0):
                raise SettingsError(f"the {label} is {magnification}; give a positive number, e.g. --mag 20")
        if self.patch_size_px < 1:
            raise SettingsError(f"the patch size is {self.patch_size_px} px; --patch_size must be at least 1")
        if not 0 <= self.overlap_px < self.patch_size_px:
            raise SettingsError(
                f"the overlap is {self.overlap_px} px; --overlap must be at least 0 and less than the patch size "
                f"({self.patch_size_px} px)"
            )
        if self.level0_width_px < 1 or self.level0_height_px < 1:
            raise SettingsError(f"the slide is {self.level0_width_px} x {self.level0_height_px} px: it has no pixels")
        if self.step_level0_px < 1:
            raise SettingsError(
                f"patches of {self.patch_size_px} px with {self.overlap_px} px overlap at {self._scales[0]} would "
                f"advance by less than one pixel of a slide scanned at {self._scales[1]}; choose a larger "
                f"--patch_size, a smaller --overlap or {self._coarser}"
            )

    @property
    def downsample(self) -> float:
        """Level-0 pixels per pixel at the target scale; below 1 where the slide must be enlarged."""
        if self.target_mpp is not None and self.level0_mpp is not None:
            return self.target_mpp / self.level0_mpp
        return self.level0_magnification / self.target_magnification

    @property
    def patch_size_level0(self) -> int:
        """Level-0 side of a patch as the coordinates file states it: rounded down, by µm/px to the nearest pixel."""
        if self.target_mpp is not None:
            return self.side_level0_px
        return int(self.patch_size_px * self.level0_magnification // self.target_magnification)

    @property
    def side_level0_px(self) -> int:
        """Level-0 side of the square that is tested against the tissue (rounded to the nearest pixel)."""
        return round(self.patch_size_px * self.downsample)

    @property
    def step_level0_px(self) -> int:
        """Level-0 pixels from one patch's corner to the next one's."""
        return self.side_level0_px - round(self.overlap_px * self.downsample)

    @property
    def simplify_level0_px(self) -> float:
        """Tolerance in level-0 pixels with which the tissue outline is simplified before patches are selected."""
        return self.patch_size_px / 4

    def corners(self) -> NDArray[np.int64]:
        """Top-left corners (x, y) of all candidate patches, int64 (N, 2), row by row.

        Every corner lies inside the slide; patches at the right and bottom edges may reach beyond it.

        Raises:
            SettingsError: the grid is so fine that it has over `MAX_CANDIDATES` patches.
        """
        n_candidates = math.ceil(self.level0_width_px / self.step_level0_px) * math.ceil(
            self.level0_height_px / self.step_level0_px
        )
        if n_candidates > MAX_CANDIDATES:
            raise SettingsError(
                f"a step of {self.step_level0_px} level-0 px makes {n_candidates:,} candidate patches on a slide of "
                f"{self.level0_width_px} x {self.level0_height_px} px, over the limit of {MAX_CANDIDATES:,}; choose a "
                f"larger --patch_size, a smaller --overlap or {self._coarser}"
            )
        xs = np.arange(0, self.level0_width_px, self.step_level0_px, dtype=np.int64)
        ys = np.arange(0, self.level0_height_px, self.step_level0_px, dtype=np.int64)
        corners = np.empty((ys.size, xs.size, 2), dtype=np.int64)
        corners[..., 0] = xs
        corners[..., 1] = ys[:, np.newaxis]
        return corners.reshape(-1, 2)

    def attributes(self, name: str, savetodir: str) -> dict[str, int | float | str]:
        """Attributes of the `coords` dataset in the coordinates file; whole numbers as int, except µm/px.

        Args:
            name: slide name.
            savetodir: the grid directory.
        """
        return {
            "patch_size": self.patch_size_px,
            "patch_size_level0": self.patch_size_level0,
            "level0_magnification": int_where_whole(self.level0_magnification),
            "target_magnification": int_where_whole(self.target_magnification),
            "overlap": self.overlap_px,
            "name": name,
            "savetodir": savetodir,
            "level0_width": self.level0_width_px,
            "level0_height": self.level0_height_px,
            **self._mpp_attributes(),
        }

    def _mpp_attributes(self) -> dict[str, float]:
        if self.target_mpp is None or self.level0_mpp is None:
            return {}
        return {"target_mpp": float(self.target_mpp), "level0_mpp": float(self.level0_mpp)}

    @property
    def _scales(self) -> tuple[str, str]:
        """The target scale and level 0's, for messages."""
        if self.target_mpp is None:
            return f"{self.target_magnification:g}x", f"{self.level0_magnification:g}x"
        return f"{self.target_mpp:g} µm/px", f"{self.level0_mpp:g} µm/px"

    @property
    def _coarser(self) -> str:
        return "a lower --mag" if self.target_mpp is None else "a larger --target_mpp"


@dataclass(frozen=True)
class ReadPlan:
    """How the pixels of a patch are read: a square of `read_px` pixels of `level`, resized to `patch_size_px`."""

    level: int
    read_px: int
    patch_size_px: int


def plan_read(geometry: PatchGeometry, level_downsamples: Sequence[float]) -> ReadPlan:
    """Choose the pyramid level and the size of the square to read for the patches of a grid."""
    return plan_read_at(geometry.patch_size_px, geometry.downsample, level_downsamples)


def plan_read_at(patch_size_px: int, downsample: float, level_downsamples: Sequence[float]) -> ReadPlan:
    """`plan_read` for a patch of `patch_size_px` whose every pixel stands for `downsample` level-0 pixels."""
    level = best_level(downsample, level_downsamples)
    level_downsample = max(1, int(level_downsamples[level]))
    read_px = max(1, round(round(patch_size_px * downsample) / level_downsample))
    return ReadPlan(level, read_px, patch_size_px)


def best_level(downsample: float, level_downsamples: Sequence[float]) -> int:
    """The first level within `LEVEL_TOLERANCE` of `downsample`, else the coarsest one that is still finer.

    Level 0 where `downsample` is below 1, since no level is finer.
    """
    for level, candidate in enumerate(level_downsamples):
        if abs(candidate - downsample) <= LEVEL_TOLERANCE:
            return level
    finer = [level for level, candidate in enumerate(level_downsamples) if candidate <= downsample]
    return max(finer, key=lambda level: level_downsamples[level], default=0)


def int_where_whole(number: float) -> int | float:
    """20.0 -> 20, 2.5 -> 2.5."""
    return int(number) if float(number).is_integer() else float(number)
