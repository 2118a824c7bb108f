"""What a run may talk to: luigid, the Docker engine."""

from __future__ import annotations

import os
from pathlib import Path

from trident.doctor.check import ChildError, Finding, ask_child, failed, passed, warned
from trident.luigid import problem_of, shown_address

_ANSWER_S = 5.0
_DOCKER = """
import json
import docker
client = docker.from_env(timeout=5)
print(json.dumps([client.version()["Version"], sorted(client.info().get("Runtimes") or {})]))
"""


def luigid(url: str | None, luigi_url: str | None = None, *, are_known: bool = True) -> list[Finding]:
    """Whether luigid answers at its address, if one is named.

    Args:
        url: such as `http://localhost:8082`; None: runs have a scheduler of their own.
        luigi_url: the same for the `luigi` command.
        are_known: whether the options could be read; else an address that is None may be set all the same.
    """
    findings = [_luigid("luigid", url)] if url is not None else []
    if luigi_url is not None and luigi_url != url:
        findings.append(_luigid("luigid of the luigi command", luigi_url))
    if not findings and not are_known:
        return [warned("luigid", "not asked: the options are wrong")]
    return findings or [passed("luigid", "none is named: each run has a scheduler of its own")]


def _luigid(name: str, url: str) -> Finding:
    shown = shown_address(url)
    if url.startswith("http+unix://"):
        return warned(name, f"{shown}: not asked, since it listens on a unix socket")
    problem = problem_of(url, _ANSWER_S)
    if problem is None:
        return passed(name, f"answers at {shown}")
    return failed(name, f"{shown}: {problem}", "luigid --address 127.0.0.1 --port 8082")


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
