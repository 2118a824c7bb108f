"""The commands as a user starts them: real processes, a real luigid, crashes, and two runs at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socketserver
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from trident.exit_codes import FINISHED_WITH_FAILURES, INTERRUPTED, OK, USAGE

GRID = "20x_128px_0px_overlap"
OPTIONS = {
    "segmenter": "otsu",
    "mag": 20,
    "patch_size": 128,
    "patch_encoder": "stain-stats",
    "slide_encoder": "mean-stain-stats",
    "gpus": "-1",
}
STAGES = ("segmentation", "coords", "patch_features:stain-stats", "slide_features:mean-stain-stats")

Program = Callable[..., Any]


def _underscores(**options: object) -> list[str]:
    """Options as `run_batch_of_slides.py` spells them; True is a flag, None leaves one out."""
    words: list[str] = []
    for name, value in {**OPTIONS, **options}.items():
        if value is not None:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def _dashes(**options: object) -> list[str]:
    """Options as `luigi` spells them."""
    return [
        f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
        for name, value in {**OPTIONS, **options}.items()
    ]


@pytest.fixture(scope="module")
def luigid(start_luigid: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running luigid."""
    home = tmp_path_factory.mktemp("luigid")
    config = home / "quick.cfg"
    config.write_text("[scheduler]\nstable_done_cooldown_secs = 3\n")
    url, process = start_luigid(
        *("--state-path", home / "state", "--logdir", home), env={"LUIGI_CONFIG_PATH": str(config)}, cwd=home
    )
    yield url
    process.terminate()
    process.communicate(timeout=600)


def _ask(url: str, method: str, **arguments: Any) -> Any:
    query = urllib.parse.urlencode({"data": json.dumps(arguments)})
    with urllib.request.urlopen(f"{url}/api/{method}?{query}", timeout=600) as answer:
        return json.loads(answer.read())["response"]


@pytest.fixture(scope="module")
def wsis(tmp_path_factory: pytest.TempPathFactory, drawn_slides: Program) -> Path:
    return drawn_slides(tmp_path_factory.mktemp("cohort") / "wsis", "a.svs", "b.svs", "c.svs")


@pytest.fixture(scope="module")
def batch_job(wsis: Path, run_program: Program) -> Path:
    """A job directory that `run_batch_of_slides.py` made."""
    job = wsis.parent / "batch"
    done = run_program("batch", *_underscores(task="all", wsi_dir=wsis, job_dir=job))
    assert done.code == OK, done.err
    assert done.out == ""
    return job


@pytest.fixture(scope="module")
def luigi_job(wsis: Path, run_program: Program, luigid: str) -> Path:
    """The same, made through a luigid."""
    job = wsis.parent / "luigi"
    done = run_program(
        "luigi", "RunCohort", f"--scheduler-url={luigid}", *_dashes(task="all", wsi_dir=wsis, job_dir=job)
    )
    assert done.code == OK, done.err
    return job


def _outputs(job: Path) -> list[Path]:
    folders = ("contours_geojson", f"{GRID}/patches", f"{GRID}/features_stain-stats")
    folders += (f"{GRID}/slide_features_mean-stain-stats",)
    return [path for folder in folders for path in sorted((job / folder).iterdir())]


def _assert_equal_h5(one: Path, other: Path) -> None:
    with h5py.File(one) as left, h5py.File(other) as right:
        assert sorted(left) == sorted(right)
        for name in left:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name][()], right[name][()])
            attributes = [{key: str(value) for key, value in file[name].attrs.items()} for file in (left, right)]
            for found in attributes:
                found.pop("savetodir")
            assert attributes[0] == attributes[1]


def _assert_whole(job: Path, slides: str = "abc") -> None:
    """Every output is there and valid."""
    assert [path.stem.removesuffix("_patches") for path in _outputs(job)] == list(slides) * 4
    for path in _outputs(job):
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                assert len(file["coords"]) > 0
                assert "features" not in file or np.isfinite(file["features"][()]).all()
        else:
            assert json.loads(path.read_text())["type"] == "FeatureCollection"


def _attempts(job: Path) -> dict[str, dict[str, list[str]]]:
    """slide -> stage -> results of its attempts."""
    states = [json.loads(path.read_text()) for path in sorted((job / "wsi_states").glob("[!.]*.json"))]
    return {
        state["slide"]["name"]: {
            key: [try_["result"] for try_ in task["attempts"]] for key, task in state["tasks"].items()
        }
        for state in states
    }


ONCE = {stage: ["completed"] for stage in STAGES}


def test_states_say_where_the_time_went(batch_job: Path) -> None:
    pixels = {"decode", "wait", "total", "write"}
    by_stage = {
        "segmentation": pixels | {"open"},
        "coords": {"open", "write", "total"},
        "patch_features": pixels | {"open", "read", "transform", "load", "encode"},
        "slide_features": pixels | {"read", "load", "encode"},
    }
    for path in (batch_job / "wsi_states").glob("[!.]*.json"):
        for key, task in json.loads(path.read_text())["tasks"].items():
            assert task["timings"].keys() >= by_stage[key.partition(":")[0]], key
            assert min(task["timings"].values()) >= 0


def test_both_doors_give_the_same_outputs(batch_job: Path, luigi_job: Path) -> None:
    ours, theirs = _outputs(batch_job), _outputs(luigi_job)
    assert [path.relative_to(batch_job) for path in ours] == [path.relative_to(luigi_job) for path in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one.suffix == ".h5":
            _assert_equal_h5(one, other)
        else:
            left, right = (json.loads(path.read_text())["features"] for path in (one, other))
            assert left == right
    assert _attempts(batch_job) == _attempts(luigi_job) == dict.fromkeys("abc", ONCE)


def test_luigid_shows_every_task_as_done(luigi_job: Path, luigid: str) -> None:
    tasks = _ask(luigid, "task_list", status="DONE", upstream_status="")
    mine = [task for task in tasks.values() if str(luigi_job) in task["params"]["job"]]
    families = sorted((task["name"], task["params"].get("slide")) for task in mine)
    per_slide = ("PatchCoords", "PatchFeatures", "SegmentSlide", "SlideEmbedding")
    expected = [(name, slide) for name in per_slide for slide in "abc"] + [("RunCohort", None)]
    assert families == sorted(expected, key=lambda pair: pair[0] + (pair[1] or ""))
    for task in mine:
        assert set(task["params"]) == {"job", "run_id" if task["name"] == "RunCohort" else "slide"}
        assert task["priority"] >= 0


def test_a_luigid_that_knows_the_tasks_as_done_makes_deleted_outputs_again(
    luigi_job: Path, luigid: str, run_program: Program, wsis: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    arguments = _underscores(task="coords", wsi_dir=wsis, job_dir=job, scheduler_url=luigid, skip_errors=True)
    done = run_program("batch", *arguments)
    assert done.code == FINISHED_WITH_FAILURES, done.err  # no tissue yet
    shutil.copytree(luigi_job / "contours_geojson", job / "contours_geojson")
    done = run_program("batch", *arguments)  # the same job, whose tasks luigid knows as failed
    assert done.code == OK, done.err
    coords = job / GRID / "patches/b_patches.h5"
    before = coords.read_bytes()
    coords.unlink()
    done = run_program("batch", *arguments)
    assert done.code == OK, done.err
    assert "1 stages made, 2 were done" in done.err
    assert len(coords.read_bytes()) == len(before)


def test_a_second_run_of_either_door_does_nothing(
    batch_job: Path, luigi_job: Path, wsis: Path, luigid: str, run_program: Program
) -> None:
    before = {path: path.stat().st_mtime_ns for path in _outputs(batch_job) + _outputs(luigi_job)}
    done = run_program("batch", *_underscores(task="all", wsi_dir=wsis, job_dir=batch_job))
    assert done.code == OK
    assert "nothing to do: all 12 stages of 3 slides are done" in done.err
    done = run_program(
        "luigi", "RunCohort", f"--scheduler-url={luigid}", *_dashes(task="all", wsi_dir=wsis, job_dir=luigi_job)
    )
    assert done.code == OK
    assert "nothing to do" in done.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "skipped: 3" in (batch_job / "summary.md").read_text().split("\n## ")[-1]


def test_two_runs_at_once_share_the_work(
    wsis: Path,
    tmp_path: Path,
    start_program: Program,
    finish_program: Program,
    batch_job: Path,
    left_behind: Callable[[Path], list[Path]],
) -> None:
    job = tmp_path / "job"
    command = ("luigi", "RunCohort", "--local-scheduler", *_dashes(task="all", wsi_dir=wsis, job_dir=job))
    both = [finish_program(process) for process in [start_program(*command) for _ in range(2)]]
    assert [done.code for done in both] == [OK, OK], both[0].err + both[1].err
    _assert_whole(job)
    assert left_behind(job) == []
    assert _attempts(job) == dict.fromkeys("abc", ONCE)
    assert len(list((job / "runs").iterdir())) == 2
    counts = [int(count) for count in re.findall(r"completed: (\d+)", (job / "summary.md").read_text())]
    assert sum(counts) == 12  # each run counts what it made itself
    for one, other in zip(_outputs(job), _outputs(batch_job), strict=True):
        if one.suffix == ".h5":
            _assert_equal_h5(one, other)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_is_finished_by_the_next(
    way: signal.Signals,
    wsis: Path,
    tmp_path: Path,
    moody: Any,
    start_program: Program,
    finish_program: Program,
    wait_until: Callable[..., None],
    is_gone: Callable[[int], bool],
    left_behind: Callable[[Path], list[Path]],
) -> None:
    job = tmp_path / "job"
    arguments = _underscores(task="all", wsi_dir=wsis, job_dir=job, patch_encoder=moody.name, slide_encoder=None)
    with_moody = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    moody.order("wait")  # in the middle of the features of the first slide
    process = start_program("batch", *arguments, env=with_moody)
    wait_until(moody.stuck, process)
    ((_, executor),) = moody.stuck()
    process.send_signal(way)
    killed = finish_program(process)
    assert killed.code == (-way if way is signal.SIGKILL else INTERRUPTED)
    assert "Traceback" not in killed.err
    wait_until(lambda: is_gone(executor))
    features = job / GRID / "features_moody"
    assert not list(features.glob("*.h5"))
    tissue = job / "contours_geojson/a.geojson"
    before = tissue.stat().st_mtime_ns
    moody.forget()
    done = finish_program(start_program("batch", *arguments, env=with_moody))
    assert done.code == OK, done.err
    assert tissue.stat().st_mtime_ns == before
    attempts = _attempts(job)
    once = {key: ["completed"] for key in ("segmentation", "coords", "patch_features:moody")}
    assert attempts["a"] == {**once, "patch_features:moody": ["error", "completed"]}
    assert attempts["b"] == attempts["c"] == once
    assert left_behind(job) == []
    with h5py.File(features / "a.h5") as file:
        assert len(file["features"]) == len(file["coords"]) > 0


def test_one_slide_by_either_door(wsis: Path, tmp_path: Path, run_program: Program, batch_job: Path) -> None:
    slide = wsis / "a.svs"
    done = run_program("trident", "single", "--", *_underscores(slide_path=slide, job_dir=tmp_path / "single"))
    assert done.code == OK, done.err
    done = run_program(
        "luigi", "SlideEmbedding", "--local-scheduler", *_dashes(slide_path=slide, job_dir=tmp_path / "task")
    )
    assert done.code == OK, done.err
    expected = [path for path in _outputs(batch_job) if path.name.startswith("a") and path.suffix == ".h5"]
    for job in (tmp_path / "single", tmp_path / "task"):
        for path in expected:
            _assert_equal_h5(job / path.relative_to(batch_job), path)
        assert _attempts(job) == {"a": ONCE}


@pytest.mark.parametrize(("task", "made"), [("SegmentSlide", 1), ("PatchCoords", 2)])
def test_a_task_class_alone_makes_what_it_needs(
    task: str, made: int, wsis: Path, tmp_path: Path, run_program: Program
) -> None:
    arguments = _dashes(slide_path=wsis / "a.svs", job_dir=tmp_path / "job")
    done = run_program("luigi", task, "--local-scheduler", *arguments)
    assert done.code == OK, done.err
    assert _attempts(tmp_path / "job") == {"a": {stage: ["completed"] for stage in STAGES[:made]}}


def test_what_stops_a_run_before_its_slides_is_shown_by_luigi_too(
    wsis: Path, tmp_path: Path, run_program: Program
) -> None:
    arguments = _dashes(
        task="all", wsi_dir=wsis, job_dir=tmp_path / "job", patch_encoder="uni_v1", slide_encoder="mean-uni_v1"
    )
    done = run_program("luigi", "RunCohort", "--local-scheduler", *arguments, "--patch-encoder-ckpt-path=/none.pt")
    assert done.code == USAGE
    assert "/none.pt" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "job/wsi_states").exists()


@pytest.fixture
def deaf() -> Iterator[tuple[str, list[Any]]]:
    """Address of a server that says nothing, and who asked it."""
    asked: list[Any] = []

    class Deaf(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), Deaf) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "error: http://127.0.0.1:1: luigid does not answer"),
        (None, ": luigid does not answer"),
        ("localhost:8082", "http://host:port"),
        ("ftp://me:hush@localhost", "error: ftp://[removed]@localhost: no address: write it as http://host:port"),
        ("http://me:hush@127.0.0.1:1", "error: http://[removed]@127.0.0.1:1: luigid does not answer"),
    ],
)
def test_a_luigid_that_does_not_answer_is_one_line(
    url: str | None, says: str, wsis: Path, tmp_path: Path, run_program: Program, deaf: tuple[str, list[Any]]
) -> None:
    options = {"task": "seg", "wsi_dir": wsis, "job_dir": tmp_path / "job", "scheduler_url": url or deaf[0]}
    done = run_program("batch", *_underscores(**options))
    assert done.code == USAGE
    assert says in done.err
    assert "hush" not in done.err
    assert done.err.count("\n") == 1
    assert len(deaf[1]) == (url is None)  # Luigi itself would try again for a minute


def test_real_slides_with_bad_ones_among_them(shared_slides: Path, tmp_path: Path, run_program: Program) -> None:
    good = {"CMU-1-Small-Region.svs": "", "TCGA-CR-7395-no-mpp.svs": "2.0"}
    bad = {"unreadable.svs": "0.5", "truncated.svs": "", "unopenable.tiff": ""}
    wsis = tmp_path / "wsis"
    wsis.mkdir()
    for name in (*good, *bad):
        (wsis / name).symlink_to(shared_slides / name)
    table = tmp_path / "list.csv"
    table.write_text("wsi,mpp\n" + "".join(f"{name},{mpp}\n" for name, mpp in {**good, **bad}.items()))
    job = tmp_path / "job"
    arguments = _underscores(
        task="all", wsi_dir=wsis, job_dir=job, custom_list_of_wsis=table, patch_size=512, mag=5, skip_errors=True
    )
    done = run_program("batch", *arguments)
    assert done.code == FINISHED_WITH_FAILURES
    assert "Traceback" not in done.err
    errors = (job / "summary.md").read_text().partition("### Errors (3)")[2]
    for name in bad:
        assert sum(f"`{name}`" in line for line in errors.splitlines()) == 1, errors
    for name in good:
        stem = name.removesuffix(".svs")
        grid = job / "5x_512px_0px_overlap"
        with h5py.File(grid / f"features_stain-stats/{stem}.h5") as file:
            assert len(file["features"]) == len(file["coords"]) > 0
            assert np.isfinite(file["features"][()]).all()
        assert (grid / f"slide_features_mean-stain-stats/{stem}.h5").is_file()
    states = {
        state["slide"]["name"]: state
        for state in (json.loads(path.read_text()) for path in (job / "wsi_states").glob("[!.]*.json"))
    }
    assert states["TCGA-CR-7395-no-mpp"]["meta"]["mpp"] == 2.0
    assert {name for name, state in states.items() if state["resume"]["last_status"] == "error"} == {
        "unreadable",
        "truncated",
        "unopenable",
    }
