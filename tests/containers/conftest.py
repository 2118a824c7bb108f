"""A real container engine, an image for it, and runs with `--executor docker`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import trident
from trident.executors.docker import LABEL, VERSION_LABEL

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_paths()["purelib"])

# The smallest image in which an executor runs: the packages are those of this environment, mounted.
_SMALL = """
FROM {base}
RUN ln -s "$(command -v python3)" /usr/local/bin/python && install -d -m 1777 /home/trident
ENV HOME=/home/trident USER=trident PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={root}:{site}
LABEL {label}="{version}"
"""


@dataclass(frozen=True)
class Engine:
    """The engine of these tests and the image that they use."""

    host: str
    client: Any
    base: str
    image: str
    libraries: tuple[Path, ...]
    """Folders of this machine that the image does not have; empty for an image that is whole."""

    def executors(self) -> list[Any]:
        """All containers that are, or were to be, executors."""
        return list(self.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    host = os.environ.get("TRIDENT_TEST_ENGINE")
    if not host:
        pytest.skip("no container engine was given to the tests; `make containers-test` starts one")
    import docker

    client = docker.DockerClient(base_url=host)
    base = os.environ.get("TRIDENT_TEST_BASE", "trident-base:bookworm")
    image = os.environ.get("TRIDENT_TEST_IMAGE")
    if image:
        yield Engine(host, client, base, image, ())
    else:
        yield Engine(host, client, base, _small_image(client, base), (ROOT, SITE))
    client.close()


def _small_image(client: Any, base: str) -> str:
    inside = client.containers.run(base, ["python3", "-c", "import sys; print(*sys.version_info[:2])"], remove=True)
    if tuple(map(int, inside.split())) != sys.version_info[:2]:
        pytest.skip(f"{base} has Python {inside.decode().strip()}, for which these packages were not installed")
    text = _SMALL.format(base=base, root=ROOT, site=SITE, label=VERSION_LABEL, version=trident.__version__)
    content = io.BytesIO(text.encode())
    image, _ = client.images.build(fileobj=content, tag="trident-luigi:small", network_mode="none", rm=True)
    return str(image.tags[0])


@pytest.fixture
def start_run(engine: Engine, tmp_path: Path, runtime_folder: Path) -> Callable[..., subprocess.Popen[str]]:
    """Function (job, *arguments, executor, image, moody): starts a run over the slides in `wsis` on one CPU lane.

    With `moody` it is that encoder's features that are made, and no embeddings.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRIDENT_", "LUIGI_"))}

    def start(
        job: Path, *arguments: object, executor: str = "docker", image: str | None = None, moody: Any = None
    ) -> subprocess.Popen[str]:
        encoders = ("--patch_encoder", "stain-stats", "--slide_encoder", "mean-stain-stats")
        path, extra = str(ROOT), {}
        if moody is not None:
            encoders = ("--patch_encoder", moody.name)
            path, extra = os.pathsep.join([str(moody.site), path]), {"MOODY": str(moody.site.parent)}
        options = (
            *("--wsi_dir", tmp_path / "wsis", "--job_dir", job, "--task", "all", "--segmenter", "otsu"),
            *(*encoders, "--mag", 20, "--patch_size", 128),
            *("--executor", executor, "--image", image or engine.image, *arguments),
        )
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "containers" / "driver.py"), *map(str, options)],
            cwd=tmp_path,
            env={
                **clean,
                **extra,
                "PYTHONPATH": path,
                "DOCKER_HOST": engine.host,
                "XDG_RUNTIME_DIR": str(runtime_folder),
                "LIBRARIES": os.pathsep.join(map(str, engine.libraries)),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def run_to_end(start_run: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """Function like `start_run`: (exit code, what the run said)."""

    def run(*arguments: object, **where: Any) -> tuple[int, str]:
        process = start_run(*arguments, **where)
        try:
            said = process.communicate(timeout=600)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, said

    return run
