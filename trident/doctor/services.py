"""What a run may talk to: luigid, the Docker engine."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from trident.doctor.check import ChildError, Finding, ask_child, failed, passed, warned

_ANSWER_S = 5.0
_DOCKER = """
import json
import docker
client = docker.from_env(timeout=5)
print(json.dumps([client.version()["Version"], sorted(client.info().get("Runtimes") or {})]))
"""


def luigid(url: str | None) -> list[Finding]:
    """Whether luigid answers at its address, if one is named.

    Args:
        url: such as `http://localhost:8082`; None: runs have a scheduler of their own.
    """
    if url is None:
        return [passed("luigid", "none is named: each run has a scheduler of its own")]
    try:
        urllib.request.urlopen(url, timeout=_ANSWER_S).close()
    except urllib.error.HTTPError:  # an answer
        pass
    except (OSError, ValueError) as error:
        return [failed("luigid", f"{url} does not answer ({error})", "luigid --address 127.0.0.1 --port 8082")]
    return [passed("luigid", f"answers at {url}")]


def docker(*, needed: bool) -> list[Finding]:
    """The Docker engine and its NVIDIA runtime; only `--executor docker` needs them.

    Args:
        needed: whether its absence is worth a warning.
    """
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        version, runtimes = ask_child(_DOCKER, timeout_s=30)
    except ChildError as error:
        if not needed:
            return [passed("Docker", "no engine answers; only --executor docker needs one")]
        path = Path(socket.removeprefix("unix://"))
        mine = "add yourself to the group docker" if path.exists() else "start the Docker engine, or set DOCKER_HOST"
        return [warned("Docker", f"no engine at {socket}: {error}", mine)]
    if "nvidia" in runtimes:
        return [passed("Docker", f"engine {version}, with the NVIDIA runtime")]
    detail = f"engine {version}, without the NVIDIA runtime: containers compute on the CPU"
    return [warned("Docker", detail, "install the NVIDIA container toolkit") if needed else passed("Docker", detail)]
