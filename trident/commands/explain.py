"""`trident explain`: what was done to one slide, from what, and whether it would run again.

With options of `trident batch` it answers for a run with these; without, for the settings that the outputs carry.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trident import exit_codes
from trident.commands.info import printable
from trident.store.processes import Liveness

if TYPE_CHECKING:
    from trident.job import Job
    from trident.plan.trace import Trace
    from trident.settings import Settings
    from trident.stages.base import Status

_SLIDE_OPTIONS = frozenset({"wsi_dir", "wsi_ext", "search_nested", "custom_list_of_wsis"})
_SAYS_NOTHING = frozenset({"job_dir", "debug", "quiet", "log_format", "slide_path", *_SLIDE_OPTIONS})
"""Options that are no reason to ask how a run with them would go."""
_MAX_SETTING = 60


def run(arguments: list[str]) -> int:
    """Print what is known. Returns the exit code. Nothing is written in the job directory.

    Raises:
        TridentError: no trace of the slide there, or an option is wrong.
    """
    from trident.commands.options import option_parser
    from trident.settings import Settings, configure_log, load_settings

    parser = option_parser("trident explain", __doc__, Settings.model_fields.keys() - {"slide_path"}, {"job_dir"})
    parser.add_argument("slide", metavar="SLIDE", help="name of its outputs, or its file, which may be gone")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = vars(parser.parse_intermixed_args(arguments))
    slide, as_json = str(given.pop("slide")), bool(given.pop("json"))
    settings = load_settings(**given, slide_path=None)
    configure_log(settings)

    from trident.devices import restrict_visibility
    from trident.job import absolute_path
    from trident.plan.explain import explain
    from trident.plan.trace import find_trace
    from trident.store.atomic import store_error

    restrict_visibility(-1)
    try:
        if given.keys() <= _SAYS_NOTHING:
            found = explain(find_trace(absolute_path(settings.job_dir), slide), None)
        else:
            found = _with_options(settings, slide)
    except OSError as error:  # a folder of the job directory that this user may not look into
        raise store_error(Path(error.filename or settings.job_dir), error, "read") from error
    sys.stdout.write(json.dumps(found, indent=2, default=str) + "\n" if as_json else as_text(found))
    return exit_codes.OK


def _with_options(settings: Settings, slide: str) -> dict[str, Any]:
    from trident.job import absolute_path
    from trident.plan.explain import explain
    from trident.plan.trace import find_trace

    job_dir = absolute_path(settings.job_dir)
    trace = find_trace(job_dir, slide)
    job = _job(settings, trace)
    trace = find_trace(job_dir, slide, grid=job.layout.grid)
    return explain(trace, _verdicts(job, trace.name))


def _job(settings: Settings, trace: Trace) -> Job:
    """A job of these options over this slide alone.

    With `--wsi_dir` the slide is the one found there. Otherwise, and where it is not there any more, its file is taken
    from its record; then its job directory stands in for it while the options are checked, since it may be gone.
    """
    from trident.job import create_job
    from trident.plan.explain import recipes_of

    if settings.wsi_dir is not None:
        job = create_job(settings, nonce="explain")
        if trace.name in job.slides:
            return replace(job, slides=MappingProxyType({trace.name: job.slides[trace.name]}))
    alone = settings.model_copy(update={**dict.fromkeys(_SLIDE_OPTIONS), "slide_path": trace.job_dir})
    alone = alone.model_copy(update={"search_nested": False})
    source = trace.source(recipes_of(trace))
    return replace(create_job(alone, nonce="explain"), slides=MappingProxyType({trace.name: source}))


def _verdicts(job: Job, slide: str) -> dict[tuple[str, str], Status]:
    from trident.stages.plan import JobStages

    return {(stage.key, str(stage.output)): stage.status() for stage in JobStages(job).all_of(slide)}


def as_text(found: Mapping[str, Any]) -> str:
    """What was found, for people."""
    if found["path"] is None:
        where = "no record of its file"
    elif found["file_exists"]:
        where = f"{found['path']}, {found['file_bytes']:,} bytes"
    else:
        where = f"{found['path']}, which is gone"
    lines = [f"{found['slide']}: {where}", f"  job directory: {found['job_dir']}"]
    lines += [f"  note: {note}" for note in found["notes"]]
    for stage in found["stages"]:
        lines += ["", *_stage_lines(stage, found["job_dir"])]
    return "".join(f"{' ' * (len(line) - len(line.lstrip()))}{printable(line)}\n" for line in lines)


def _stage_lines(stage: Mapping[str, Any], job_dir: str) -> list[str]:
    grid = f" ({stage['grid']})" if stage["grid"] else ""
    lines = [f"{stage['stage']}{grid}: would {stage['would']}: {stage['why']}"]
    if stage["would"] == "not known":
        lines = [f"{stage['stage']}{grid}: {stage['why']}"]
    if stage["output"]:
        output = Path(stage["output"])
        shown = output.relative_to(job_dir) if output.is_relative_to(job_dir) else output
        lines.append(f"  output: {shown}, " + (f"{stage['bytes']:,} bytes" if stage["exists"] else "not there"))
    if stage["damage"]:
        lines.append(f"  damaged: {stage['damage']}")
    elif stage["recipe"]:
        lines += _recipe_lines(stage["recipe"])
    elif stage["exists"]:
        lines.append("  made by another program: it carries no settings")
    lines += [f"  made from {one['input']}: {_compared(one)}" for one in stage["inputs"]]
    if stage["lock"]:
        lock = stage["lock"]
        left_behind = lock["state"] == Liveness.DEAD.value
        use = (
            "in use" if lock["in_use"] else "left behind (dead)" if left_behind else f"may be in use ({lock['state']})"
        )
        lines.append(f"  locked by {lock['holder']}: {use}")
    return lines + (_record_lines(stage["record"]) if stage["record"] else [])


def _recipe_lines(recipe: Mapping[str, Any]) -> list[str]:
    facts = recipe["facts"]
    made = [f"at {facts['made_at']}"] if facts.get("made_at") else []
    made += [f"on {facts['host']}"] if facts.get("host") else []
    made += [f"by version {facts['trident_version']}"] if facts.get("trident_version") else []
    others = {key: value for key, value in facts.items() if key not in ("made_at", "host", "trident_version", "run")}
    lines = [f"  made {' '.join(made)}"] if made else []
    lines.append(f"  settings: {_listed(recipe['settings'])}")
    return lines + ([f"  with: {_listed(others)}"] if others else [])


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_brief(value)}" for key, value in values.items() if value not in (None, [])) or "none"


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _MAX_SETTING else text[: _MAX_SETTING - 1] + "…"


def _compared(one: Mapping[str, Any]) -> str:
    recorded = str(one["recorded"]).removeprefix("sha256:")[:12]
    if one["matches"] is None:
        return f"{recorded}, cannot be compared: gone"
    if one["matches"]:
        return f"{recorded}, as it is now"
    return f"{recorded}, and now it is {str(one['now']).removeprefix('sha256:')[:12]}"


def _record_lines(record: Mapping[str, Any]) -> list[str]:
    lines = [f"  recorded: {record['status']}" + (f": {record['message']}" if record["message"] else "")]
    for attempt in record["attempts"]:
        duration = attempt["duration_s"]
        took = f" in {duration:g} s" if isinstance(duration, int | float) else ""
        error = f": {attempt['error']}" if attempt["error"] else ""
        lines.append(f"  attempt of {attempt['started_at']}: {attempt['result'] or 'not ended'}{took}{error}")
    return lines
