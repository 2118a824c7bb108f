"""A plan as text for people and as JSON for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trident.commands.info import printable
from trident.commands.table import render
from trident.encoders.patch.registry import spec as patch_spec
from trident.job import PATCH_FEATURES, STAGE_KINDS
from trident.plan.actions import RUN, SKIP, STOP, causes
from trident.plan.disk import free_bytes, is_writable
from trident.plan.memory import CONTEXT_BYTES, MemoryNeed, memory_of
from trident.plan.planner import JobPlan, SlidePlan
from trident.plan.rates import missing_rates, wall_seconds

_MOST_REASON = 160


@dataclass(frozen=True)
class Surroundings:
    """What a plan needs to know beside its job.

    Attributes:
        devices: that the run would use; -1: a CPU.
        slots: slides worked on at once.
        peak_bytes: most GPU memory of a calibration, where there was one.
        failures: by stage key, why a calibration could not measure it.
        hint: how to learn how long stages take, where that is not known.
    """

    devices: tuple[int, ...]
    slots: int
    peak_bytes: int | None
    failures: Mapping[str, str]
    hint: str


def as_json(plan: JobPlan, around: Surroundings) -> dict[str, Any]:
    """The whole plan; bytes, seconds and numbers as numbers, null where nothing is known."""
    totals, to_run = _totals(plan, around), _keys_that_may_run(plan)
    return {
        "job_dir": str(plan.job.settings.job_dir),
        "slides": [_slide(slide) for slide in plan.slides],
        "totals": totals,
        "stages": [_stage(plan, kind) for kind in _kinds(plan)],
        "rates": {
            key: {
                "unit": rate.unit,
                "seconds_per_slide": rate.slide_s,
                "seconds_per_unit": rate.unit_s + rate.own_unit_s,
                "load_seconds": rate.load_s,
                "from": rate.basis,
            }
            for key, rate in plan.rates.items()
            if key in to_run
        },
        "unknown_time": {key: around.failures.get(key, around.hint) for key in _unknown(plan)},
        "disk": _disk(plan),
        "gpu_memory": _memory(plan, around),
        "weights": [
            {
                "model": need.model,
                "stage": need.stage,
                "state": need.state,
                "detail": need.detail,
                "bytes": need.size_bytes,
            }
            for need in plan.weights
        ],
    }


def as_text(plan: JobPlan, around: Surroundings) -> str:
    """A row a slide, then the totals and where they come from."""
    rows = [_row(plan, slide) for slide in plan.slides]
    totals, found = _totals(plan, around), as_json(plan, around)
    counts = plan.counts()
    lines = [
        "",
        f"{totals['slides']} slides: {totals['slides_to_run']} to run, {totals['slides_done']} done, "
        f"{totals['slides_that_fail']} will fail; stages: "
        + ", ".join(f"{counts[action]} to {action}" for action in (RUN, SKIP, STOP)),
        *_line_of_more(totals["may_run"]),
        f"patches: {_patches(plan, totals['patches'])}" + _source_of_patches(plan),
    ]
    for stage in found["stages"]:
        lines.append(f"time, {stage['stage']}: {duration(stage['seconds'])} for {stage['slides']} slides")
    load = f", loading of models {duration(totals['load_seconds'])}" if totals["load_seconds"] else ""
    at_once = f"{around.slots} slide{'s' * (around.slots != 1)} at once"
    if totals["seconds"] is None:
        lines.append("time in all: not known")
    else:
        lines.append(
            f"time in all: {duration(totals['seconds'])} of work; about {duration(totals['wall_seconds'])} with "
            f"{at_once}{load}"
        )
    lines += [f"  {key}: {rate['from']}" for key, rate in found["rates"].items()]
    reasons: dict[str, list[str]] = {}
    for key, why in found["unknown_time"].items():
        reasons.setdefault(why, []).append(key)
    lines += [f"  {', '.join(keys)}: not known: {why}" for why, keys in reasons.items()]
    disk = found["disk"]
    lines.append(f"disk: {size(disk['bytes'])} to write, {size(disk['free_bytes'])} free at {disk['job_dir']}")
    if disk["problem"]:
        lines.append(f"  {disk['problem']}")
    lines += _memory_lines(found["gpu_memory"])
    for need in found["weights"]:
        lines.append(f"weights, {need['model']}: {need['state']}: {need['detail']}")
    for slide in plan.failing:
        lines.append(f"will fail: {slide.path}: {slide.problem}")
    return render(rows, "table") + "".join(f"{printable(line) if line.strip() == line else line}\n" for line in lines)


def _row(plan: JobPlan, slide: SlidePlan) -> dict[str, object]:
    row: dict[str, object] = {
        "slide": printable(plan.job.slides[slide.name].rel_path),
        "patches": slide.look.n_patches,
        "from": slide.look.patches_from,
    }
    row.update({stage.key: stage.action for stage in slide.stages})
    known = slide.runs
    row["time"] = duration(_sum([stage.seconds for stage in slide.to_run])) if known else "-"
    row["disk"] = size(_sum([stage.bytes for stage in slide.to_run])) if known else "-"
    row["note"] = _note(slide)
    return row


def _note(slide: SlidePlan) -> str:
    if slide.problem is not None:
        return printable(f"will fail: {slide.problem}", _MOST_REASON)
    whys = [stage.why for stage in slide.stages if stage.action == RUN and stage.why != "not made yet"]
    if whys:
        return printable(whys[0], _MOST_REASON)
    return "" if slide.runs else "done"


def _slide(slide: SlidePlan) -> dict[str, Any]:
    return {
        "name": slide.name,
        "path": str(slide.path),
        "patches": slide.look.n_patches,
        "patches_from": slide.look.patches_from,
        "megapixels": slide.look.megapixels,
        "will_fail": slide.problem is not None,
        "problem": slide.problem,
        "stages": [
            {
                "stage": stage.key,
                "action": stage.action,
                "why": stage.why,
                "seconds": stage.seconds,
                "bytes": stage.bytes,
            }
            for stage in slide.stages
        ],
    }


def _kinds(plan: JobPlan) -> list[str]:
    return [kind for kind in STAGE_KINDS if plan.to_run(kind)]


def _stage(plan: JobPlan, kind: str) -> dict[str, Any]:
    """All slides of one kind of stage; several patch encoders run as one."""
    found = plan.to_run(kind)
    return {
        "stage": kind,
        "slides": len({slide.name for slide, _ in found}),
        "seconds": _sum([stage.seconds for _, stage in found]),
        "bytes": _sum([stage.bytes for _, stage in found]),
    }


def _unknown(plan: JobPlan) -> list[str]:
    keys = _keys_that_may_run(plan)
    return missing_rates([key for key in plan.job.stages if key in keys], plan.rates)


def _keys_to_run(plan: JobPlan) -> set[str]:
    return {stage.key for kind in STAGE_KINDS for _, stage in plan.to_run(kind)}


def _keys_that_may_run(plan: JobPlan) -> set[str]:
    return _keys_to_run(plan) | {stage.key for stage in plan.may_run}


def _totals(plan: JobPlan, around: Surroundings) -> dict[str, Any]:
    running = [slide for slide in plan.slides if slide.runs]
    seconds = _sum([stage.seconds for slide in running for stage in slide.to_run])
    to_run = _keys_to_run(plan)
    load_s = sum(rate.load_s for key, rate in plan.rates.items() if key in to_run)
    return {
        "slides": len(plan.slides),
        "slides_to_run": len(running),
        "slides_done": sum(slide.problem is None and not slide.runs for slide in plan.slides),
        "slides_that_fail": len(plan.failing),
        "patches": _sum([slide.look.n_patches for slide in running]) if _counts_patches(plan) else None,
        "seconds": seconds,
        "load_seconds": load_s,
        "wall_seconds": None if seconds is None else wall_seconds(seconds, len(running), around.slots, load_s),
        "bytes": _sum([stage.bytes for slide in running for stage in slide.to_run]),
        "may_run": {
            "stages": len(plan.may_run),
            "seconds": _sum([stage.seconds for stage in plan.may_run]),
            "bytes": _sum([stage.bytes for stage in plan.may_run]),
            "if_different": list(dict.fromkeys(stage.earlier for stage in plan.may_run if stage.earlier)),
        },
    }


def _line_of_more(more: dict[str, Any]) -> list[str]:
    if not more["stages"]:
        return []
    return [
        f"up to {more['stages']} stage{'s' * (more['stages'] != 1)} and {_known(duration(more['seconds']), 'time')}, "
        f"{_known(size(more['bytes']), 'size')} more if {causes(more['if_different'])} turn out different (skip?)"
    ]


def _known(text: str, what: str) -> str:
    """`12 kB`, or `size not known`."""
    return f"{what} {text}" if text == "not known" else text


def _counts_patches(plan: JobPlan) -> bool:
    return any(slide.look.n_patches is not None for slide in plan.slides)


def _source_of_patches(plan: JobPlan) -> str:
    known = [slide.look.patches_from for slide in plan.slides if slide.runs and slide.look.patches_from]
    parts = [f"{known.count(source)} slides by {source}" for source in dict.fromkeys(known)]
    return f" ({', '.join(parts)})" if parts else ""


def _disk(plan: JobPlan) -> dict[str, Any]:
    folder = plan.job.settings.job_dir
    needed = _sum([stage.bytes for slide in plan.slides for stage in slide.to_run])
    free = free_bytes(folder)
    problem = None
    if not is_writable(folder):
        problem = f"{folder}: cannot be written; make it writable or choose another --job_dir"
    elif needed is not None and free is not None and needed > free:
        problem = f"{folder}: {size(needed - free)} too little space; free some, or choose another --job_dir"
    return {"job_dir": str(folder), "bytes": needed, "free_bytes": free, "problem": problem}


def _memory(plan: JobPlan, around: Surroundings) -> dict[str, Any] | None:
    """For each GPU: patch encoders stay loaded together, and each slide in flight has a batch of its own."""
    encodes = any(key.startswith(f"{PATCH_FEATURES}:") for key in _keys_that_may_run(plan))
    if all(index < 0 for index in around.devices) or not encodes:
        return None
    settings = plan.job.settings
    weights = {need.stage: need for need in plan.weights}
    models = [
        memory_of(
            patch_spec(name),
            weights.get(f"{PATCH_FEATURES}:{name}"),
            batch_size=settings.feat_batch_size or settings.batch_size,
            img_size_px=settings.patch_encoder_img_size,
            precision=settings.precision,
        )
        for name in plan.job.patch_encoders
    ]
    total = _sum([_model_bytes(one, settings.slides_per_gpu) for one in models])
    return {
        "bytes": None if total is None else total + CONTEXT_BYTES,
        "measured_bytes": around.peak_bytes,
        "slides_at_once": settings.slides_per_gpu,
        "models": [
            {
                "model": one.model,
                "weights_bytes": one.weights_bytes,
                "activations_bytes": one.activations_bytes,
                "how": one.how,
            }
            for one in models
        ],
    }


def _model_bytes(need: MemoryNeed, slides: int) -> int | None:
    if need.weights_bytes is None or need.activations_bytes is None:
        return None
    return need.weights_bytes + slides * need.activations_bytes


def _memory_lines(memory: dict[str, Any] | None) -> list[str]:
    if memory is None:
        return []
    measured = memory["measured_bytes"]
    lines = [
        f"GPU memory: roughly {size(memory['bytes'])} on each GPU"
        + (f"; {size(measured)} was measured for one slide" if measured else "")
    ]
    return lines + [
        f"  {one['model']}: weights {size(one['weights_bytes'])}, activations {size(one['activations_bytes'])} for "
        f"each of {memory['slides_at_once']} slides at once: {one['how']}"
        for one in memory["models"]
    ]


def _sum(values: Sequence[Any]) -> Any:
    """The sum, or None where one of them is not known."""
    return None if any(value is None for value in values) else sum(values)


def _patches(plan: JobPlan, count: int | None) -> str:
    if count is None:
        return "not known" if any(slide.runs for slide in plan.slides) else "none to make"
    return f"{count:,}"


def duration(seconds: float | None) -> str:
    """Seconds for people: `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(n_bytes: float | None) -> str:
    """Bytes for people: `12 kB`, `3.4 GB`."""
    if n_bytes is None:
        return "not known"
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
