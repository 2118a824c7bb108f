"""Scores of patches, such as a slide encoder's attention, as colours over the slide."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from trident.errors import SettingsError
from trident.slides.base import RGBImage
from trident.slides.thumbnail import fitted_size, shrink_in_bands
from trident.store.atomic import atomic_path
from trident.viz.colormaps import color_table

logger = logging.getLogger(__name__)

MAX_SIDE_PX = 8_000
"""A picture with a longer side is shrunk to it."""
TOP_PATCHES_DIR = "topk_patches"

_OPACITY = 0.4
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_WITH_ALPHA = {"PNG", "TIFF"}

ColorMap = str | Callable[[NDArray[np.float64]], ArrayLike]


class Pyramid(Protocol):
    """What is needed of a slide: `trident.WSI` has it, and so has every reader."""

    @property
    def level_dimensions(self) -> Sequence[tuple[int, int]]:
        """(width, height) of each level in its own pixels."""

    @property
    def level_downsamples(self) -> Sequence[float]:
        """Level-0 pixels per pixel of each level."""

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        """RGB pixels, as a PIL image or an array (height, width, 3)."""


def visualize_heatmap(  # noqa: PLR0917 - the order that users of TRIDENT know
    wsi: Pyramid,
    scores: ArrayLike,
    coords: ArrayLike,
    patch_size_level0: float,
    vis_level: int = 2,
    cmap: ColorMap = "coolwarm",
    normalize: bool = True,
    num_top_patches_to_save: int = -1,
    output_dir: str | os.PathLike[str] = "output",
    vis_mag: float | None = None,
    overlay_only: bool = False,
    filename: str = "heatmap.png",
) -> str:
    """Write a picture of the slide in which each patch is tinted by its score; where patches overlap, by their mean.

    Args:
        wsi: the slide.
        scores: one a patch, N; of several dimensions only one may be longer than 1. A tensor may be given.
        coords: (N, 2), level-0 pixels of the patches' top-left corners, in the order of the scores.
        patch_size_level0: side of a patch in level-0 pixels.
        vis_level: pyramid level whose size the picture has; the last one where there are fewer.
        cmap: one of `trident.viz.colormaps.COLORMAP_NAMES` (with `_r`: reversed), or a function from values in
            [0, 1], (...), to RGB or RGBA in [0, 1], (..., 3 or 4), as matplotlib's colour maps are.
        normalize: colour by rank, the share of patches that score no higher; else scores are taken as they are, and
            what lies outside [0, 1] gets the colour at that end.
        num_top_patches_to_save: also write the patches that score highest, as PNG, so many.
        output_dir: folder of the picture, made where it is missing; the top patches go into `topk_patches` in it.
        vis_mag: magnification of the picture, instead of `vis_level`.
        overlay_only: leave the slide out: colours on nothing (PNG, TIFF) or on white (JPEG).
        filename: name of the picture; its ending chooses the format.

    Returns:
        The picture's path.

    Raises:
        SettingsError: scores, coordinates or an option cannot be used.
        UnreadableSlideError: a region does not decode.
        StoreError: a file cannot be written.
    """
    values, corners = _checked(scores, coords, patch_size_level0)
    target = Path(output_dir) / filename
    image_format = _FORMATS.get(target.suffix.lower())
    if image_format is None or Path(filename).name != filename:
        raise SettingsError(f"filename {filename!r} is not a file name that ends in {', '.join(_FORMATS)}")
    paint = _painter(cmap)
    size = _picture_size(wsi, vis_level, vis_mag)

    shares = _ranks(values) if normalize else values
    means, covered = mean_over_patches(shares, corners, patch_size_level0, size, wsi.level_dimensions[0])
    colours = paint(means)
    if overlay_only:
        picture = _overlay(colours, covered, with_alpha=image_format in _WITH_ALPHA)
    else:
        slide = _read_whole(wsi, size)
        blended = cv2.addWeighted(slide, 1 - _OPACITY, colours, _OPACITY, 0)
        picture = Image.fromarray(np.where(covered[..., np.newaxis], blended, slide))
    with atomic_path(target) as temporary:
        picture.save(temporary, format=image_format)
    if num_top_patches_to_save > 0:
        top = np.argsort(-values, kind="stable")[:num_top_patches_to_save]  # equal ones in the order given
        _save_patches(wsi, values[top], corners[top], round(patch_size_level0), target.parent / TOP_PATCHES_DIR)
    return str(target)


def _checked(
    scores: ArrayLike, coords: ArrayLike, patch_size_level0: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    given, places = _as_array(scores), _as_array(coords)
    one_axis = not given.size or max(given.shape, default=1) == given.size
    pairs = not places.size or (places.ndim >= 2 and places.shape[-1] == 2)
    if not one_axis or not pairs or places.size != 2 * given.size:
        raise SettingsError(
            f"scores of shape {given.shape} and coordinates of shape {places.shape} do not belong together; give one "
            "score a patch, (N,), and coordinates (N, 2)"
        )
    corners = places.reshape(-1, 2)
    wrong = int((~np.isfinite(given)).sum() + (~np.isfinite(corners)).sum())
    if wrong:
        raise SettingsError(f"{wrong} of the scores and coordinates are NaN or infinite; leave those patches out")
    if not (math.isfinite(patch_size_level0) and patch_size_level0 > 0):
        raise SettingsError(f"patch_size_level0 {patch_size_level0!r} is not a positive number of pixels")
    return given.reshape(-1), corners


def _as_array(values: Any) -> NDArray[np.float64]:
    if hasattr(values, "detach"):  # a tensor, which may be on a GPU, and which may require gradients
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # numpy knows no bfloat16
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"scores and coordinates must be arrays of numbers ({error})") from error


def _painter(cmap: ColorMap) -> Callable[[NDArray[np.float32]], RGBImage]:
    """A function from values (H, W) to colours uint8 (H, W, 3); values outside [0, 1] get the colour at that end."""
    if callable(cmap):
        table = (np.asarray(cmap(np.linspace(0, 1, 256)), dtype=np.float64)[:, :3].clip(0, 1) * 255).round()
        colours = table.astype(np.uint8)
    else:
        colours = color_table(cmap)
    return lambda values: colours[(values.clip(0, 1) * 255).round().astype(np.uint8)]


def _picture_size(wsi: Pyramid, vis_level: int, vis_mag: float | None) -> tuple[int, int]:
    """(width, height) of the picture."""
    if vis_mag is not None:
        magnification = getattr(wsi, "mag", None) or getattr(wsi, "magnification", None)
        if not vis_mag > 0 or magnification is None:
            raise SettingsError(f"vis_mag {vis_mag!r} cannot be used with a slide of magnification {magnification!r}")
        width_px, height_px = wsi.level_dimensions[0]
        shrink = max(1.0, float(magnification) / vis_mag)
        wanted = max(1, round(width_px / shrink)), max(1, round(height_px / shrink))
    else:
        if vis_level < 0:
            raise SettingsError(f"vis_level {vis_level} is no pyramid level; give 0 or more")
        wanted = wsi.level_dimensions[min(vis_level, len(wsi.level_dimensions) - 1)]
    size = fitted_size(wanted, (MAX_SIDE_PX, MAX_SIDE_PX))
    if size != tuple(wanted):
        logger.warning("the heatmap is %d x %d px instead of %d x %d px", *size, *wanted)
    return size


def _read_whole(wsi: Pyramid, size: tuple[int, int]) -> RGBImage:
    """The whole slide at `size` (width, height), from the smallest level that is large enough."""
    enough = [level for level, (width_px, _) in enumerate(wsi.level_dimensions) if width_px >= size[0]]
    level = max(enough)
    downsample = wsi.level_downsamples[level]
    width_px, height_px = wsi.level_dimensions[level]

    def read_band(top_px: int, rows: int) -> RGBImage:
        # Rounded up: rounded down, a downsample such as 4.0001 would reach back into the row above.
        region = wsi.read_region((0, math.ceil(top_px * downsample)), level, (width_px, rows))
        return np.asarray(region, dtype=np.uint8)[..., :3]

    return shrink_in_bands(read_band, (width_px, height_px), size)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the values that are no higher, from 1/N to 1; equal values share the mean of their ranks."""
    if not values.size:
        return values
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shares: NDArray[np.float64] = (last - (counts - 1) / 2)[group.reshape(-1)] / values.size
    return shares


def mean_over_patches(
    values: NDArray[np.float64],
    corners: NDArray[np.float64],
    side_level0_px: float,
    size: tuple[int, int],
    slide_size: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Each pixel's mean over the patches that cover it, (height, width), and where any does.

    Args:
        values: one a patch, (N,).
        corners: top-left corners of the patches in level-0 pixels, (N, 2).
        side_level0_px: side of a patch in level-0 pixels.
        size: (width, height) of the picture.
        slide_size: (width, height) of level 0.
    """
    totals = np.zeros((size[1], size[0]), dtype=np.float32)
    counts = np.zeros((size[1], size[0]), dtype=np.uint16)
    scale = np.array(size) / np.array(slide_size)
    # Rounded on both sides, so that neighbours meet without a gap; at least a pixel each.
    first = np.round(corners * scale).astype(np.int64)
    last = np.maximum(np.round((corners + side_level0_px) * scale).astype(np.int64), first + 1)
    for value, (x0, y0), (x1, y1) in zip(values.tolist(), first.clip(0).tolist(), last.clip(0).tolist(), strict=True):
        totals[y0:y1, x0:x1] += value
        counts[y0:y1, x0:x1] += 1
    means: NDArray[np.float32] = np.divide(totals, counts.clip(1), dtype=np.float32)
    return means, counts > 0


def _overlay(colours: RGBImage, covered: NDArray[np.bool_], *, with_alpha: bool) -> Image.Image:
    if with_alpha:
        return Image.fromarray(np.dstack([colours * covered[..., np.newaxis], covered * np.uint8(255)]))
    return Image.fromarray(np.where(covered[..., np.newaxis], colours, np.uint8(255)))


def _save_patches(
    wsi: Pyramid, scores: NDArray[np.float64], corners: NDArray[np.float64], side_px: int, folder: Path
) -> None:
    """Write patches as they are at level 0, numbered in the order given."""
    places = corners.astype(np.int64).tolist()
    for rank, (score, (x, y)) in enumerate(zip(scores.tolist(), places, strict=True), start=1):
        patch = np.asarray(wsi.read_region((x, y), 0, (side_px, side_px)), dtype=np.uint8)[..., :3]
        with atomic_path(folder / f"top_{rank:03d}_x{x}_y{y}_score_{score:.4f}.png") as temporary:
            Image.fromarray(patch).save(temporary, format="PNG")
