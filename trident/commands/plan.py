"""`trident plan`: what `trident batch` with the same options would do, what that takes, and which slides will fail."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trident import exit_codes

if TYPE_CHECKING:
    from trident.job import Job
    from trident.plan.calibrate import Calibration
    from trident.plan.planner import JobPlan, Planner
    from trident.settings import Settings

_HINT = "no earlier run tells; --calibrate measures it on one slide, --records DIR names other job directories"
_NO_SLIDE = "no slide that will run has tissue to measure on"


def run(arguments: list[str]) -> int:
    """Print the plan. Returns the exit code. Nothing is written in the job directory.

    It is 2 where the job directory cannot be written, which the run would refuse, and 4 where some slide will fail.

    Raises:
        TridentError: as the run itself would before it touches a slide.
    """
    from trident.commands.options import option_parser
    from trident.settings import Settings, configure_log, load_settings

    names = Settings.model_fields.keys() - {"slide_path"}
    parser = option_parser("trident plan", __doc__, names, {"job_dir", "wsi_dir"})
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument(
        "--records", nargs="+", type=Path, default=[], metavar="DIR", help="job directories whose times count, too"
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="measure on one slide what no earlier run tells; loads the models"
    )
    given = vars(parser.parse_args(arguments))
    form, calibrates, folders = given.pop("format"), given.pop("calibrate"), given.pop("records")
    settings = load_settings(**given, slide_path=None)
    configure_log(settings)
    if not settings.debug:  # what a reader warns of is for the run to say
        logging.getLogger("trident.slides").setLevel(logging.ERROR)
    return _show(settings, form, calibrates, folders)


def _show(settings: Settings, form: str, calibrates: bool, folders: Sequence[Path]) -> int:
    from trident.devices import restrict_visibility, usable
    from trident.executors.pool import lanes_for
    from trident.job import create_job

    job = create_job(settings, nonce="plan")
    devices = usable(settings.devices)
    restrict_visibility(devices[0] if calibrates else -1)

    from trident.plan.disk import is_writable
    from trident.plan.planner import Planner
    from trident.plan.show import Surroundings, as_json, as_text

    own = [job.settings.job_dir] if job.settings.job_dir.is_dir() else []
    with _stdout_kept_clean():
        planner = Planner(job, on_gpu=any(index >= 0 for index in devices))
        plan, measured = _planned(planner, [*own, *folders], devices[0] if calibrates else None)
    lanes = lanes_for(devices, settings.slides_per_gpu)
    around = Surroundings(
        devices=devices,
        slots=1 if settings.executor == "in-process" else sum(x.slots for x in lanes if x.takes_device_stages),
        peak_bytes=measured.peak_bytes if measured else None,
        failures=measured.failures if measured else {},
        hint=_NO_SLIDE if calibrates else _HINT,
    )
    if form == "json":
        sys.stdout.write(json.dumps(as_json(plan, around), indent=2) + "\n")
    else:
        sys.stdout.write(as_text(plan, around).encode("utf-8", "backslashreplace").decode())
    if not is_writable(job.settings.job_dir):
        return exit_codes.USAGE
    return exit_codes.FINISHED_WITH_FAILURES if plan.failing else exit_codes.OK


@contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Send to stderr what libraries print: cuCIM tells stdout that a machine has no GPU."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _planned(planner: Planner, folders: Sequence[Path], device: int | None) -> tuple[JobPlan, Calibration | None]:
    """The plan and, with a device to measure on, what was measured there."""
    looks, records = planner.looks(), planner.records(folders)
    plan = planner.plan(looks, records)
    if device is None:
        return plan, None
    measured = _measured(planner.job, plan, device)
    if measured is None:
        return plan, None
    from dataclasses import replace

    return planner.plan(looks, replace(records, rates={**measured.rates, **records.rates})), measured


def _measured(job: Job, plan: JobPlan, device: int) -> Calibration | None:
    """Measure on the slide in the middle of those that will run, by number of patches, what no record tells."""
    unknown = {
        stage.key
        for slide in plan.slides
        if slide.runs
        for stage in (*slide.to_run, *slide.may_run)
        if stage.key not in plan.rates
    }
    absent = {need.stage: need for need in plan.weights if need.state != "here" and need.stage in unknown}
    candidates = sorted((s for s in plan.slides if s.runs and s.look.n_patches), key=lambda s: s.look.n_patches or 0)
    from trident.plan.calibrate import Calibration, calibrate

    failures = {key: f"the weights of {need.model} are not on this machine yet" for key, need in absent.items()}
    if not candidates or not unknown - absent.keys():
        return Calibration({}, failures, None) if failures else None
    chosen = candidates[len(candidates) // 2]
    from trident.stages.plan import JobStages

    stages = JobStages(job, device_index=device)
    found = calibrate(stages, chosen.name, unknown - absent.keys(), chosen.look.n_patches or 0)
    return Calibration(found.rates, {**found.failures, **failures}, found.peak_bytes)
