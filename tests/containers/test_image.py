"""The image itself: who may run it, what it runs, what is not in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trident
from trident.executors.docker import FLAVOUR_LABEL

STRANGER = 47110
"""A user that the image does not know."""


_OTHER_PORT = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8082/')"


@pytest.fixture
def image(engine: Any) -> str:
    if engine.libraries:
        pytest.skip("no image was built for this run of the tests; `make containers-test` without SMALL=1 builds one")
    return str(engine.image)


@pytest.fixture
def run_image(engine: Any, image: str) -> Callable[..., tuple[int, str]]:
    """Function (*command, **options): runs it as a stranger without a network: (exit code, what it wrote)."""

    def run(*command: str, **options: Any) -> tuple[int, str]:
        usual = {"user": f"{STRANGER}:{STRANGER}", "network_mode": "none", "read_only": True, "cap_drop": ["ALL"]}
        usual["tmpfs"] = {"/tmp": "mode=1777"}
        container = engine.client.containers.run(image, list(command), detach=True, **{**usual, **options})
        try:
            code = container.wait(timeout=600)["StatusCode"]
            return code, container.logs().decode()
        finally:
            container.remove(force=True, v=True)

    return run


@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        (("trident", "--help"), 0, "usage: trident"),
        (("--help",), 0, "usage: trident"),
        ((), 0, "usage: trident"),
        (("luigi", "--module", "luigi_tasks", "RunCohort", "--help"), 0, "--wsi-dir"),
        (("luigid", "--help"), 0, "usage: luigid"),
        (("nonsense", "--help"), 127, "error: this image has no program nonsense; begin with trident, luigi or luigid"),
    ],
)
def test_the_entry_point(
    command: tuple[str, ...], code: int, expected: str, run_image: Callable[..., tuple[int, str]]
) -> None:
    ended, said = run_image(*command)
    assert ended == code, said
    assert expected in said


def test_any_user_can_run_the_demonstration(
    run_image: Callable[..., tuple[int, str]], drawn_slides: Callable[..., Path], tmp_path: Path
) -> None:
    slides = drawn_slides(tmp_path / "wsis", "a.svs")
    job = tmp_path / "job"
    job.mkdir()
    os.chown(job, STRANGER, STRANGER)
    code, said = run_image(
        *("luigi", "--module", "luigi_tasks", "RunCohort", "--local-scheduler", "--task", "all", "--segmenter", "otsu"),
        *("--wsi-dir", "/wsis", "--job-dir", "/job", "--patch-encoder", "stain-stats", "--patch-size", "128"),
        "--gpus=-1",
        volumes={str(slides): {"bind": "/wsis", "mode": "ro"}, str(job): {"bind": "/job", "mode": "rw"}},
    )
    assert code == 0, said
    (features,) = job.glob("20x_*/features_stain-stats/a.h5")
    assert features.stat().st_uid == STRANGER


_COMPUTE = """
import numpy, openslide, torch, torchvision
from cucim import CuImage
place, size = (256, 128), (300, 200)
with openslide.OpenSlide("/wsis/a.svs") as slide:
    expected = numpy.asarray(slide.read_region(place, 0, size))[..., :3]
numpy.testing.assert_array_equal(numpy.asarray(CuImage("/wsis/a.svs").read_region(place, size)), expected)
pixels = torch.from_numpy(expected.copy()).permute(2, 0, 1)[None] / 255
print(torch.nn.functional.conv2d(pixels, torch.ones(1, 3, 3, 3)).shape, torch.cuda.is_available())
"""


def test_torch_and_cucim_compute_on_the_cpu(
    run_image: Callable[..., tuple[int, str]], drawn_slides: Callable[..., Path], tmp_path: Path
) -> None:
    slides = drawn_slides(tmp_path / "wsis", "a.svs")
    code, said = run_image("python", "-c", _COMPUTE, volumes={str(slides): {"bind": "/wsis", "mode": "ro"}})
    assert code == 0, said
    assert said.splitlines()[-1] == "torch.Size([1, 1, 198, 298]) False"


_CALL = """
import ctypes, pathlib, torch
for library in pathlib.Path(torch.__file__).parents[1].glob("nvidia/*/lib/libcublas.so.*"):
    print(library.stat().st_size)
    ctypes.CDLL(library).cublasCreate_v2(None)
"""


def test_a_call_of_cuda_ends_in_one_line(run_image: Callable[..., tuple[int, str]]) -> None:
    code, said = run_image("python", "-c", _CALL)
    if not said:
        pytest.skip("the image was made with a CPU wheel of torch and has nothing of CUDA")
    assert code == 1, said
    # The engine has both streams in one log, in either order.
    (size_bytes,) = [int(line) for line in said.splitlines() if line.isdigit()]
    assert size_bytes < 1_000_000
    assert "CUDA was called, but this image is for computing on the CPU" in said


def test_the_version_of_cudnn_can_be_asked(run_image: Callable[..., tuple[int, str]]) -> None:
    code, said = run_image("python", "-c", "import torch; print('version', torch.backends.cudnn.version())")
    assert code == 0 and re.search(r"^version (\d{5}|None)$", said, re.MULTILINE), said


def test_weights_and_outputs_are_volumes_that_anybody_may_write(run_image: Callable[..., tuple[int, str]]) -> None:
    code, said = run_image(
        *("sh", "-c", "touch /cache/x /data/x && mkdir -p $HF_HOME && touch $HF_HOME/x $HOME/x && pwd"),
        read_only=False,
    )
    assert (code, said.strip()) == (0, "/data")


def test_nothing_of_the_build_is_left(engine: Any, image: str, run_image: Callable[..., tuple[int, str]]) -> None:
    facts = engine.client.images.get(image)
    told = f"{facts.history()} {facts.attrs['Config']}"
    assert "://" not in told and "index-url" not in told.replace("TORCH_INDEX", "")
    code, said = run_image(
        *(
            "sh",
            "-c",
            "ls /etc/pip.conf /run/secrets /src; command -v gcc cc make; find /opt -name pip -o -name pip3",
        ),
        user="0:0",
        cap_drop=[],
    )
    assert [line for line in said.splitlines() if "No such file" not in line] == []
    assert code == 0


def test_its_labels_and_user(engine: Any, image: str) -> None:
    config = engine.client.images.get(image).attrs["Config"]
    assert config["Labels"]["trident-luigi.version"] == trident.__version__
    assert config["Labels"]["org.opencontainers.image.version"] == trident.__version__
    assert config["Labels"][FLAVOUR_LABEL] == "cpu"
    assert config["User"] == "1000:1000"
    assert set(config["Volumes"]) == {"/cache", "/data"}


@pytest.mark.parametrize(
    ("arguments", "init"), [((), False), (("--port=19007",), False), (("--port", "19007"), True)], ids=str
)
def test_a_scheduler_in_it_is_found_healthy(
    arguments: tuple[str, ...], init: bool, engine: Any, image: str, wait_until: Callable[..., None]
) -> None:
    check = {"test": ["CMD", "python", "/usr/local/bin/health.py"], "interval": 500_000_000, "timeout": 10_000_000_000}
    container = engine.client.containers.run(
        *(image, ["luigid", "--state-path", "/data/state", *arguments]),
        detach=True,
        network_mode="none",
        healthcheck=check,
        init=init,
    )
    try:

        def is_healthy() -> bool:
            container.reload()
            return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

        wait_until(is_healthy)
        if arguments:  # and not because something else was looked at
            code, said = container.exec_run(["python", "-c", _OTHER_PORT])
            assert code == 1 and b"Connection refused" in said
    finally:
        container.remove(force=True, v=True)


def test_a_scheduler_that_does_not_answer_is_not_healthy(engine: Any, image: str, tmp_path: Path) -> None:
    (tmp_path / "luigid").write_text("import time; time.sleep(3600)")
    container = engine.client.containers.run(
        *(image, ["python", "/x/luigid"]),
        detach=True,
        network_mode="none",
        volumes={str(tmp_path): {"bind": "/x", "mode": "ro"}},
        user=f"{os.geteuid()}",
    )
    try:
        code, said = container.exec_run(["python", "/usr/local/bin/health.py"])
        assert (code, b"luigid does not answer on port 8082" in said) == (1, True)
    finally:
        container.remove(force=True, v=True)
