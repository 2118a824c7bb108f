"""What runs have written down about themselves: state files, manifests and the newest job file.

Anything damaged is told in one line and left out; a report is wanted most where something went wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trident.store.layout import JobLayout, grid_name
from trident.store.processes import Liveness
from trident.store.runs import ENDED_ABRUPTLY, run_liveness
from trident.viz.report.values import listing, load_object, mapping, number, text

State = Mapping[str, Any]

SILENT_RUN_S = 24 * 3600.0
"""A run on another machine that has written no state for so long is not called running any more."""


@dataclass(frozen=True)
class Records:
    """What was found.

    Attributes:
        states: slide name -> its newest state.
        planned: slide name -> path relative to the slide folder, of every slide of the newest job.
        given_mpp: slide name -> µm/px of level 0 that the newest job was given for it.
        runs: manifests, newest first.
        running: whether a run seems to be at work now.
        grid: patch grid of the newest job.
        wsi_dir: slide folder of the newest job.
        problems: one line for each file that could not be used.
    """

    states: Mapping[str, State]
    planned: Mapping[str, str]
    given_mpp: Mapping[str, float]
    runs: tuple[State, ...]
    running: bool
    grid: str | None
    wsi_dir: str | None
    problems: tuple[str, ...]


def read_records(job_dir: Path) -> Records:
    """Read everything that runs have noted in a job directory; nothing of it need be there."""
    layout = JobLayout(job_dir, "")
    problems: list[str] = []
    states: dict[str, State] = {}
    for path, state in _objects(layout.states_dir, problems):
        name = text(mapping(state.get("slide")).get("name"))
        if name is None or not isinstance(state.get("tasks"), dict):
            problems.append(f"{_shown(path)}: this state file is damaged (it names no slide or no tasks)")
        elif str(state.get("updated_at")) >= str(states.get(name, {}).get("updated_at", "")):
            states[name] = state  # a slide folder that has moved leaves two states of one slide
    last_sign = _newest_change(layout.states_dir)
    runs = [_as_it_ended(manifest, last_sign) for _, manifest in _objects(layout.runs_dir, problems)]
    runs.sort(key=lambda run: str(run.get("started_at")), reverse=True)
    job = _newest_job(layout, problems)
    settings = mapping(job.get("settings"))
    planned = {
        name: text(slide.get("rel_path")) or name
        for slide in map(mapping, listing(job.get("slides")))
        if (name := text(slide.get("name")))
    }
    given_mpp = {
        name: mpp
        for slide in map(mapping, listing(job.get("slides")))
        if (name := text(slide.get("name"))) and (mpp := number(slide.get("mpp")))
    }
    running = any(run.get("status") == "running" for run in runs)
    return Records(
        states,
        planned,
        given_mpp,
        tuple(runs),
        running,
        _grid_of(settings),
        text(settings.get("wsi_dir")),
        tuple(problems),
    )


def _objects(folder: Path, problems: list[str]) -> Iterator[tuple[Path, State]]:
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else ():
        value, problem = load_object(path)
        if problem is None:
            yield path, value
        else:
            problems.append(f"{_shown(path)}: this file is damaged and not counted: {problem}")


def _newest_job(layout: JobLayout, problems: list[str]) -> State:
    """The job file written last; an empty object where there is none."""
    files = [(path.stat().st_mtime, path) for path in (layout.private_dir / "jobs").glob("[!.]*.json")]
    if not files:
        return {}
    path = max(files)[1]
    job, problem = load_object(path)
    if problem is not None:
        problems.append(f"{_shown(path)}: this job file is damaged ({problem}); slides not begun are not listed")
    return job


def _grid_of(settings: Mapping[str, Any]) -> str | None:
    folder, mag = text(settings.get("coords_dir")), number(settings.get("mag"))
    patch_size_px, overlap_px = number(settings.get("patch_size")), number(settings.get("overlap"))
    if folder is not None or mag is None or patch_size_px is None or overlap_px is None:
        return folder
    return grid_name(mag, int(patch_size_px), int(overlap_px), target_mpp=number(settings.get("target_mpp")))


def _newest_change(folder: Path) -> float:
    try:
        return folder.stat().st_mtime  # every state is renamed into place, which touches the folder
    except OSError:
        return 0.0


def _as_it_ended(manifest: State, last_sign: float) -> State:
    """A manifest that says `running`, as it is: in error where the process is gone, without a status where unknown."""
    if manifest.get("status") != "running":
        return manifest
    found = run_liveness(manifest, last_sign)
    if found is Liveness.DEAD:
        return {**manifest, "status": "error", "error": ENDED_ABRUPTLY}
    names_nobody = text(manifest.get("host")) is None or number(manifest.get("pid")) is None
    if found is Liveness.UNKNOWN and (names_nobody or time.time() - last_sign >= SILENT_RUN_S):
        return {**manifest, "status": None}
    return manifest


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
