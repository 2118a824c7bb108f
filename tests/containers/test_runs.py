"""Whole runs whose executors are containers of a real engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from trident.demo import draw_demo_slide
from trident.errors import ExecutorError
from trident.executors.docker import docker_launcher
from trident.exit_codes import OK
from trident.job import create_job
from trident.settings import load_settings
from trident.store.locks import lock_status
from trident.store.processes import Liveness


def _data(path: Path) -> dict[str, Any]:
    """Every dataset of an HDF5 file, and the names of the attributes."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
        for name, item in [("", file), *((name, file[name]) for name in list(found))]:
            found.update({f"{name}@{key}": None for key in item.attrs})
    return found


def _outlines(path: Path) -> list[Any]:
    return [feature["geometry"] for feature in json.loads(path.read_text())["features"]]


def _files(job: Path) -> dict[str, Path]:
    """The outputs by their name in the job directory."""
    found = {str(path.relative_to(job)): path for path in job.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if not name.startswith((".trident/", "runs/"))}


@pytest.fixture
def slides(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Path:
    """Two slides, one of them a link to a folder elsewhere."""
    drawn_slides(tmp_path / "archive", "b.svs")
    folder = drawn_slides(tmp_path / "wsis", "a.svs")
    (folder / "b.svs").symlink_to("../archive/b.svs")
    return folder


@pytest.fixture(scope="module")
def drawn_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.svs"
    draw_demo_slide(path, seed=3, width_px=4096, height_px=3072)
    return path


@pytest.fixture
def large_slide(tmp_path: Path, drawn_large: Path) -> Path:
    """A slide that keeps an executor busy for a second, in the folder of the run's slides."""
    (tmp_path / "wsis").mkdir()
    return shutil.copyfile(drawn_large, tmp_path / "wsis" / drawn_large.name)


def _stop_in_the_middle(job: Path, run: subprocess.Popen[str], engine: Any) -> tuple[Any, Path]:
    """The executor, paused in the middle of a stage, and the output whose lock it holds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if run.poll() is not None:
            break
        for folder in job.glob("20x_*/features_*"):
            for lock in folder.glob("*.h5.lock"):
                (container,) = engine.executors()
                container.pause()
                if lock.exists():
                    return container, lock.with_name(lock.name.removesuffix(".lock"))
                container.unpause()
        time.sleep(0.01)
    raise AssertionError(run.communicate()[1] if run.poll() is not None else "no stage began")


def _wait_until(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()


def test_outputs_are_those_of_a_run_without_containers(
    run_to_end: Callable[..., tuple[int, str]], slides: Path, tmp_path: Path, engine: Any
) -> None:
    volumes = len(engine.client.volumes.list())
    before = os.umask(0o027)  # a container would have a mask of its own
    try:
        native = run_to_end(tmp_path / "native", "--gpus", -1, executor="process")
        contained = run_to_end(tmp_path / "contained", "--gpus", -1, "--wsi_cache", tmp_path / "cache")
    finally:
        os.umask(before)
    assert (native[0], contained[0]) == (OK, OK), native[1] + contained[1]
    ours, theirs = _files(tmp_path / "contained"), _files(tmp_path / "native")
    assert ours.keys() == theirs.keys()
    assert {Path(name).suffix for name in ours} >= {".h5", ".geojson", ".jpg", ".json", ".md", ".txt"}
    for name, path in ours.items():
        facts, expected = path.stat(), theirs[name].stat()
        assert (facts.st_uid, facts.st_gid) == (os.geteuid(), os.getegid())
        assert stat.S_IMODE(facts.st_mode) == stat.S_IMODE(expected.st_mode), name
        if name.endswith(".h5"):
            data, other = _data(path), _data(theirs[name])
            assert data.keys() == other.keys()
            for key, value in data.items():
                np.testing.assert_array_equal(value, other[key], err_msg=f"{name}: {key}")
        elif name.endswith(".geojson"):
            assert _outlines(path) == _outlines(theirs[name])
        elif name.endswith(".jpg"):
            assert path.read_bytes() == theirs[name].read_bytes(), name
    assert _wait_until(lambda: engine.executors() == [])
    assert len(engine.client.volumes.list()) == volumes


def test_a_killed_container_costs_one_retry_and_its_lock_is_taken_over(
    start_run: Callable[..., subprocess.Popen[str]], large_slide: Path, tmp_path: Path, engine: Any
) -> None:
    run = start_run(tmp_path / "job", "--gpus", -1)
    container, output = _stop_in_the_middle(tmp_path / "job", run, engine)
    holder = lock_status(output)
    assert holder is not None
    assert holder.state is Liveness.ALIVE  # as seen from outside of the container, which gives no sign of life
    container.unpause()
    container.kill()
    said = run.communicate(timeout=180)[1]
    assert run.returncode == OK, said
    assert "ended by signal 9 (SIGKILL); begun again" in said
    assert "taking over the lock" in said
    assert list((tmp_path / "job").rglob("*.lock")) == []
    assert _wait_until(lambda: engine.executors() == [])


def test_a_killed_driver_leaves_no_container(
    start_run: Callable[..., subprocess.Popen[str]],
    run_to_end: Callable[..., tuple[int, str]],
    large_slide: Path,
    tmp_path: Path,
    engine: Any,
) -> None:
    run = start_run(tmp_path / "job", "--gpus", -1)
    container, _ = _stop_in_the_middle(tmp_path / "job", run, engine)
    labels = container.labels
    run.send_signal(signal.SIGKILL)
    run.communicate()
    container.unpause()
    assert _wait_until(lambda: engine.executors() == [])
    # As of a driver that was killed between making a container and starting it.
    engine.client.containers.create(engine.image, ["true"], labels=labels)
    foreign = engine.client.containers.create(engine.image, ["true"], labels={**labels, "trident-luigi.uid": "4711"})
    try:
        code, said = run_to_end(tmp_path / "job", "--gpus", -1)
        assert code == OK, said
        assert "removing container" in said
        assert _wait_until(lambda: [one.id for one in engine.executors()] == [foreign.id])
    finally:
        foreign.remove(force=True)


def test_an_interrupted_run_leaves_nothing(
    start_run: Callable[..., subprocess.Popen[str]], large_slide: Path, tmp_path: Path, engine: Any
) -> None:
    run = start_run(tmp_path / "job", "--gpus", -1)
    container, _ = _stop_in_the_middle(tmp_path / "job", run, engine)
    container.unpause()
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert said.splitlines()[-1] == "interrupted"
    assert _wait_until(lambda: engine.executors() == [])
    assert [path.name for path in (tmp_path / "job").rglob("*") if path.suffix == ".lock" or ".tmp" in path.name] == []


def _last_line(said: str) -> str:
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, "has no such image; build it"),
        ({}, "not an image of trident-luigi"),
        ({"trident-luigi.version": "0.0.1"}, "made of version 0.0.1, and this is version"),
    ],
    ids=["absent", "another", "older"],
)
def test_a_wrong_image_is_one_line(
    labels: dict[str, str] | None,
    expected: str,
    run_to_end: Callable[..., tuple[int, str]],
    slides: Path,
    tmp_path: Path,
    engine: Any,
) -> None:
    image = "trident-luigi-test:wrong"
    if labels is not None:
        container = engine.client.containers.create(engine.base, ["true"])
        changes = "\n".join(f'LABEL "{key}"="{value}"' for key, value in labels.items())
        container.commit(*image.split(":"), changes=changes or None)
        container.remove()
    try:
        code, said = run_to_end(tmp_path / "job", "--gpus", -1, image=image)
    finally:
        if labels is not None:
            engine.client.images.remove(image, force=True)
    assert code != OK
    assert expected in _last_line(said)
    assert image in _last_line(said)


def test_a_gpu_lane_on_an_engine_without_gpus_is_one_line(
    slides: Path, tmp_path: Path, engine: Any, clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver, so its engine may well hand out GPUs")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    job = create_job(load_settings(wsi_dir=slides, job_dir=tmp_path / "job", segmenter="otsu", image=engine.image))
    job.save()
    (tmp_path / "lane").mkdir()
    with pytest.raises(ExecutorError) as caught:
        docker_launcher(job, {})(tmp_path / "lane" / "gpu0.1", 0)
    assert str(caught.value).startswith(
        "--gpus 0: the container engine hands out no GPUs (could not select device driver"
    )
    assert "\n" not in str(caught.value)
    assert _wait_until(lambda: engine.executors() == [])
