"""`trident view`: what the patch features of a slide, or scores of its patches, look like on the slide."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trident.errors import SettingsError
from trident.export.sources import FeatureSet
from trident.store import h5
from trident.store.layout import JobLayout
from trident.viz.colormaps import color_table
from trident.viz.features.canvas import ColourScale, Panel, compose
from trident.viz.features.components import principal_components, robust_range, scaled
from trident.viz.features.outputs import save_both, table_of
from trident.viz.features.overlay import Backdrop, find_backdrop
from trident.viz.features.scores import read_scores
from trident.viz.features.slide_files import SlideFiles

logger = logging.getLogger(__name__)

N_COMPONENTS = 3
_PANEL_PX = 900
_SINGLE_PX = 1600
_OPACITY = 0.6
_RGB_OPACITY = 0.8


@dataclass(frozen=True)
class Written:
    """Files of one view."""

    picture: Path
    table: Path


def view_components(
    chosen: FeatureSet, slide: str, slides: SlideFiles, output: Path, *, component: int | None = None, cmap: str
) -> Written:
    """Show the first three principal components of a slide's features, together as red, green and blue and one by one.

    Args:
        chosen: which features.
        slide: name of the slide.
        slides: where slide files are.
        output: the PNG; a CSV of the same name goes beside it.
        component: show this one alone, counted from 1.
        cmap: colour map of single components.

    Raises:
        SettingsError: there is no such component.
        StoreError: the features cannot be read, or an output cannot be written.
    """
    found = h5.read_features(chosen.file(slide))
    dim = found.features.shape[1]
    count = min(component or N_COMPONENTS, dim)
    if component is not None and not 1 <= component <= dim:
        raise SettingsError(f"--component {component}: features of {chosen.encoder} have components 1 to {dim}")
    features, corners = found.features, found.coords
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():  # else nothing is copied: these may be gigabytes
        logger.warning("%s: %d patches with NaN or infinity are left out", chosen.file(slide), int((~finite).sum()))
        features, corners = features[finite], corners[finite]
    components = principal_components(features, count)
    shown = [count - 1] if component else list(range(count))
    side_px = _SINGLE_PX if component else _PANEL_PX
    backdrop = find_backdrop(
        slides, chosen.layout, slide, attributes=found.coords_attributes, corners=corners, side_px=side_px
    )

    panels = []
    limits = [robust_range(column, fenced=True) for column in components.scores.T]
    if component is None:
        channels = [scaled(components.scores[:, number], limits[number]) for number in shown]
        channels += [np.full(len(corners), 0.5)] * (N_COMPONENTS - count)
        image = backdrop.tinted_rgb(np.stack(channels, axis=1), corners, _RGB_OPACITY)
        panels.append(Panel(image, "components 1, 2, 3 as red, green, blue"))
    for number in shown:
        label = f"component {number + 1}: {components.shares[number]:.1%} of the variance"
        values = components.scores[:, number]
        panels.append(_panel(backdrop, values, limits[number], corners=corners, title=label, cmap=cmap))
    title = f"{slide}  ·  {chosen.encoder}  ·  {chosen.grid}  ·  {_patches(len(corners))}"
    names = [f"component_{number + 1}" for number in shown]
    return _write(output, title, panels, corners=corners, names=names, values=components.scores[:, shown])


def view_scores(
    layout: JobLayout, slide: str, slides: SlideFiles, output: Path, *, scores: Path, column: str, cmap: str
) -> Written:
    """Show scores of a slide's patches that a CSV gives.

    Args:
        layout: of the grid that the patches belong to.
        slide: name of the slide.
        slides: where slide files are.
        output: the PNG; a CSV of the same name goes beside it.
        scores: CSV with `x`, `y` (level-0 px) and the score.
        column: of the score.
        cmap: colour map.

    Raises:
        SettingsError: the CSV cannot be used.
        StoreError: the coordinates cannot be read, or an output cannot be written.
    """
    found = h5.read_coords(layout.coords(slide))
    values, corners = read_scores(scores, column, slide, found.coords)
    backdrop = find_backdrop(slides, layout, slide, attributes=found.attributes, corners=corners, side_px=_SINGLE_PX)
    label = f"{column}  ({scores.name})"
    panel = _panel(backdrop, values, robust_range(values), corners=corners, title=label, cmap=cmap)
    title = f"{slide}  ·  {layout.grid}  ·  {_patches(len(corners))}"
    return _write(output, title, [panel], corners=corners, names=[column], values=values[:, np.newaxis])


def _panel(
    backdrop: Backdrop,
    values: NDArray[np.float64],
    limits: tuple[float, float],
    *,
    corners: NDArray[np.int64],
    title: str,
    cmap: str,
) -> Panel:
    table = color_table(cmap)
    image = backdrop.tinted(scaled(values, limits), corners, table, _OPACITY)
    return Panel(image, title, ColourScale(table, *limits) if len(values) else None)


def _patches(count: int) -> str:
    return f"{count:,} patch" + ("" if count == 1 else "es")


def _write(
    output: Path,
    title: str,
    panels: Sequence[Panel],
    *,
    corners: NDArray[np.int64],
    names: Sequence[str],
    values: NDArray[np.float64],
) -> Written:
    # Side by side where they are high, below each other where they are wide.
    height_px, width_px = panels[0].image.shape[:2]
    columns = 1 if len(panels) == 1 else 2 if width_px < 2 * height_px else 1
    columns = len(panels) if len(panels) > 1 and height_px > 2 * width_px else columns
    rows = [[*corner, *map(repr, row)] for corner, row in zip(corners.tolist(), values.tolist(), strict=True)]
    save_both(output, compose(title, panels, columns), ["x", "y", *names], rows)
    return Written(output, table_of(output))
