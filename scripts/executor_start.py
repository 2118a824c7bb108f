"""Times how long an executor takes until it answers: as a process, and as a container.

    DOCKER_HOST=unix:///… .venv/bin/python scripts/executor_start.py --image trident-luigi:0.1.0-cpu

Draws one small slide and starts executors for a job over it, in turn; no stage runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from trident.demo import draw_demo_slide
from trident.executors.docker import docker_launcher
from trident.executors.executor import GRACE_S, Executor, Launch, process_launcher
from trident.job import create_job
from trident.settings import load_settings


def start_seconds(launch: Launch, socket_path: Path) -> float:
    """Seconds from the start of an executor to its first answer."""
    began = time.monotonic()
    executor = Executor("cpu", socket_path, -1, launch)
    seconds = time.monotonic() - began
    executor.close()
    executor.wait(time.monotonic() + GRACE_S)
    return seconds


def main() -> int:
    """Print one line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image")
    parser.add_argument("--times", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw_demo_slide(Path(folder) / "wsis" / "a.svs", width_px=1024, height_px=768)
        job = create_job(
            load_settings(
                wsi_dir=Path(folder) / "wsis", job_dir=Path(folder) / "job", segmenter="otsu", image=given.image
            )
        )
        job.save()
        for name, launch in (("process", process_launcher({})), ("container", docker_launcher(job, {}))):
            taken = [start_seconds(launch, Path(folder) / f"{name}.{number}") for number in range(given.times)]
            print(f"{name}: median {statistics.median(taken):.2f} s, from {min(taken):.2f} to {max(taken):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
