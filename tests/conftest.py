"""Fixtures that several test folders share."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
            out, err = process.communicate(timeout=120)
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


@pytest.fixture
def quiet_process(clean_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a command does to its process: its log handlers, and the GPUs that it hides."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    loggers = [logging.getLogger(name) for name in ("trident", "luigi_tasks", "luigi-interface")]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


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
