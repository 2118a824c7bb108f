"""What the task graph costs: finished slides recognised, and overhead a task, at growing numbers of slides.

    python scripts/bench_graph.py --slides 100 1000 10000 --stat-delay-ms 5 --json result.json

Each figure comes from a run of the real cohort in a process of its own, from resolved options to its closing line;
importing the libraries is timed apart.

- *first look*: all outputs exist and no index of them does, as after a run of TRIDENT: every file is read.
- *later look*: the same once more, with the index that the first look has left.
- *later look, slow*: the same on a slow network folder: scripts/slow_files.c, loaded before the C library, lets each
  stat, open, opendir, rename and unlink under the folder wait (`--stat-delay-ms`). Needs a C compiler.
- *overhead a task*: a fresh job whose stages only write a tiny file (scripts/idle_stages.py), by the engine's usual
  executor and either scheduler. The time contains locks, recipes and state files, all of them flushed to disk.

*cpu* is the processor time of the run's own process (not of executors): on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OPTIONS: dict[str, Any] = {
    "task": "all",
    "segmenter": "otsu",
    "mag": 20,
    "patch_size": 256,
    "patch_encoder": "stain-stats",
    "slide_encoder": "mean-stain-stats",
    "gpus": [-1],
}
STAGES = 4
_SETTLE_S = 2.5
"""What is read from files younger than two seconds is not kept in the index."""
_START_S = 600.0
"""A luigid that does not answer by then never will, on however slow a machine."""
_PORTS = 100
"""So many are looked at for a free one."""


def options_of(root: Path, **more: object) -> dict[str, Any]:
    return {**OPTIONS, "wsi_dir": str(root / "wsis"), "job_dir": str(root / "job"), **more}


def run_child(options: dict[str, Any], **environment: str) -> dict[str, Any]:
    """One run of a cohort in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "graph_child.py"), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the measured run failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def make_template(root: Path) -> None:
    """One small slide and its four real outputs."""
    from trident.demo import draw_demo_slide

    (root / "wsis").mkdir(parents=True)
    draw_demo_slide(root / "wsis" / "template.svs", seed=1, width_px=1024, height_px=768, mpp=0.25)
    run_child(options_of(root))


def make_finished(root: Path, template: Path, n_slides: int) -> None:
    """A job of `n_slides` whose outputs are copies of the template's; its slides are files of the template's size."""
    outputs = [
        path.relative_to(template)
        for path in sorted((template / "job").rglob("template*"))
        if path.suffix in {".geojson", ".h5"} or path.parent.name == "wsi_states"
    ]
    contents = {path: (template / path).read_bytes() for path in outputs}
    size = (template / "wsis" / "template.svs").stat().st_size
    from trident.store.states import SlideInfo

    (root / "wsis").mkdir(parents=True)
    for path in outputs:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    for number in range(n_slides):
        slide = root / "wsis" / f"slide_{number:05}.svs"
        slide.touch()
        os.truncate(slide, size)
        name = slide.name.removesuffix(".svs")
        for path, content in contents.items():
            if path.parent.name == "wsi_states":
                target = root / path.parent / f"{SlideInfo.of(slide, name).id}.json"
            else:
                target = root / path.with_name(path.name.replace("template", name))
            target.write_bytes(content)


def bench_recognition(root: Path, template: Path, n_slides: int, slow: dict[str, str] | None) -> dict[str, Any]:
    """First and later look at a finished job."""
    make_finished(root, template, n_slides)
    os.sync()
    time.sleep(_SETTLE_S)
    runs = {"first": run_child(options_of(root)), "later": run_child(options_of(root))}
    if slow is not None:
        runs["slow"] = run_child(options_of(root), **slow, SLOW_FILES_ROOT=str(root))
    for name, result in runs.items():
        if result["done_before"] != n_slides * STAGES or result["made"]:
            raise SystemExit(f"{n_slides} slides, {name} look: {result['done_before']} stages were found done")
    index = root / "job" / ".trident" / "output_index"
    return {
        "slides": n_slides,
        **{f"{name}_look_s": round(result["run_s"], 2) for name, result in runs.items()},
        "first_cpu_s": round(runs["first"]["cpu_s"], 2),
        "later_cpu_s": round(runs["later"]["cpu_s"], 2),
        "import_s": round(runs["later"]["import_s"], 2),
        "first_peak_mib": round(runs["first"]["peak_mib"]),
        "later_peak_mib": round(runs["later"]["peak_mib"]),
        "index_mib": round(index.stat().st_size / 2**20, 1),
    }


def bench_tasks(root: Path, n_slides: int, scheduler: str, executor: str) -> dict[str, Any]:
    """A fresh job of stages that do nothing."""
    (root / "wsis").mkdir(parents=True)
    for number in range(n_slides):
        (root / "wsis" / f"slide_{number:05}.svs").write_bytes(b"no pixels")
    start = root / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text("import idle_stages\n\nidle_stages.install()\n")
    paths = os.pathsep.join(map(str, (start, HERE, ROOT)))
    with luigid(root) if scheduler == "luigid" else local() as (url, luigid_pid):
        result = run_child(options_of(root, executor=executor, scheduler_url=url), PYTHONPATH=paths)
        luigid_mib = None if luigid_pid is None else peak_mib_of(luigid_pid)
    if result["made"] != n_slides * STAGES:
        raise SystemExit(f"{n_slides} slides: only {result['made']} stages were made")
    return {
        "slides": n_slides,
        "scheduler": scheduler,
        "executor": executor,
        "run_s": round(result["run_s"], 2),
        "cpu_s": round(result["cpu_s"], 2),
        "ms_per_task": round(1000 * result["run_s"] / (n_slides * STAGES), 2),
        "peak_mib": round(result["peak_mib"]),
        "luigid_peak_mib": luigid_mib,
    }


def peak_mib_of(pid: int) -> int | None:
    """The most memory that a running process has held; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


@contextmanager
def local() -> Iterator[tuple[None, None]]:
    """Luigi's scheduler in the run's own process."""
    yield None, None


@contextmanager
def luigid(folder: Path) -> Iterator[tuple[str, int]]:
    """A real luigid on a free port of this machine: its address and process number."""
    for _ in range(_PORTS):
        port = random.randrange(20_000, 32_000)  # outgoing connections get higher ones
        if not _answers(port):
            break
    start = "import sys; from luigi.cmdline import luigid; luigid(sys.argv[1:])"
    command = [sys.executable, "-c", start, "--address", "127.0.0.1", "--port", str(port)]
    command += ["--state-path", str(folder / "luigid.pickle")]
    with (folder / "luigid.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(port) or process.poll() is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "luigid.log").read_text(encoding="utf-8")
                raise SystemExit(f"luigid does not start at port {port}:\n{said}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def build_slow_files(folder: Path, delay_ms: float) -> dict[str, str]:
    """Environment of a process whose files answer slowly."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("--stat-delay-ms needs a C compiler (Debian, Ubuntu: apt-get install gcc)")
    library = folder / "slow_files.so"
    source = str(HERE / "slow_files.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_FILES_US": str(int(delay_ms * 1000))}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *[[str(row.get(column, "")) for column in columns] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the task graph costs.")
    parser.add_argument("--slides", type=int, nargs="*", default=[100, 1000, 10_000], help="slides of a finished job")
    parser.add_argument("--task-slides", type=int, nargs="*", default=[100, 1000], help="slides of a job to run")
    parser.add_argument("--schedulers", nargs="+", default=["local", "luigid"], choices=["local", "luigid"])
    parser.add_argument("--executor", default="process", choices=["process", "in-process"])
    parser.add_argument("--stat-delay-ms", type=float, help="also look on a file system this slow")
    parser.add_argument("--work-dir", type=Path, help="where the jobs are made (default: the usual temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    figures: dict[str, Any] = {"stat_delay_ms": asked.stat_delay_ms, "recognition": [], "tasks": []}
    with tempfile.TemporaryDirectory(prefix="bench_graph_", dir=asked.work_dir) as folder:
        work = Path(folder)
        slow = None if asked.stat_delay_ms is None else build_slow_files(work, asked.stat_delay_ms)
        if asked.slides:
            make_template(work / "template")
        for n_slides in asked.slides:
            root = work / f"finished_{n_slides}"
            figures["recognition"].append(bench_recognition(root, work / "template", n_slides, slow))
            shutil.rmtree(root)
            print(json.dumps(figures["recognition"][-1]), file=sys.stderr)
        for n_slides in asked.task_slides:
            for scheduler in asked.schedulers:
                root = work / f"idle_{n_slides}_{scheduler}"
                figures["tasks"].append(bench_tasks(root, n_slides, scheduler, asked.executor))
                shutil.rmtree(root)
                print(json.dumps(figures["tasks"][-1]), file=sys.stderr)
    for name in ("recognition", "tasks"):
        if figures[name]:
            print(table(figures[name]))
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
