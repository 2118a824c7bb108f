"""Seconds of tissue segmentation (Otsu) and patch coordinates for one slide, all files of both stages included.

Each repeat runs both stages in a job directory of its own; start-up (imports, the first run) is left out. What counts
as the stage is all that a task of the graph does: the check of the output, lock, state file, work, pictures, log.

    python benchmarks/bench_stages.py --slide slide.svs
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trident.errors import TridentError
from trident.job import COORDS, SEGMENTATION, create_job
from trident.settings import load_settings
from trident.stages.plan import JobStages
from trident.stages.work import run_recorded

KINDS = (SEGMENTATION, COORDS)


def run_both(slide: Path, job_dir: Path, mag: float, patch_size_px: int) -> tuple[dict[str, float], str]:
    """Seconds of each stage, and what the second one said."""
    settings = load_settings(
        slide_path=slide, job_dir=job_dir, segmenter="otsu", mag=mag, patch_size=patch_size_px, gpus="-1"
    )
    job = create_job(settings, kinds=KINDS)
    (name,) = job.slides
    stages = JobStages(job, device_index=-1)
    seconds, message = {}, ""
    for kind in KINDS:
        began = time.perf_counter()
        message = run_recorded(stages.stage(kind, name)).message
        seconds[kind] = time.perf_counter() - began
    return seconds, message


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--mag", type=float, default=20)
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where one more repeat spends its time")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args(arguments)
    rows: list[dict[str, float]] = []
    message = ""
    profile = cProfile.Profile()
    try:
        for repeat in range(given.repeats + 1 + given.profile):
            with tempfile.TemporaryDirectory() as folder:
                if repeat > given.repeats:
                    profile.enable()
                seconds, message = run_both(given.slide, Path(folder), given.mag, given.patch_size)
                profile.disable()
            if 1 <= repeat <= given.repeats:
                rows.append(seconds)
    except TridentError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for row in rows:
        print("  ".join(f"{kind} {row[kind]:.3f} s" for kind in KINDS) + f"  together {sum(row.values()):.3f} s")
    medians = {kind: statistics.median(row[kind] for row in rows) for kind in KINDS}
    together = statistics.median(sum(row.values()) for row in rows)
    print(
        f"median: {', '.join(f'{kind} {medians[kind]:.3f} s' for kind in KINDS)}, together {together:.3f} s; {message}"
    )
    if given.json is not None:
        given.json.write_text(json.dumps({"repeats": rows, "median": {**medians, "together": together}}, indent=1))
    if given.profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats(40)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
