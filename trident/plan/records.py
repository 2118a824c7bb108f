"""How long stages took in earlier runs, from the state files of job directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from trident.errors import SettingsError, StoreError
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION
from trident.plan.rates import StageRate, fitted
from trident.stages.base import Stage
from trident.store.layout import JobLayout
from trident.store.recipes import Recipe
from trident.store.states import State, read_states
from trident.viz.report.values import listing, mapping, number, text

_MOST = 200
"""Slides of one stage whose outputs are opened for their recipe; of more, so many are taken evenly."""
_PRODUCTS = {SEGMENTATION: "geojson", COORDS: "coords"}
"""Name of the output in a state; `features` for the others."""
_COMPARED = {SEGMENTATION: ("segmenter", "artifacts_removed"), COORDS: ()}
"""Settings of the recipe that an earlier run must share for its time to say something; for features see below."""


@dataclass(frozen=True)
class _Record:
    """One stage of one slide as it was once made."""

    timings: Mapping[str, float]
    megapixels: float | None
    n_patches: int | None
    recipe: Recipe | None
    grid: str
    bytes: float | None

    def phase(self, name: str) -> float:
        return self.timings.get(name, 0.0)


@dataclass(frozen=True)
class Records:
    """What earlier runs tell of one job's stages.

    Attributes:
        rates: by stage key; a stage of which there is no record is left out.
        picture_bytes: by stage key, mean bytes of all that segmentation or coordinates leave for a slide.
    """

    rates: Mapping[str, StageRate]
    picture_bytes: Mapping[str, float]


def read_records(folders: Sequence[Path], stages: Iterable[Stage], *, on_gpu: bool) -> Records:
    """Read the records of job directories.

    Args:
        folders: job directories.
        stages: the job's stages for any one slide; their settings say which records are alike.
        on_gpu: whether the job computes on a GPU; what was computed elsewhere is left out.

    Raises:
        SettingsError: a folder is no job directory.
        StoreError: a state file cannot be read.
    """
    wanted = list(stages)
    states: list[State] = []
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"--records {folder}: no such folder; name job directories of earlier runs")
        states += read_states(JobLayout(folder, ""))
    where = ", ".join(map(str, folders))
    rates, pictures = {}, {}
    for stage in wanted:
        records = list(_records(states, stage, on_gpu))
        same_grid = [record for record in records if record.grid == stage.output.parent.parent.name]
        chosen, note = (same_grid, "") if same_grid or stage.kind == SEGMENTATION else (records, ", of another grid")
        if stage.kind == SEGMENTATION:
            chosen = records
        if rate := _rate(stage.kind, chosen):
            slides = f"{len(chosen)} slide{'s' * (len(chosen) != 1)}"
            rates[stage.key] = replace(rate, basis=f"{slides} in {where}{note}")
        sizes = [record.bytes for record in chosen if record.bytes is not None]
        if sizes:
            pictures[stage.key] = sum(sizes) / len(sizes)
    return Records(rates, pictures)


def _records(states: Sequence[State], stage: Stage, on_gpu: bool) -> Iterator[_Record]:
    made = [state for state in states if _timings(state, stage.key)]
    step = max(1, len(made) // _MOST)
    for state in made[::step][:_MOST]:
        record = _record(state, stage)
        if record is not None and _is_alike(record, stage, on_gpu):
            yield record


def _timings(state: State, key: str) -> dict[str, float]:
    """Seconds by phase; of a record without phases (another tool's), how long the attempt took that made the output."""
    entry = mapping(state["tasks"].get(key))
    if entry.get("status") not in ("completed", "skipped"):
        return {}
    timings = mapping(entry.get("timings"))
    found = {name: value for name, given in timings.items() if (value := number(given)) is not None and value >= 0}
    if found.get("total"):
        return found
    attempts = [mapping(attempt) for attempt in listing(entry.get("attempts"))]
    durations = [number(one.get("duration_s")) for one in attempts if one.get("result") == "completed"]
    last = durations[-1] if durations else None
    return {"total": last} if last else {}


def _record(state: State, stage: Stage) -> _Record | None:
    outputs = mapping(mapping(state["tasks"].get(stage.key)).get("outputs"))
    noted = mapping(outputs.get(_PRODUCTS.get(stage.kind, "features")))
    path = Path(text(noted.get("path")) or os.devnull)
    sizes = [number(mapping(one).get("bytes")) for one in outputs.values()]
    recipe, n_patches = _opened(path, stage.kind)
    size = listing(mapping(state["meta"]).get("dimensions"))
    sides = [value for side in size if (value := number(side)) is not None]
    return _Record(
        timings=_timings(state, stage.key),
        megapixels=sides[0] * sides[1] / 1e6 if len(sides) == 2 else None,
        n_patches=n_patches,
        recipe=recipe,
        grid=path.parent.parent.name,
        bytes=sum(one or 0.0 for one in sizes) if noted else None,
    )


def _opened(path: Path, kind: str) -> tuple[Recipe | None, int | None]:
    """Recipe and number of patches of an output; nothing where it is gone, moved or damaged."""
    if not path.is_file():  # a state may name anything, a device that never answers among others
        return None, None
    try:
        if kind == SEGMENTATION:
            from trident.store import geojson

            return geojson.read_recipe(path), None
        from trident.store import h5

        header = h5.read_header(path)
    except StoreError:
        return None, None
    return header.recipe, header.n_coords


def _is_alike(record: _Record, stage: Stage, on_gpu: bool) -> bool:
    """Whether a record was made in a way that says something about this job's stage."""
    if record.recipe is None:
        return stage.kind == COORDS or record.n_patches is not None
    found, now = record.recipe.settings, stage.settings()
    compared = _COMPARED.get(stage.kind, ("patch_encoder_img_size", "precision"))
    if any(found.get(name) != now.get(name) for name in compared if name in found and name in now):
        return False
    device = record.recipe.facts.get("device")
    return not (stage.uses_device and isinstance(device, str)) or device.startswith("cuda") == on_gpu


def _rate(kind: str, records: Sequence[_Record]) -> StageRate | None:
    """How long a stage takes by its records; None without any that say so."""
    if kind in (SEGMENTATION, COORDS):
        return _line("megapixels", [(one.megapixels, one.phase("total")) for one in records if one.megapixels])
    counted = [(one.n_patches, one) for one in records if one.n_patches is not None]
    if kind == PATCH_FEATURES:
        return _patch_rate(counted)
    return _line(
        "patches", [(n, max(0.0, one.phase("total") - one.phase("load"))) for n, one in counted], _load(counted)
    )


def _line(unit: str, measured: Sequence[tuple[float, float]], load_s: float = 0.0) -> StageRate | None:
    if not measured:
        return None
    slide_s, unit_s = fitted([size for size, _ in measured], [seconds for _, seconds in measured])
    return StageRate(unit, slide_s, unit_s, load_s=load_s)


def _patch_rate(records: Sequence[tuple[int, _Record]]) -> StageRate | None:
    phased = [(n, record) for n, record in records if n and "encode" in record.timings]
    if not phased:  # only how long it took is known
        return _line("patches", [(n, record.phase("total")) for n, record in records if n])
    n_patches = sum(n for n, _ in phased)

    def per_patch(*phases: str) -> float:
        return sum(record.phase(phase) for _, record in phased for phase in phases) / n_patches

    return StageRate(
        "patches",
        slide_s=median(_rest(record) for _, record in phased),
        unit_s=per_patch("wait"),
        own_unit_s=per_patch("encode", "write"),
        load_s=_load(phased),
    )


def _rest(record: _Record) -> float:
    """Seconds of a slide that do not grow with its patches; with other encoders in the pass, at least its opening."""
    if record.phase("others"):  # the whole also has what the others took to load
        return record.phase("open")
    parts = sum(record.phase(name) for name in ("load", "wait", "encode", "write"))
    return max(0.0, record.phase("total") - parts)


def _load(records: Sequence[tuple[int, _Record]]) -> float:
    """Seconds to load the model; slides that found it loaded say nothing about that."""
    return max((record.phase("load") for _, record in records), default=0.0)
