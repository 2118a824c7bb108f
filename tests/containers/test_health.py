"""The health check's reading of a container's command; containers of the image are in `test_image.py`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "port"),
    [
        ("python /opt/venv/bin/luigid", 8082),
        ("/opt/venv/bin/python3.11 -u /opt/venv/bin/luigid --port 19007 --state-path /data/state", 19007),
        ("python luigid --state-path /data/state --port=19007", 19007),
        ("python luigid --port 1 --port=2", 2),
        ("/bin/sh /usr/local/bin/entrypoint.sh luigid --port 19007", 19007),
        ("/sbin/docker-init -- /usr/local/bin/entrypoint.sh luigid --port=19007", 19007),
        ("/sbin/docker-init -- env HOME=/tmp luigid", 8082),
        ("python /opt/venv/bin/trident batch --wsi_dir /data/luigid --port 1", None),
        ("/sbin/docker-init -- /usr/local/bin/entrypoint.sh trident luigid", None),
        ("python -m trident.executors.server --socket /run/luigid", None),
        ("sh", None),
        ("", None),
    ],
)
def test_the_port_of_luigid(command: str, port: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "containers")
    assert importlib.import_module("health").luigid_port(command.split(" ")) == port
