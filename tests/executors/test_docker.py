"""What is asked of a container engine, against one that only records; runs on a real one are in `tests/containers`."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import trident
from trident.errors import ExecutorError, TridentError
from trident.executors import docker
from trident.executors.docker import docker_launcher
from trident.job import Job, create_job
from trident.settings import load_settings
from trident.store.processes import current_process

_FOUND = spec_from_file_location("recording_engine", Path(__file__).with_name("recording_engine.py"))
assert _FOUND is not None and _FOUND.loader is not None
recording = sys.modules[_FOUND.name] = module_from_spec(_FOUND)
_FOUND.loader.exec_module(recording)

HOST = {"slides_per_gpu": 2, "shm_size": "512m", "executor": "docker", "image": "here/trident:1", "scheduler_url": None}


@pytest.fixture
def engine(runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    socket_path = runtime_folder / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket_path}")
    with recording.recording_engine(socket_path, {docker.VERSION_LABEL: trident.__version__}) as engine:
        yield engine


@pytest.fixture
def make_job(clean_settings: Path, tmp_path: Path, drawn_slides: Callable[..., Path]) -> Callable[..., Job]:
    """Function (**options): a job over one slide."""

    def make(**options: object) -> Job:
        usual = {
            "job_dir": tmp_path / "job",
            "wsi_dir": drawn_slides(tmp_path / "wsis", "a.svs"),
            "segmenter": "otsu",
            "patch_encoder": "stain-stats",
            "task": "all",
            "executor": "docker",
            "image": "here/trident:1",
            "shm_size": "512m",
        }
        return create_job(load_settings(**{**usual, **options}))

    return make


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def _filled(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(member, names) for key, member in value.items()}
    if isinstance(value, list):
        return [_filled(member, names) for member in value]
    if isinstance(value, str):
        if value in names:
            return names[value]
        for name, text in names.items():
            value = value.replace(name, text) if isinstance(text, str) else value
    return value


def _umask() -> str:
    now = os.umask(0)
    os.umask(now)
    return f"{now:04o}"


def test_the_request_of_a_gpu_lane_is_the_recorded_one(
    engine: Any, make_job: Callable[..., Job], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3,GPU-7")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    job = make_job()
    job.save()
    process = docker_launcher(job, HOST)(run_dir / "gpu1.1", 1)
    process.kill()
    (body,) = engine.bodies("/containers/create")
    names = {
        "$DRIVER": json.dumps(asdict(current_process())),
        "$GROUPS": [str(group) for group in os.getgroups() if group != os.getegid()],
        "$GID": str(os.getegid()),
        "$HOST": socket.gethostname(),
        "$RUN": str(run_dir),
        "$TMP": str(tmp_path),
        "$UID": str(os.geteuid()),
        "$UMASK": _umask(),
    }
    recorded = json.loads(Path(__file__).with_name("docker_request.json").read_text())
    expected = _filled(recorded, names)
    sent = json.loads(json.dumps(body))
    for part in (sent, sent["HostConfig"], sent["Healthcheck"]):  # the SDK also sends what is not asked for
        for name in [name for name, value in part.items() if value is None]:
            del part[name]
    assert sent.keys() == expected.keys()
    sent["HostConfig"].setdefault("GroupAdd", [])
    assert sent["HostConfig"].keys() == expected["HostConfig"].keys()
    for name, value in (*expected["HostConfig"].items(), *expected.items()):
        assert {**sent, **sent["HostConfig"]}[name] == value or name == "HostConfig", name


def test_a_cpu_lane_asks_for_no_gpu(engine: Any, make_job: Callable[..., Job], run_dir: Path) -> None:
    process = docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)
    process.kill()
    (body,) = engine.bodies("/containers/create")
    assert not body["HostConfig"].get("DeviceRequests")
    assert "NVIDIA_VISIBLE_DEVICES=void" in body["Env"]
    assert body["Cmd"][body["Cmd"].index("--device-index") + 1] == "-1"


def test_the_engine_is_not_spoken_to_before_an_executor_is_needed(
    engine: Any, make_job: Callable[..., Job], run_dir: Path
) -> None:
    launch = docker_launcher(make_job(), HOST)
    assert engine.requests == []
    launch(run_dir / "cpu0.1", -1).kill()
    launch(run_dir / "cpu1.1", -1).kill()
    asked = [path.partition("?")[0] for path in engine.paths()]
    assert asked.count("GET /containers/json") == asked.count("GET /images/here/trident:1/json") == 1
    assert asked.count("POST /containers/create") == 2
    names = [path.partition("name=")[2] for path in engine.paths() if "/containers/create" in path]
    assert len(set(names)) == 2


def test_its_life_is_that_of_a_process(
    engine: Any,
    make_job: Callable[..., Job],
    run_dir: Path,
    caplog: pytest.LogCaptureFixture,
    wait_until: Callable[..., None],
) -> None:
    engine.output = b"first words\nlast w\xffrds"
    engine.exit_code = 137
    with caplog.at_level(logging.INFO, "trident"):
        process = docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)
        assert process.poll() is None
        process.terminate()
        engine.ended.set()
        wait_until(lambda: process.poll() is not None and "first" in caplog.text and "last" in caplog.text)
    assert process.poll() == -9
    assert [line for line in caplog.messages if "words" in line or "last" in line] == [
        "executor cpu0.1: first words",
        "executor cpu0.1: last w\ufffdrds",
    ]
    kill = f"POST /containers/{recording.CONTAINER}/kill?signal=SIGTERM"
    assert [path for path in engine.paths() if "/kill" in path] == [kill]
    process.kill()
    assert f"DELETE /containers/{recording.CONTAINER}?v=True&link=False&force=True" in engine.paths()


@pytest.mark.parametrize(("status", "said"), [(404, 0), (409, 0), (500, 1)])
def test_a_container_that_is_gone_can_be_ended(
    status: int,
    said: int,
    engine: Any,
    make_job: Callable[..., Job],
    run_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)
    engine.answers[f"DELETE /containers/{recording.CONTAINER}"] = (status, {"message": "so it is"})
    process.kill()
    assert len([line for line in caplog.messages if "so it is" in line]) == said


@pytest.mark.parametrize(
    ("asked", "status", "message", "device_index", "expected"),
    [
        ("GET /images/here/trident:1/json", 404, "No such image: here/trident:1", -1, "no such image; build it"),
        ("POST /containers/create", 404, "No such image: here/trident:1", -1, "refuses to start an executor"),
        ("GET /containers/json", 500, "the disk\nis full", -1, "refuses to start an executor (the disk is full)"),
        (
            f"POST /containers/{recording.CONTAINER}/start",
            500,
            'could not select device driver "" with capabilities: [[gpu]]',
            0,
            "--gpus 0: the container engine hands out no GPUs",
        ),
        (
            f"POST /containers/{recording.CONTAINER}/start",
            400,
            "nvidia-container-cli: device error: 0: unknown device",
            0,
            "--gpus 0: the container engine hands out no GPUs",
        ),
        (f"POST /containers/{recording.CONTAINER}/start", 500, "python: not found", -1, "(python: not found)"),
    ],
)
def test_what_the_engine_refuses_is_one_line(
    asked: str,
    status: int,
    message: str,
    device_index: int,
    expected: str,
    engine: Any,
    make_job: Callable[..., Job],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    engine.answers[asked] = (status, {"message": message})
    with pytest.raises(ExecutorError) as caught:
        docker_launcher(make_job(), HOST)(run_dir / "lane.1", device_index)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    if asked.endswith("/start"):  # what was made is not left there
        assert any(path.startswith(f"DELETE /containers/{recording.CONTAINER}") for path in engine.paths())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [({}, "not an image of trident-luigi"), ({docker.VERSION_LABEL: "0.0.1"}, "made of version 0.0.1")],
)
def test_an_image_of_something_else_is_refused(
    labels: dict[str, str], expected: str, engine: Any, make_job: Callable[..., Job], run_dir: Path
) -> None:
    engine.answers["GET /images/here/trident:1/json"] = (200, {"Id": "sha256:2", "Config": {"Labels": labels}})
    with pytest.raises(ExecutorError, match=expected):
        docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)
    assert engine.bodies("/containers/create") == []


_START = f"POST /containers/{recording.CONTAINER}/start"
_CALLS = (
    "GET /containers/json",
    "GET /images/here/trident:1/json",
    "POST /containers/create",
    f"GET /containers/{recording.CONTAINER}/json",
    f"POST /containers/{recording.CONTAINER}/attach",
    _START,
)


@pytest.mark.parametrize("how", ["dropped", "stalled"])
@pytest.mark.parametrize("asked", ["GET /version", *_CALLS])
def test_an_engine_that_does_not_answer_is_one_line(
    asked: str, how: str, engine: Any, make_job: Callable[..., Job], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import docker as sdk

    patient = sdk.from_env
    monkeypatch.setattr(sdk, "from_env", lambda: patient(timeout=2 if how == "stalled" else 60))
    getattr(engine, how).add(asked)
    with pytest.raises(ExecutorError, match=r"engine (failed|answers here)") as caught:
        docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)
    assert "\n" not in str(caught.value)
    assert asked in [path.partition("?")[0] for path in engine.paths()]
    assert ("timed out" in str(caught.value)) == (how == "stalled")
    removed = [path.split("/")[2].partition("?")[0] for path in engine.paths() if path.startswith("DELETE")]
    if asked == "POST /containers/create":  # it may have been made, under the name that was asked for
        (name,) = [path.partition("name=")[2] for path in engine.paths() if "/containers/create" in path]
        assert removed == [name]
    elif asked in _CALLS[3:]:
        assert len(removed) == 1
    else:
        assert removed == []


def test_what_is_no_address_is_one_line(
    make_job: Callable[..., Job], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://[::1")
    with pytest.raises(ExecutorError, match=r"^tcp://\[::1: no container engine answers here \(Invalid IPv6 URL\)"):
        docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)


def test_no_engine_is_one_line(
    make_job: Callable[..., Job], run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(ExecutorError) as caught:
        docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1)
    assert str(caught.value).startswith(f"unix://{tmp_path}/nobody.sock: no container engine answers here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("flavour", "refused"), [("cpu", True), ("gpu", False), (None, False)])
def test_the_image_without_cuda_is_refused_for_a_gpu(
    flavour: str | None, refused: bool, engine: Any, make_job: Callable[..., Job], run_dir: Path
) -> None:
    labels = {docker.VERSION_LABEL: trident.__version__, **({docker.FLAVOUR_LABEL: flavour} if flavour else {})}
    engine.answers["GET /images/here/trident:1/json"] = (200, {"Id": "sha256:2", "Config": {"Labels": labels}})
    launch = docker_launcher(make_job(), HOST)
    launch(run_dir / "cpu0.1", -1).kill()
    if refused:
        with pytest.raises(ExecutorError, match=r"^--gpus 1: the image here/trident:1 is the one without CUDA"):
            launch(run_dir / "gpu1.1", 1)
    else:
        launch(run_dir / "gpu1.1", 1).kill()
    assert len(engine.bodies("/containers/create")) == (1 if refused else 2)


@pytest.mark.parametrize(
    ("image", "target"), [("x:1-cpu", "--target cpu -t x:1-cpu ."), ("x:1", "Dockerfile -t x:1 .")]
)
def test_a_missing_image_is_told_with_the_way_to_build_it(
    image: str, target: str, engine: Any, make_job: Callable[..., Job], run_dir: Path
) -> None:
    engine.answers[f"GET /images/{image}/json"] = (404, {"message": f"No such image: {image}"})
    with pytest.raises(ExecutorError) as caught:
        docker_launcher(make_job(image=image), HOST)(run_dir / "cpu0.1", -1)
    assert target in str(caught.value)


def test_leftovers_of_dead_drivers_of_this_user_are_removed(
    engine: Any, make_job: Callable[..., Job], run_dir: Path
) -> None:
    dead = json.dumps(asdict(replace(current_process(), started_ticks=1)))
    alive = json.dumps(asdict(current_process()))
    ids = {"a" * 64: dead, "b" * 64: alive, "c" * 64: '{"pid": "no"}', "d" * 64: "no JSON"}
    engine.answers["GET /containers/json"] = (200, [{"Id": one} for one in ids])
    for one, driver in ids.items():
        labels = {docker.LABEL: "x", "trident-luigi.driver": driver}
        engine.answers[f"GET /containers/{one}/json"] = (200, {"Id": one, "Name": "/x", "Config": {"Labels": labels}})
    docker_launcher(make_job(), HOST)(run_dir / "cpu0.1", -1).kill()
    removed = [path.split("/")[2].partition("?")[0] for path in engine.paths() if path.startswith("DELETE")]
    assert removed == ["a" * 64, recording.CONTAINER]
    (query,) = [path for path in engine.paths() if path.startswith("GET /containers/json")]
    assert f"uid%3D{os.geteuid()}" in query


def test_tokens_go_only_where_weights_are_fetched_and_into_no_log(
    engine: Any,
    make_job: Callable[..., Job],
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with caplog.at_level(logging.DEBUG):
        for encoder in ("stain-stats", "uni_v1"):
            docker_launcher(make_job(patch_encoder=encoder), HOST)(run_dir / "cpu0.1", -1).kill()
    without, with_weights = engine.bodies("/containers/create")
    assert without["HostConfig"]["NetworkMode"] == "none"
    assert not [entry for entry in without["Env"] if "TOKEN" in entry]
    assert with_weights["HostConfig"]["NetworkMode"] == "bridge"
    assert "HF_TOKEN=hf_secretsecretsecret" in with_weights["Env"]
    hub = str(tmp_path / "hub")
    assert {"Target": hub, "Source": hub, "Type": "bind", "ReadOnly": False} in with_weights["HostConfig"]["Mounts"]
    assert "hf_secret" not in caplog.text


def test_executors_may_start_at_the_same_time(engine: Any, make_job: Callable[..., Job], run_dir: Path) -> None:
    launch = docker_launcher(make_job(), HOST)
    problems: list[TridentError] = []

    def start(number: int) -> None:
        try:
            launch(run_dir / f"cpu{number}.1", -1).kill()
        except TridentError as error:
            problems.append(error)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(engine.bodies("/containers/create")) == 6
    assert engine.paths().count("GET /images/here/trident:1/json") == 1
