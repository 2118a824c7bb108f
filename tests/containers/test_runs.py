"""Whole runs whose executors are containers of a real engine."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import trident
from trident.errors import ExecutorError
from trident.executors.docker import FLAVOUR_LABEL, VERSION_LABEL, docker_launcher
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


@pytest.fixture
def slide(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Path:
    """One slide in the folder of the run's slides."""
    return drawn_slides(tmp_path / "wsis", "a.svs") / "a.svs"


def test_outputs_are_those_of_a_run_without_containers(
    run_to_end: Callable[..., tuple[int, str]],
    slides: Path,
    tmp_path: Path,
    engine: Any,
    wait_until: Callable[..., None],
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
    wait_until(lambda: engine.executors() == [])
    wait_until(lambda: len(engine.client.volumes.list()) == volumes)


def test_slides_over_links_and_paths_with_dots_are_found(
    run_to_end: Callable[..., tuple[int, str]], tmp_path: Path, drawn_slides: Callable[..., Path], engine: Any
) -> None:
    drawn_slides(tmp_path / "real" / "wsis", "a.svs")
    drawn_slides(tmp_path / "real" / "archive", "b.svs")
    (tmp_path / "real" / "wsis" / "b.svs").symlink_to("../archive/b.svs")
    (tmp_path / "el").mkdir()
    (tmp_path / "el" / "link").symlink_to("../real/wsis")
    job, current = tmp_path / "job", tmp_path.name
    code, said = run_to_end(Path("..") / current / "job", "--gpus", -1, "--wsi_dir", "real/../el/link")
    assert code == OK, said
    assert sorted(path.name for path in job.glob("*/features_stain-stats/*.h5")) == ["a.h5", "b.h5"]


def test_a_killed_container_costs_one_retry_and_its_lock_is_taken_over(
    start_run: Callable[..., subprocess.Popen[str]],
    slide: Path,
    tmp_path: Path,
    engine: Any,
    moody: Any,
    wait_until: Callable[..., None],
) -> None:
    moody.order("wait")
    run = start_run(tmp_path / "job", "--gpus", -1, moody=moody)
    wait_until(moody.stuck, run)
    (container,) = engine.executors()
    container.pause()
    holder = lock_status(tmp_path / "job" / "20x_128px_0px_overlap" / "features_moody" / "a.h5")
    assert holder is not None
    assert holder.state is Liveness.ALIVE  # as seen from outside of the container, which gives no sign of life
    container.unpause()
    container.kill()
    moody.forget()
    said = run.communicate(timeout=600)[1]
    assert run.returncode == OK, said
    assert "ended by signal 9 (SIGKILL); begun again" in said
    assert "taking over the lock" in said
    assert list((tmp_path / "job").rglob("*.lock")) == []
    wait_until(lambda: engine.executors() == [])


def test_a_killed_driver_leaves_no_container(
    start_run: Callable[..., subprocess.Popen[str]],
    run_to_end: Callable[..., tuple[int, str]],
    slide: Path,
    tmp_path: Path,
    engine: Any,
    moody: Any,
    wait_until: Callable[..., None],
) -> None:
    moody.order("wait")
    run = start_run(tmp_path / "job", "--gpus", -1, moody=moody)
    wait_until(moody.stuck, run)
    (container,) = engine.executors()
    labels = container.labels
    run.send_signal(signal.SIGKILL)
    run.communicate()
    wait_until(lambda: engine.executors() == [])
    moody.forget()
    # As of a driver that was killed between making a container and starting it.
    engine.client.containers.create(engine.image, ["true"], labels=labels)
    foreign = engine.client.containers.create(engine.image, ["true"], labels={**labels, "trident-luigi.uid": "4711"})
    try:
        code, said = run_to_end(tmp_path / "job", "--gpus", -1, moody=moody)
        assert code == OK, said
        assert "removing container" in said
        wait_until(lambda: [one.id for one in engine.executors()] == [foreign.id])
    finally:
        foreign.remove(force=True)


def test_an_interrupted_run_leaves_nothing(
    start_run: Callable[..., subprocess.Popen[str]],
    slide: Path,
    tmp_path: Path,
    engine: Any,
    moody: Any,
    wait_until: Callable[..., None],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    moody.order("wait")
    run = start_run(tmp_path / "job", "--gpus", -1, moody=moody)
    wait_until(moody.stuck, run)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=600)[1]
    assert said.splitlines()[-1] == "interrupted"
    wait_until(lambda: engine.executors() == [])
    assert left_behind(tmp_path / "job") == []


def _last_line(said: str) -> str:
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.fixture
def labelled(engine: Any) -> Iterator[Callable[[dict[str, str]], str]]:
    """Function (labels): the name of an image that has these and does nothing."""
    image = "trident-luigi-test:labelled"

    def make(labels: dict[str, str]) -> str:
        container = engine.client.containers.create(engine.base, ["true"])
        changes = "\n".join(f'LABEL "{key}"="{value}"' for key, value in labels.items())
        container.commit(*image.split(":"), changes=changes or None)
        container.remove()
        return image

    yield make
    if engine.client.images.list(name=image):
        engine.client.images.remove(image, force=True)


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
    labelled: Callable[[dict[str, str]], str],
) -> None:
    image = "trident-luigi-test:absent" if labels is None else labelled(labels)
    code, said = run_to_end(tmp_path / "job", "--gpus", -1, image=image)
    assert code != OK
    assert expected in _last_line(said)
    assert image in _last_line(said)


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        ("gpu", "the container engine hands out no GPUs (could not select device driver"),
        ("cpu", "the image trident-luigi-test:labelled is the one without CUDA"),
    ],
)
def test_a_gpu_lane_that_cannot_be_is_one_line(
    flavour: str,
    expected: str,
    labelled: Callable[[dict[str, str]], str],
    slides: Path,
    tmp_path: Path,
    engine: Any,
    clean_settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver, so its engine may well hand out GPUs")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    image = labelled({VERSION_LABEL: trident.__version__, FLAVOUR_LABEL: flavour})
    job = create_job(load_settings(wsi_dir=slides, job_dir=tmp_path / "job", segmenter="otsu", image=image))
    job.save()
    (tmp_path / "lane").mkdir()
    with pytest.raises(ExecutorError) as caught:
        docker_launcher(job, {})(tmp_path / "lane" / "gpu0.1", 0)
    assert str(caught.value).startswith(f"--gpus 0: {expected}")
    assert "\n" not in str(caught.value)
    wait_until(lambda: engine.executors() == [])
