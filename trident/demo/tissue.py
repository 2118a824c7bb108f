"""What the synthetic slide shows, drawn as two dye concentrations: tissue pieces, fibres, glands, fat and nuclei.

Colour is left to `trident.demo.slide`. Sizes are in µm, so that a slide at another resolution shows the same tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Mask = NDArray[np.uint8]

_COARSE = 4
"""Outlines and fibre directions are smooth: they are computed on every fourth pixel."""
_SUBPIXEL_BITS = 3
"""OpenCV draws outlines with fixed-point coordinates: eighths of a pixel."""


@dataclass(frozen=True)
class _Piece:
    """A tissue fragment; centre and radii are fractions of the slide's width and height."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    kind: str


_PIECES = (
    _Piece((0.21, 0.34), (0.155, 0.24), "glandular"),
    _Piece((0.57, 0.30), (0.165, 0.19), "fatty"),
    _Piece((0.29, 0.80), (0.21, 0.115), "lymphoid"),
    _Piece((0.63, 0.71), (0.10, 0.14), "glandular"),
    _Piece((0.465, 0.60), (0.045, 0.055), "lymphoid"),
)


@dataclass
class DyeMaps:
    """Dye concentrations (0: none, about 1: strongly stained) of the whole slide, float32, shape (height, width)."""

    haematoxylin: Plane
    eosin: Plane
    tissue: Plane
    """Share of each pixel that is tissue: 0 on glass and in holes, 1 inside."""


def noise(rng: np.random.Generator, shape: tuple[int, int], cell_px: float) -> Plane:
    """Smooth noise of about unit variance whose blobs are `cell_px` wide."""
    rows, columns = (max(4, round(side / cell_px) + 3) for side in shape)
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def draw_tissue(rng: np.random.Generator, width_px: int, height_px: int, mpp: float) -> DyeMaps:
    """Dye concentrations of one slide of `width_px` by `height_px` pixels at `mpp` µm/px."""
    return _Drawing(rng, width_px, height_px, mpp).draw()


@dataclass
class _Drawing:
    rng: np.random.Generator
    width_px: int
    height_px: int
    mpp: float
    nuclei: Mask = field(init=False)
    glands: Mask = field(init=False)
    holes: Mask = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.height_px, self.width_px)
        self.nuclei, self.glands, self.holes = (np.zeros(shape, np.uint8) for _ in range(3))

    def px(self, micrometres: float) -> float:
        """Length in level-0 pixels."""
        return micrometres / self.mpp

    def draw(self) -> DyeMaps:
        shape = (self.height_px, self.width_px)
        fields = [self._piece_field(piece) for piece in _PIECES]
        fibres, angle = self._fibres()
        for piece, inside in zip(_PIECES, fields, strict=True):
            if piece.kind == "glandular":
                self._draw_glands(inside)
            elif piece.kind == "fatty":
                self._draw_fat(inside)
            self._draw_stroma_nuclei(inside, angle, dense=piece.kind == "lymphoid")

        outline = cv2.resize(np.max(fields, axis=0), shape[::-1], interpolation=cv2.INTER_LINEAR)
        outline += 0.012 * noise(self.rng, shape, self.px(4))
        tissue = np.clip(outline * 60 + 0.5, 0, 1).astype(np.float32)
        tissue *= 1 - cv2.GaussianBlur(self.holes, (0, 0), 1.2).astype(np.float32) / 255

        patchy = noise(self.rng, shape, self.px(90))
        grain = noise(self.rng, shape, max(1.5, self.px(0.7)))
        gland = cv2.GaussianBlur(self.glands, (0, 0), 1.5).astype(np.float32) / 255
        stroma = 0.50 + 0.17 * fibres + 0.07 * patchy + 0.04 * grain
        epithelium = 0.44 + 0.05 * patchy + 0.08 * grain
        eosin = np.clip(stroma * (1 - gland) + epithelium * gland, 0.06, 1.3)
        nuclei = cv2.GaussianBlur(self.nuclei, (0, 0), max(0.6, self.px(0.25))).astype(np.float32) / 255
        chromatin = np.clip(1 + 0.22 * noise(self.rng, shape, max(2.0, self.px(0.9))), 0.4, 1.6)
        haematoxylin = 0.10 + 0.03 * patchy + 0.30 * gland + 1.7 * nuclei * chromatin
        return DyeMaps(np.clip(haematoxylin, 0, None) * tissue, eosin * tissue, tissue)

    def _piece_field(self, piece: _Piece) -> Plane:
        """Positive inside the piece, 0 on its outline, falling outward; on the coarse grid."""
        rows, columns = (max(8, side // _COARSE) for side in (self.height_px, self.width_px))
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        jitter = self.rng.uniform(-0.01, 0.01, 2)
        dx = ((x + 0.5) / columns - piece.centre[0] - jitter[0]) / piece.radii[0]
        dy = ((y + 0.5) / rows - piece.centre[1] - jitter[1]) / piece.radii[1]
        angle = np.arctan2(dy, dx)
        radius = np.ones_like(angle)
        for harmonic in range(2, 8):
            phase = self.rng.uniform(0, 2 * np.pi)
            radius += self.rng.uniform(0.3, 1) * 0.12 / harmonic * np.cos(harmonic * angle + phase)
        ragged = 0.03 * noise(self.rng, (rows, columns), columns / 60) + 0.015 * noise(self.rng, (rows, columns), 12)
        return np.asarray(radius - np.hypot(dx, dy) + ragged, dtype=np.float32)

    def _fibres(self) -> tuple[Plane, Plane]:
        """Wavy collagen: stretched noise seen through a smooth warp, and the fibres' angle on the coarse grid."""
        shape = (self.height_px, self.width_px)
        coarse = (max(8, self.height_px // _COARSE), max(8, self.width_px // _COARSE))
        cell = self.px(220) / _COARSE
        y, x = np.mgrid[0 : coarse[0], 0 : coarse[1]].astype(np.float32)
        across = y + 0.55 * cell * noise(self.rng, coarse, cell) + 0.08 * cell * noise(self.rng, coarse, cell / 3)
        along = x + 0.5 * cell * noise(self.rng, coarse, cell)
        down_y, down_x = np.gradient(across)
        angle = np.arctan2(-down_x, down_y).astype(np.float32)

        thread_px = self.px(3.2)
        rows, columns = (int(side / step) + 3 for side, step in zip(shape, (thread_px, 14 * thread_px), strict=True))
        threads = self.rng.standard_normal((rows, columns), dtype=np.float32)
        to_row, to_column = _COARSE / thread_px, _COARSE / (14 * thread_px)
        map_x = cv2.resize(along * to_column, shape[::-1], interpolation=cv2.INTER_LINEAR)
        map_y = cv2.resize(across * to_row, shape[::-1], interpolation=cv2.INTER_LINEAR)
        fibres = cv2.remap(threads, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(fibres, dtype=np.float32), angle

    def _scatter(self, inside: Plane, spacing_um: float, margin: float) -> NDArray[np.float64]:
        """Centres (x, y) in level-0 px at least `spacing_um` apart where the piece's field exceeds `margin`."""
        rows, columns = np.nonzero(inside > margin)
        if rows.size == 0:
            return np.empty((0, 2))
        spacing_px = self.px(spacing_um)
        tries = min(rows.size, 12 * int(rows.size * _COARSE**2 / spacing_px**2) + 4)
        chosen = self.rng.choice(rows.size, tries, replace=False)
        kept: dict[tuple[int, int], NDArray[np.float64]] = {}
        for column, row in zip(columns[chosen], rows[chosen], strict=True):
            point = (np.array([column, row], dtype=np.float64) + 0.5) * _COARSE
            bin_x, bin_y = (int(side // spacing_px) for side in point)
            near = (kept.get((bin_x + i, bin_y + j)) for i in (-1, 0, 1) for j in (-1, 0, 1))
            if all(other is None or np.hypot(*(other - point)) >= spacing_px for other in near):
                kept[bin_x, bin_y] = point
        return np.array(list(kept.values()))

    def _blob(self, centre: NDArray[np.float64], radius_px: float, wobble: float) -> NDArray[np.float64]:
        """Outline (n, 2) of a rounded shape, in level-0 px."""
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = np.ones_like(angle)
        for harmonic in (2, 3, 4, 5):
            radius += wobble / harmonic * np.cos(harmonic * angle + self.rng.uniform(0, 2 * np.pi))
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.asarray(centre + radius_px * radius[:, None] * circle, dtype=np.float64)

    def _fill(self, plane: Mask, outline: NDArray[np.float64], value: int) -> None:
        points = np.round(outline * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(plane, [points], value, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)

    def _draw_glands(self, inside: Plane) -> None:
        """Ducts: a white lumen, a ring of cells with nuclei at the outside, a pale cleft around."""
        for centre in self._scatter(inside, spacing_um=62, margin=0.17):
            radius_px = self.px(self.rng.uniform(21, 30))
            outline = self._blob(centre, radius_px, wobble=0.35)
            self._fill(self.glands, outline, 255)
            self._fill(self.holes, centre + (outline - centre) * self.rng.uniform(0.22, 0.45), 255)
            points = np.round(outline * 2**_SUBPIXEL_BITS).astype(np.int32)
            cv2.polylines(self.holes, [points], True, 120, max(1, round(self.px(0.8))), cv2.LINE_AA, _SUBPIXEL_BITS)
            for depth, spacing_um in ((0.82, 5.8), (0.62, 17.0)):
                ring = centre + (outline - centre) * depth
                steps = np.linalg.norm(np.diff(ring, axis=0, append=ring[:1]), axis=1)
                places = np.arange(self.rng.uniform(0, 4), steps.sum(), self.px(spacing_um))
                distance = np.concatenate([[0], np.cumsum(steps)])
                closed = np.concatenate([ring, ring[:1]])
                xs, ys = (np.interp(places, distance, closed[:, axis]) for axis in (0, 1))
                for x, y in zip(xs, ys, strict=True):
                    outward = np.arctan2(y - centre[1], x - centre[0])
                    self._nucleus((x, y), (4.3, 2.5), outward + self.rng.normal(0, 0.15))

    def _draw_fat(self, inside: Plane) -> None:
        """A corner of adipose tissue: white cells separated by thin membranes."""
        tilt = self.rng.uniform(0, 2 * np.pi)
        rows, columns = inside.shape
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        weight = np.clip(inside, 0, None)
        middle_y, middle_x = (float((weight * axis).sum() / max(float(weight.sum()), 1e-6)) for axis in (y, x))
        side = (x - middle_x) * np.cos(tilt) + (y - middle_y) * np.sin(tilt)
        corner = np.where(side > 0.03 * columns, inside, -1).astype(np.float32)
        for centre in self._scatter(corner, spacing_um=44, margin=0.1):
            self._fill(self.holes, self._blob(centre, self.px(self.rng.uniform(19, 22)), wobble=0.12), 255)

    def _draw_stroma_nuclei(self, inside: Plane, angle: Plane, *, dense: bool) -> None:
        """Spindle nuclei along the fibres; in a dense piece, small round lymphocytes in drifts as well."""
        for centre in self._scatter(inside, spacing_um=11, margin=0.02):
            if self._is_free(centre):
                row, column = (
                    min(int(side / _COARSE), last - 1) for side, last in zip(centre[::-1], angle.shape, strict=True)
                )
                turn = float(angle[row, column]) + self.rng.normal(0, 0.25)
                self._nucleus(centre, (self.rng.uniform(3.6, 6), self.rng.uniform(1.3, 2.2)), turn)
        drift = noise(self.rng, (inside.shape[0], inside.shape[1]), self.px(130) / _COARSE)
        crowd = np.where(drift > (0.2 if dense else 1.3), inside, -1).astype(np.float32)
        for centre in self._scatter(crowd, spacing_um=7.6, margin=0.04):
            if self._is_free(centre):
                radius = self.rng.uniform(2.6, 3.4)
                self._nucleus(centre, (radius, radius * self.rng.uniform(0.85, 1)), self.rng.uniform(0, np.pi))

    def _is_free(self, centre: NDArray[np.float64]) -> bool:
        column, row = min(int(centre[0]), self.width_px - 1), min(int(centre[1]), self.height_px - 1)
        return not (self.glands[row, column] or self.holes[row, column])

    def _nucleus(
        self, centre: tuple[float, float] | NDArray[np.float64], radii_um: tuple[float, float], turn: float
    ) -> None:
        """An ellipse with a darker rim; `turn` in radians."""
        scale = 2**_SUBPIXEL_BITS
        at = (round(centre[0] * scale), round(centre[1] * scale))
        axes = (max(1, round(self.px(radii_um[0]) * scale)), max(1, round(self.px(radii_um[1]) * scale)))
        depth = int(self.rng.integers(135, 215))
        shape = (self.nuclei, at, axes, float(np.degrees(turn)), 0, 360)
        cv2.ellipse(*shape, depth, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        rim_px = round(self.px(0.5))
        if rim_px:
            cv2.ellipse(*shape, min(255, depth + 40), rim_px, cv2.LINE_AA, _SUBPIXEL_BITS)
