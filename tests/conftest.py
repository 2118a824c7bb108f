"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
for _name in ("no_proxy", "NO_PROXY"):  # servers of the tests are on this machine, which a proxy does not know
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1", "localhost")))
PATIENCE_S = 600.0
"""So long a test waits for what is sure to come, on however slow a machine; who waits longer waits in vain."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names that are no text may stand in what a test logged; a report that goes to another process must be text."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report


def _shared() -> Path:
    """The folder of real slides and reference outputs that some tests need; it is not part of the repository."""
    root = Path(os.environ.get("TRIDENT_TEST_SHARED", ROOT.parent / "shared"))
    if not (root / "slides").is_dir():
        pytest.skip(f"the folder of real test slides is absent ({root}); set TRIDENT_TEST_SHARED to have this test run")
    return root


@pytest.fixture(scope="session")
def shared_slides() -> Path:
    """Folder of small real slides."""
    return _shared() / "slides"


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder of reference facts, manifests and expected outputs."""
    return _shared() / "reference"


@pytest.fixture(scope="session")
def shared_tools() -> Path:
    """Folder with the slide maker and the seeded weights."""
    return _shared() / "tools"


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def runtime_folder() -> Iterator[Path]:
    """A folder for the sockets of a test's runs: a socket's path must be shorter than those of `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="trt-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def drawn_slides(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function (folder, *file names): puts small demonstration slides there, another one for each name."""
    from trident.demo.slide import draw_demo_slide

    drawn = tmp_path_factory.mktemp("drawn")

    def put(folder: Path, *names: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            seed = sum(map(ord, Path(name).stem))
            master = drawn / f"{seed}.svs"
            if not master.exists():
                draw_demo_slide(master, seed=seed, width_px=1024, height_px=768)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(master, folder / name)
        return folder

    return put


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRIDENT_", "LUIGI_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


_PROGRAMS = {
    "batch": [str(ROOT / "run_batch_of_slides.py")],
    "single": [str(ROOT / "run_single_slide.py")],
    "trident": ["-m", "trident.cli"],
    "luigi": ["-m", "luigi", "--module", "luigi_tasks"],
    "luigid": ["-c", "from luigi.cmdline import luigid; luigid()"],
}


@pytest.fixture(scope="session")
def start_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Function (program, *arguments, env, cwd): starts a real process in a folder without a `luigi.cfg`."""
    elsewhere = tmp_path_factory.mktemp("cwd")

    def start(
        program: str, *arguments: object, env: dict[str, str] | None = None, cwd: Path = elsewhere
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *_PROGRAMS[program], *map(str, arguments)],
            cwd=cwd,
            env={**_clean_environment(), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def finish_program() -> Callable[..., Finished]:
    """Function (process): waits for a process of `start_program`."""

    def finish(process: subprocess.Popen[str]) -> Finished:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Finished(process.returncode, out, err)

    return finish


@pytest.fixture(scope="session")
def run_program(
    start_program: Callable[..., subprocess.Popen[str]], finish_program: Callable[..., Finished]
) -> Callable[..., Finished]:
    """Function (program, *arguments, env, cwd): runs a real process to its end."""

    def run(*arguments: object, **where: object) -> Finished:
        return finish_program(start_program(*arguments, **where))

    return run


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Function (condition, *processes): waits until the condition holds; none of the processes may end before."""

    def wait(condition: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ended = [process for process in processes if process.poll() is not None]
            assert not ended or condition(), [process.communicate() for process in ended]
            assert time.monotonic() < deadline, f"it did not come to that within {PATIENCE_S:.0f} s"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def left_behind() -> Callable[[Path], list[Path]]:
    """Function (folder): the locks and temporary files in it and in its subfolders."""

    def left_behind(folder: Path) -> list[Path]:
        return [path for path in folder.rglob("*") if path.name.endswith(".lock") or ".tmp" in path.name]

    return left_behind


@pytest.fixture(scope="session")
def is_gone() -> Callable[[int], bool]:
    """Function (number of a process): whether it has ended, reaped or not."""
    from trident.store.processes import Liveness, ProcessIdentity, current_process, liveness

    here = current_process()

    def is_gone(pid: int) -> bool:
        one = ProcessIdentity(here.hostname, pid, here.boot_id, here.pid_namespace)
        return liveness(one) is Liveness.DEAD

    return is_gone


@pytest.fixture(scope="session")
def count_steps() -> Callable[[Callable[[], object]], int]:
    """Function (function): how many instructions of Python a call of it takes, on whatever machine."""

    def count(function: Callable[[], object]) -> int:
        steps = 0

        def step(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            nonlocal steps
            frame.f_trace_opcodes = True
            steps += 1
            return step

        before = sys.gettrace()
        sys.settrace(step)
        try:
            function()
        finally:
            sys.settrace(before)
        return steps

    return count


@pytest.fixture(scope="session")
def start_luigid(start_program: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[str, Any]]:
    """Function (*options, env, cwd): starts a luigid on loopback; its address, once it answers, and its process."""

    def answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def start(*options: object, **where: Any) -> tuple[str, subprocess.Popen[str]]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            # Outgoing connections of other tests get higher ones.
            port = next(one for one in iter(lambda: random.randrange(20_000, 32_000), None) if not answers(one))
            process = start_program("luigid", "--address", "127.0.0.1", "--port", port, *options, **where)
            while process.poll() is None and time.monotonic() < deadline:
                if answers(port) and process.poll() is None:
                    return f"http://127.0.0.1:{port}", process
                time.sleep(0.05)
            process.kill()  # somebody else has taken the port
            said = process.communicate()
        raise AssertionError(said)

    return start


@pytest.fixture
def clean_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No option comes from the environment or from a `luigi.cfg`: the (empty) folder that is the current one."""
    for name in list(os.environ):
        if name.startswith(("TRIDENT_", "LUIGI_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def logging_undone() -> Iterator[None]:
    """Undo what a test, or a command that it runs in this process, does to our loggers, for the tests after it."""
    before = {name: (log.level, log.propagate, list(log.handlers)) for name, log in _our_loggers().items()}
    yield
    for name, log in _our_loggers().items():
        level, log.propagate, handlers = before.get(name, (logging.NOTSET, True, []))
        log.setLevel(level)
        log.handlers[:] = handlers


def _our_loggers() -> dict[str, logging.Logger]:
    known = logging.root.manager.loggerDict.items()
    ours = {name: log for name, log in known if name.split(".")[0] in ("trident", "luigi_tasks", "luigi-interface")}
    return {name: log for name, log in ours.items() if isinstance(log, logging.Logger)}


@pytest.fixture
def quiet_process(clean_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a command does to its process beside its log: the GPUs that it hides."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))


@pytest.fixture
def run_batch(
    quiet_process: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    """Function (*arguments): what `run_batch_of_slides.py` does, in this process, which has loaded torch already."""
    from trident.cli import batch

    monkeypatch.setenv("TRIDENT_EXECUTOR", "in-process")

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        try:
            code = batch([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        shown = capsys.readouterr()
        return Finished(code, shown.out, shown.err)

    return run


@pytest.fixture
def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The patch encoder `moody`, which dies, hangs or waits when told to: see `tests/executors/moody.py`."""
    from trident.encoders.patch import plugins

    spec = importlib.util.spec_from_file_location("moody_orders", ROOT / "tests" / "executors" / "moody.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    moody = module.Moody(tmp_path / "moody")
    monkeypatch.syspath_prepend(moody.site)
    monkeypatch.setenv("PYTHONPATH", f"{moody.site}:{ROOT}")
    plugins._entry_points.cache_clear()
    yield moody
    moody.forget()  # what waits goes on, and can end
    plugins._entry_points.cache_clear()


_HELD = """
import pathlib, time
from trident.convert.region_stream import RegionStream
held = pathlib.Path({held!r})
read = RegionStream.read
def read_or_wait(self, n_bytes):
    if self._position > len(self._header) + 1_000_000:
        while held.exists():
            if not held.stat().st_size:
                held.write_text("a conversion waits")
            time.sleep(0.01)
    return read(self, n_bytes)
RegionStream.read = read_or_wait
"""


@pytest.fixture
def held_conversions(tmp_path: Path) -> tuple[Path, Path]:
    """A folder for PYTHONPATH: slides are then converted until libvips has had 1 MB, and no further.

    And a file: it has content once a conversion waits; without it they go on.
    """
    folder, held = tmp_path / "held_site", tmp_path / "held"
    folder.mkdir()
    held.touch()
    (folder / "sitecustomize.py").write_text(_HELD.format(held=str(held)))
    return folder, held


@pytest.fixture(scope="session")
def put_features() -> Callable[..., Path]:
    """Function (job_dir, slide, features, *, coords, grid, encoder, slide_path): what a run leaves behind of a slide.

    Patches of 128 px lie side by side, eight in a row, on a slide of 1024 x 768 px; `slide_path` is noted in a state.
    """
    import numpy as np

    from trident.store.h5 import FeatureFileWriter, write_coords
    from trident.store.layout import JobLayout
    from trident.store.states import SlideInfo, SlideStateFile

    def put(
        job_dir: Path,
        slide: str,
        features: object,
        *,
        coords: object = None,
        grid: str = "20x_128px_0px_overlap",
        encoder: str = "enc",
        slide_path: Path | None = None,
    ) -> Path:
        values = np.asarray(features, np.float32)
        rows = np.arange(len(values))
        places = np.stack([rows % 8 * 128, rows // 8 * 128], axis=1) if coords is None else np.asarray(coords)
        attributes = {
            "patch_size": 128,
            "patch_size_level0": 128,
            "level0_magnification": 20,
            "target_magnification": 20,
            "overlap": 0,
            "name": slide,
            "savetodir": str(job_dir),
            "level0_width": 1024,
            "level0_height": 768,
        }
        layout = JobLayout(job_dir, grid)
        write_coords(layout.coords(slide), places, attributes, None)
        path = layout.patch_features(slide, encoder)
        with FeatureFileWriter(
            path,
            n_rows=len(values),
            dim=values.shape[1],
            coords=places,
            coords_attributes=attributes,
            encoder=encoder,
            name=slide,
            savetodir=str(job_dir),
            recipe=None,
        ) as writer:
            writer.append(values)
        if slide_path is not None:
            SlideStateFile.load_or_new(layout, SlideInfo.of(slide_path, slide))
        return path

    return put
