"""What is left of one slide in a job directory: its state file, its outputs, and the stages that they belong to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trident.errors import StoreError
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION
from trident.slides.discovery import SlideSource
from trident.slides.folders import source_bytes
from trident.slides.registry import slide_name
from trident.stages.base import Stage, StageContext
from trident.stages.coords import CoordsStage
from trident.stages.features import PatchFeaturesStage, SlideFeaturesStage
from trident.stages.segmentation import SegmentationStage
from trident.store.layout import JobLayout
from trident.store.recipes import Recipe
from trident.store.states import State, read_states
from trident.viz.report.grids import find_grids, lies_in
from trident.viz.report.stages import StageColumn, find_stages
from trident.viz.report.values import mapping, number, text


@dataclass(frozen=True)
class Trace:
    """One slide in one job directory.

    Attributes:
        job_dir: the job directory.
        name: of the slide's outputs.
        path: of its file, as recorded or as given; None where nobody has said.
        size_bytes: of the file as it is now; None where it is gone.
        state: its state; None where it has none.
        columns: the stages of the job directory, whether or not this slide has their output.
    """

    job_dir: Path
    name: str
    path: Path | None
    size_bytes: int | None
    state: State | None
    columns: tuple[StageColumn, ...]

    def source(self, recipes: list[Recipe]) -> SlideSource:
        """The slide as a job knows it; of one that is gone, with the size and µm/px that its outputs recorded."""
        size, mpp = self.size_bytes, None
        for recipe in recipes:
            noted = recipe.inputs.get("slide_bytes")
            if size is None and noted is not None and noted.isdecimal():
                size = int(noted)
            mpp = mpp or number(recipe.settings.get("mpp"))
        path = self.path or Path(self.name)
        return SlideSource(path, path.name, self.name, mpp, size or 0)

    def stages(self, source: SlideSource) -> Iterator[tuple[StageColumn, Stage]]:
        """A stage for each column, which can be asked about its output and cannot be run."""
        for column in self.columns:
            context = StageContext(JobLayout(self.job_dir, column.grid or ""), frozenset())
            yield column, _given(column, context, source)


def find_trace(job_dir: Path, given: str, *, grid: str | None = None) -> Trace:
    """Find a slide by its name, file name or path; the file may be gone.

    Args:
        job_dir: to look in.
        given: as a user writes it.
        grid: a patch grid to look at, too, wherever it lies.

    Raises:
        StoreError: no job directory, or no trace of such a slide in it; the message offers close names.
    """
    if not job_dir.is_dir():
        raise StoreError(f"{job_dir}: no such job directory; check --job_dir")
    states = list(read_states(JobLayout(job_dir, "")))
    names = list(dict.fromkeys([given, slide_name(given)]))
    absolute = Path(os.path.abspath(given)) if "\0" not in given else None  # noqa: PTH100 - links stay as they are
    for name in names:
        mine = [state for state in states if mapping(state["slide"]).get("name") == name]
        state = _chosen(mine, absolute)
        columns = _columns(job_dir, state, grid)
        if state is not None or any(name in column.outputs for column in columns):
            path = text(mapping(state["slide"]).get("abs_path")) if state else None
            found = Path(path) if path else absolute if absolute and _size(absolute) is not None else None
            return Trace(job_dir, name, found, _size(found), state, tuple(columns))
    known = [str(mapping(state["slide"]).get("name")) for state in states]
    close = difflib.get_close_matches(names[-1], known, n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else "; name it as its outputs are, or by its path"
    raise StoreError(f"{job_dir}: no trace of a slide {names[-1]!r} here{hint}")


def _chosen(states: list[State], path: Path | None) -> State | None:
    """Of the states of one name (a slide that was moved has two), that of the path, else the newest."""
    for state in states:
        if path is not None and mapping(state["slide"]).get("abs_path") == str(path):
            return state
    return max(states, key=lambda state: str(state.get("updated_at")), default=None)


def _columns(job_dir: Path, state: State | None, grid: str | None) -> list[StageColumn]:
    tasks = state["tasks"] if state else {}
    grids = find_grids(job_dir, grid)
    for task, entry in tasks.items():
        noted = mapping(entry.get("outputs")).get("coords" if task == COORDS else "features")
        path = text(mapping(noted).get("path"))
        if path and task != SEGMENTATION:
            folder = Path(path).parent.parent
            name = str(folder.relative_to(job_dir) if folder.is_relative_to(job_dir) else folder)
            # Of a job directory that was copied, the records name the original, which is not asked about.
            if not any(lies_in(path, known) for known in grids) and folder.is_dir():
                grids.append(name)
    return find_stages(job_dir, grids, tasks)


def _size(path: Path | None) -> int | None:
    if path is None:
        return None
    try:
        return source_bytes(path, path.stat())
    except (OSError, ValueError):
        return None


def _given(column: StageColumn, context: StageContext, source: SlideSource) -> Stage:
    kind, _, encoder = column.task.partition(":")
    if kind == SEGMENTATION:
        return SegmentationStage.given(context, source)
    if kind == COORDS:
        return CoordsStage.given(context, source)
    if kind == PATCH_FEATURES:
        return PatchFeaturesStage.given(context, source, encoder)
    embedding = context.layout.slide_features(source.name, encoder)
    return SlideFeaturesStage(
        context,
        source,
        features=PatchFeaturesStage.given(context, source, _patch_encoder_of(encoder, embedding)),
        encoder_name=encoder,
        encoder_settings={},
        load_encoder=_never,
    )


def _patch_encoder_of(slide_encoder: str, embedding: Path) -> str:
    """The patch encoder behind an embedding, by what the embedding says, else by the declaration."""
    from trident.encoders.slide.registry import slide_to_patch_encoder_name

    recipe = _recipe_at(embedding)
    noted = text(recipe.facts.get("patch_encoder")) if recipe else None
    return noted or slide_to_patch_encoder_name.get(slide_encoder, "")


def _recipe_at(path: Path) -> Recipe | None:
    """The recipe of an HDF5 output; None where it has none, is gone or damaged."""
    from trident.store import h5

    if not path.is_file():
        return None
    try:
        return h5.read_recipe(path)
    except StoreError:
        return None


def _never() -> NoReturn:
    raise AssertionError("a stage that is only asked about is not run")
