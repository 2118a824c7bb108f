"""Kill parts of runs at random moments, over and over, and show that nothing is lost, left behind or done twice.

    python scripts/chaos.py --kills 200 --seed 1

A small cohort is run undisturbed once. Then it is run again and again into other job directories; each time, at a
random moment, one of the processes dies by `kill -9`: the driver, one of its executors, or luigid. (Tasks are threads
of the driver; with `--executor in-process` the driver does their work itself.) The next run goes on where that one was
cut off. Whenever the cohort is complete, every output is compared with the undisturbed run's, and the next job
directory begins. Exit code 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py

ROOT = Path(__file__).resolve().parents[1]
SLIDES = 4
OPTIONS = (
    *("--task", "all", "--segmenter", "otsu", "--mag", "20", "--patch_size", "64", "--skip_errors"),
    *("--patch_encoder", "stain-stats", "--slide_encoder", "mean-stain-stats"),
)
MODES = {
    "two executors": ("--gpus", "-1", "-1"),
    "luigid": ("--gpus", "-1", "-1"),
    "in-process": ("--gpus", "-1", "--executor", "in-process"),
}
VICTIMS = {
    "two executors": ("driver", "executor"),
    "luigid": ("driver", "executor", "luigid"),
    "in-process": ("driver",),
}
RUN_S = 600.0
"""No run of this cohort takes longer; one that does hangs."""

Stamp = tuple[int, int]


class ChaosError(Exception):
    """What should never happen."""


class Luigid:
    """A central scheduler on loopback, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        # Below those that outgoing connections get: it must still be free when luigid is started again.
        self.port = random.SystemRandom().randrange(20_000, 32_000)
        while self._answers():  # somebody else has it
            self.port = random.SystemRandom().randrange(20_000, 32_000)
        self._folder = folder
        self.process = self._start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def restart(self) -> None:
        """Kill it, and start it again at the same address."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()", "--address", "127.0.0.1"]
        process = subprocess.Popen(
            [*command, "--port", str(self.port), "--state-path", str(self._folder / "luigid.pickle")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        deadline = time.monotonic() + RUN_S
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers() and process.poll() is None:
                return process
            time.sleep(0.05)
        process.kill()
        raise ChaosError(f"luigid does not start at port {self.port} (exit code {process.wait()})")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def outputs_of(job: Path) -> Iterator[Path]:
    """Final outputs of all stages."""
    for pattern in ("contours_geojson/*.geojson", "*/patches/*.h5", "*/features_*/*.h5", "*/slide_features_*/*.h5"):
        yield from (path for path in job.glob(pattern) if not path.name.startswith("."))


def stamps(job: Path) -> dict[str, Stamp]:
    """Inode and time of every output: others where it was made anew."""
    return {
        str(path.relative_to(job)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(outputs_of(job))
    }


def content(path: Path) -> str:
    """Digest of what an output says; when, where and by which run it was made is left out."""
    digest = hashlib.sha256()
    if path.suffix == ".geojson":
        tissue = json.loads(path.read_text())
        tissue.pop("trident_recipe")
        digest.update(json.dumps(tissue, sort_keys=True).encode())
        return digest.hexdigest()
    with h5py.File(path) as file:
        for name in sorted(file):
            data = file[name]
            digest.update(f"{name} {data.dtype} {data.shape}".encode() + data[()].tobytes())
            for key in sorted(data.attrs):
                if key != "savetodir":
                    digest.update(f"{key}={data.attrs[key]}".encode())
        recipe = json.loads(file.attrs["trident_recipe"])
        digest.update(json.dumps([recipe["settings"], recipe["inputs"]], sort_keys=True).encode())
    return digest.hexdigest()


def left_behind(job: Path) -> list[str]:
    """Locks and temporary files."""
    return [str(path) for path in job.rglob("*") if path.name.endswith(".lock") or ".tmp" in path.name]


def children_of(pid: int) -> list[int]:
    """Processes that a process started, executors among them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended since
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def processes_with(text: str) -> list[int]:
    """Processes that have a text in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended since
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


class Chaos:
    """The cohort, its undisturbed outputs, and the kills so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.finished = 0
        self._draw()
        self.luigid = Luigid(folder)
        started = time.monotonic()
        code = self._start(folder / "undisturbed", "two executors").wait(RUN_S)
        self.usual_s = time.monotonic() - started
        if code != 0:
            raise ChaosError(f"the undisturbed run ends with exit code {code}")
        self.expected = {
            str(path.relative_to(folder / "undisturbed")): content(path) for path in outputs_of(folder / "undisturbed")
        }
        if len(self.expected) != 4 * SLIDES:
            raise ChaosError(f"the undisturbed run made {len(self.expected)} outputs, not {4 * SLIDES}")

    def run(self, kills: int) -> None:
        """Kill that often, and look after each kill and at each completed cohort."""
        job = self._next_job()
        known: dict[str, Stamp] = {}
        while sum(self.kills.values()) < kills:
            mode = self.random.choice(list(MODES))
            code = self._disturbed_run(job, mode)
            known = self._nothing_redone(job, known)
            if code == 0:
                self._check_complete(job, known)
                shutil.rmtree(job)
                job, known = self._next_job(), {}
        code = self._start(job, "two executors").wait(RUN_S)
        if code != 0:
            raise ChaosError(f"the last run ends with exit code {code}; its log: {self._log}")
        self._check_complete(job, self._nothing_redone(job, known))

    def close(self) -> None:
        """End what was started here."""
        self.luigid.stop()

    @property
    def _log(self) -> Path:
        return self.folder / "log.txt"

    def _draw(self) -> None:
        sys.path.insert(0, str(ROOT))
        from trident.demo import draw_demo_slide

        (self.folder / "wsis").mkdir()
        for index in range(SLIDES):
            draw_demo_slide(self.folder / "wsis" / f"slide{index}.svs", seed=index, width_px=1536, height_px=1024)

    def _next_job(self) -> Path:
        return self.folder / f"job{self.finished}"

    def _start(self, job: Path, mode: str) -> subprocess.Popen[bytes]:
        runtime = self.folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        scheduler = ("--scheduler_url", self.luigid.url) if mode == "luigid" else ()
        command = [sys.executable, str(ROOT / "run_batch_of_slides.py"), "--wsi_dir", str(self.folder / "wsis")]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*command, "--job_dir", str(job), *OPTIONS, *MODES[mode], *scheduler],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            )

    def _disturbed_run(self, job: Path, mode: str) -> int:
        """One run with one kill in it, if it does not end before that; returns its exit code."""
        driver = self._start(job, mode)
        victim = self.random.choice(VICTIMS[mode])
        try:
            driver.wait(self.random.uniform(0.0, self.usual_s))
        except subprocess.TimeoutExpired:
            if self._kill(victim, driver):
                self.kills[victim] += 1
        try:
            return driver.wait(RUN_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            raise ChaosError(f"a run hangs after the death of its {victim} ({mode}); its log: {self._log}") from None

    def _kill(self, victim: str, driver: subprocess.Popen[bytes]) -> bool:
        if victim == "luigid":
            self.luigid.restart()
            return True
        if victim == "driver":
            driver.kill()
            return True
        executors = children_of(driver.pid)
        if not executors:
            return False
        try:
            os.kill(self.random.choice(executors), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _nothing_redone(self, job: Path, known: dict[str, Stamp]) -> dict[str, Stamp]:
        now = stamps(job) if job.exists() else {}
        redone = [name for name, stamp in known.items() if now.get(name) != stamp]
        if redone:
            raise ChaosError(f"finished outputs were made again: {redone}")
        damaged = [name for name in now if content(job / name) != self.expected[name]]
        if damaged:
            raise ChaosError(f"outputs differ from the undisturbed run's: {damaged}")
        return now

    def _check_complete(self, job: Path, known: dict[str, Stamp]) -> None:
        self.finished += 1
        if known.keys() != self.expected.keys():
            raise ChaosError(f"outputs are missing: {sorted(self.expected.keys() - known.keys())}")
        if rest := left_behind(job):
            raise ChaosError(f"left behind: {rest}")
        self._no_orphans()
        for path in (job / "wsi_states").glob("[!.]*.json"):
            state = json.loads(path.read_text())
            wrong = {
                key: task["status"]
                for key, task in state["tasks"].items()
                if task["status"] not in ("completed", "skipped")
            }
            if wrong or len(state["tasks"]) != 4:
                raise ChaosError(f"{path.name}: the state says {wrong or list(state['tasks'])}")

    def _no_orphans(self) -> None:
        """Executors end with their driver, however that ended."""
        deadline = time.monotonic() + RUN_S
        while orphans := processes_with(str(self.folder / "run")):
            if time.monotonic() > deadline:
                raise ChaosError(f"executors outlived their driver: {orphans}")
            time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="trident-chaos-"))
    started = time.monotonic()
    chaos = None
    try:
        chaos = Chaos(folder, arguments.seed)
        chaos.run(arguments.kills)
    except ChaosError as problem:
        print(f"FAILED after {sum(chaos.kills.values()) if chaos else 0} kills: {problem}")
        print(f"left for you to look at: {folder}")
        return 1
    finally:
        if chaos:
            chaos.close()
    kinds = ", ".join(f"{count} of the {victim}" for victim, count in sorted(chaos.kills.items()))
    print(
        f"{sum(chaos.kills.values())} kills ({kinds}) over {chaos.finished} cohorts of {SLIDES} slides in "
        f"{time.monotonic() - started:.0f} s: every output as undisturbed, none made twice, nothing left behind"
    )
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
