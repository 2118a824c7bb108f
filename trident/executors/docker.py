"""Executors as containers, for `--executor docker`: the same process as otherwise, with the image's libraries.

A container sees the folders of its job under their own paths and little else. It runs as the user of this process,
without privileges, with a read-only image and without a network unless weights have to be fetched. It shares this
host's name and its table of processes, because locks and temporary files are told to be alive or dead by these.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident import __version__
from trident.devices import physical_name
from trident.errors import ExecutorError
from trident.executors.container_needs import ContainerNeeds, container_needs
from trident.executors.executor import Launch
from trident.store.processes import Liveness, ProcessIdentity, current_process, liveness

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

    from trident.job import Job

logger = logging.getLogger(__name__)

LABEL = "trident-luigi.executor"
"""Label of every container that is an executor; its value is the lane's socket."""
VERSION_LABEL = "trident-luigi.version"
"""Label of the image: the version of the code in it."""
FLAVOUR_LABEL = "trident-luigi.flavour"
"""Label of the image: `cpu` if there is no CUDA in it, else `gpu`."""
_DRIVER_LABEL = "trident-luigi.driver"
_USER_LABEL = "trident-luigi.uid"
_IMAGE_HOME = "/home/trident"
_UNKNOWN_CODE = 255
"""Exit code of a container of which the engine says no more."""
_OF_THE_DRIVER = frozenset({"executor", "image", "shm_size", "scheduler_url"})
"""Options of the host that an executor has no use for."""
_GONE = (404, 409)
"""What the engine answers about a container that has ended already, or is being removed."""


def docker_launcher(job: Job, host: Mapping[str, Any]) -> Launch:
    """Starts executors as containers. The engine is spoken to when the first one starts, and not before.

    Args:
        job: the job that the executors will work on.
        host: options of the run that are no part of its job file, in JSON form.
    """
    return _Launcher(job, host)


class _Launcher:
    """Starts containers; what is the same for all of a run is found out once."""

    def __init__(self, job: Job, host: Mapping[str, Any]) -> None:
        self._job = job
        self._host = dict(host)
        self._image = job.settings.image or f"trident-luigi:{__version__}"
        self._starting = threading.Lock()
        self._needs: ContainerNeeds | None = None
        self._flavour: str | None = None

    def __call__(self, socket_path: Path, device_index: int) -> ContainerProcess:
        """Start one.

        Raises:
            ExecutorError: there is no engine, no such image, no support for GPUs, or a path that cannot be mounted.
        """
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException

        client = _client()
        try:
            with self._starting:
                if self._needs is None:
                    _remove_leftovers(client)
                    self._flavour = _check_image(client, self._image)
                    self._needs = container_needs(self._job)
            if device_index >= 0 and self._flavour == "cpu":
                raise ExecutorError(
                    f"--gpus {device_index}: the image {self._image} is the one without CUDA; name the image for GPUs "
                    "with --image, or compute on the CPU with --gpus -1"
                )
            request = container_request(self._image, self._needs, socket_path, device_index, self._host)
            process = _created(client, request, socket_path.name)
            try:
                process.start()
            except (DockerException, RequestException):
                process.kill()
                raise
        except APIError as error:
            raise ExecutorError(_explain(error, self._image, device_index)) from error
        except (DockerException, RequestException) as error:
            raise ExecutorError(f"the container engine failed ({_line(error)}); look at its log") from error
        return process


class ContainerProcess:
    """A container, as the driver sees a process."""

    def __init__(self, client: DockerClient, container: Container, name: str) -> None:
        self._client = client
        self._container = container
        self._name = name
        self._code: int | None = None

    def start(self) -> None:
        """Start it; from now on its output is part of this process's log."""
        output = self._container.attach(stream=True, logs=True)
        self._container.start()
        threading.Thread(target=self._show, args=(output,), name=f"output-{self._name}", daemon=True).start()
        threading.Thread(target=self._wait, name=f"container-{self._name}", daemon=True).start()

    def poll(self) -> int | None:
        """None while it runs, then its exit code (negative: a signal)."""
        return self._code

    def terminate(self) -> None:
        """Tell it to end."""
        with self._may_be_gone():
            self._container.kill(signal="SIGTERM")

    def kill(self) -> None:
        """End and remove it, whether it ever ran or not."""
        with self._may_be_gone():
            self._container.remove(force=True, v=True)

    def _wait(self) -> None:
        from docker.errors import APIError
        from requests.exceptions import RequestException

        try:
            code = int(self._container.wait()["StatusCode"])
        except (APIError, RequestException, KeyError) as error:
            logger.debug("executor %s: its container is gone, or the engine is (%s)", self._name, error)
            code = _UNKNOWN_CODE
        self._code = 128 - code if 128 < code < _UNKNOWN_CODE else code
        self._client.close()

    def _show(self, output: Iterator[bytes]) -> None:
        """What it writes beside its log: the words of libraries, and of a crash."""
        from requests.exceptions import RequestException

        rest = b""
        try:
            for chunk in output:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(line)
        except (OSError, RequestException) as error:
            logger.debug("executor %s: its output is cut off (%s)", self._name, error)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        logger.info("executor %s: %s", self._name, line.decode("utf-8", "replace").rstrip())

    @contextlib.contextmanager
    def _may_be_gone(self) -> Iterator[None]:
        from docker.errors import APIError
        from requests.exceptions import RequestException

        try:
            yield
        except (APIError, RequestException) as error:
            if not isinstance(error, APIError) or error.status_code not in _GONE:
                logger.warning("executor %s: the container engine failed (%s)", self._name, _line(error))


def container_request(
    image: str, needs: ContainerNeeds, socket_path: Path, device_index: int, host: Mapping[str, Any]
) -> dict[str, Any]:
    """What is asked of the engine, as arguments of the SDK's `containers.create`.

    Args:
        image: name of the image.
        needs: what the job needs of this host.
        socket_path: where the executor listens; its folder is mounted.
        device_index: GPU, counted among those that this process was granted; -1: CPU.
        host: options of the run that are no part of its job file, in JSON form.
    """
    from docker.types import DeviceRequest, Mount

    mounts = dict.fromkeys(needs.read_only, True) | dict.fromkeys((*needs.writable, socket_path.parent), False)
    gpu = device_index >= 0
    given = {name: value for name, value in host.items() if name not in _OF_THE_DRIVER}
    debug = ["--debug"] if logging.getLogger("trident").isEnabledFor(logging.DEBUG) else []
    return {
        "image": image,
        "name": f"trident-{os.getpid()}-{socket_path.name}-{secrets.token_hex(4)}",
        # The engine has no option for the mask of new files; job directories shared in a group depend on it.
        "entrypoint": ["/bin/sh", "-c", 'umask "$0" && exec "$@"', _umask()],
        "command": [
            *("python", "-m", "trident.executors.server", "--socket", str(socket_path)),
            *("--device-index", "0" if gpu else "-1", "--host-options", json.dumps(given), *debug),
        ],
        "user": f"{os.geteuid()}:{os.getegid()}",
        "group_add": [str(group) for group in os.getgroups() if group != os.getegid()],
        "mounts": [
            Mount(target=str(path), source=str(needs.sources.get(path, path)), type="bind", read_only=read_only)
            for path, read_only in mounts.items()
        ],
        "tmpfs": {path: "mode=1777" for path in ("/tmp", _IMAGE_HOME) if Path(path) not in mounts},
        "working_dir": "/",
        # Granted GPUs are numbered from 0 inside. "void" keeps a runtime that hands out GPUs by itself from doing so.
        "environment": {**needs.environment, **({} if gpu else {"NVIDIA_VISIBLE_DEVICES": "void"})},
        "device_requests": [DeviceRequest(device_ids=[physical_name(device_index)], capabilities=[["gpu"]])]
        if gpu
        else [],
        "shm_size": str(host.get("shm_size") or "2g"),
        "network_mode": "bridge" if needs.network else "none",
        "hostname": socket.gethostname(),
        "pid_mode": "host",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "auto_remove": True,
        "healthcheck": {"test": ["NONE"]},
        "labels": {
            LABEL: str(socket_path),
            _USER_LABEL: str(os.geteuid()),
            _DRIVER_LABEL: json.dumps(asdict(current_process())),
        },
    }


def _created(client: DockerClient, request: Mapping[str, Any], name: str) -> ContainerProcess:
    """The container, not yet started. One of which the engine did not say that it made it is not left behind either."""
    from requests.exceptions import RequestException

    try:
        return ContainerProcess(client, client.containers.create(**request), name)
    except RequestException:
        unknown = client.containers.prepare_model({"Id": request["name"]})
        ContainerProcess(client, unknown, name).kill()
        raise


def _client() -> DockerClient:
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        return docker.from_env()
    except (DockerException, RequestException, ValueError) as error:  # ValueError: an address that is none
        where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        denied = "PermissionError" in str(error) or "Permission denied" in str(error)
        remedy = "ask for access to it (group docker)" if denied else "start it, or name its socket with DOCKER_HOST"
        raise ExecutorError(
            f"{where}: no container engine answers here ({_line(error)}); {remedy}, or run with --executor process"
        ) from error


def _check_image(client: DockerClient, image: str) -> str | None:
    """The image's flavour, if it is one of this version."""
    from docker.errors import ImageNotFound

    target = "--target cpu " if image.endswith("-cpu") else ""
    build = f"docker build -f containers/Dockerfile {target}-t {image} ."
    try:
        labels = client.images.get(image).labels
    except ImageNotFound as error:
        raise ExecutorError(
            f"--image {image}: the container engine has no such image; build it ({build}) or pull it"
        ) from error
    version = labels.get(VERSION_LABEL)
    if version is None:
        raise ExecutorError(f"--image {image}: not an image of trident-luigi (no label {VERSION_LABEL}); {build}")
    if version != __version__:
        raise ExecutorError(
            f"--image {image}: made of version {version}, and this is version {__version__}; build it again ({build})"
        )
    flavour: str | None = labels.get(FLAVOUR_LABEL)
    return flavour


def _remove_leftovers(client: DockerClient) -> None:
    """Remove containers of this user whose driver is dead, which a killed driver can leave before they run."""
    mine = {"label": [LABEL, f"{_USER_LABEL}={os.geteuid()}"]}
    for container in client.containers.list(all=True, filters=mine, ignore_removed=True):
        try:
            driver = ProcessIdentity(**json.loads(container.labels[_DRIVER_LABEL]))
        except (KeyError, TypeError, ValueError):  # none of ours, whatever its labels say
            continue
        if liveness(driver) is Liveness.DEAD:
            logger.info("removing container %s of a run that is dead", container.name)
            ContainerProcess(client, container, str(container.name)).kill()


def _explain(error: Exception, image: str, device_index: int) -> str:
    reason = _line(error)
    if device_index >= 0 and ("could not select device driver" in reason or "nvidia" in reason.lower()):
        return (
            f"--gpus {device_index}: the container engine hands out no GPUs ({reason}); install the NVIDIA "
            "container toolkit and restart the engine, or run with --executor process"
        )
    return f"--image {image}: the container engine refuses to start an executor ({reason})"


def _line(error: Exception) -> str:
    """What an error says, in one line: the engine's own words where there are some."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _umask() -> str:
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "Umask":
            return value.strip()
    return "0022"
