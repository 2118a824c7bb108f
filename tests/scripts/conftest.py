"""Several hosts on one machine: network, host-name and process namespaces that share the file system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

NETWORK = "10.213.7"


class Hosts:
    """Two hosts on a network of their own, and the address at which they reach this one."""

    names = ("trident-h1", "trident-h2")
    address = f"{NETWORK}.1"

    def __init__(self, folder: Path) -> None:
        self._bridge = "trident-br"
        self.rsh = folder / "rsh"
        """Runs a command on a host, as ssh would: its own network, host name and process numbers."""
        self.rsh.write_text(
            "#!/bin/sh\nhost=$1; shift\n"
            'exec ip netns exec "$host" unshare --uts --pid --fork --kill-child --mount-proc '
            'sh -c \'hostname "$1"; shift; exec "$@"\' sh "$host" "$@"\n'
        )
        self.rsh.chmod(0o755)

    def up(self) -> None:
        """Make them."""
        self.down()
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(self.names, start=2):
            _ip("netns", "add", name)
            _ip("link", "add", f"tr{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"tr{number}", "master", self._bridge, "up")
            _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def down(self) -> None:
        """Remove them, and what runs on them."""
        for number, name in enumerate(self.names, start=2):
            self.kill(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", f"tr{number}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)

    def kill(self, name: str) -> None:
        """A host dies: all that runs on it ends at once, nothing says goodbye."""
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("hosts on one machine need root, iproute2 and util-linux")
    made = Hosts(tmp_path)
    try:
        made.up()
    except subprocess.CalledProcessError as error:
        made.down()
        pytest.skip(f"this machine does not let us make network namespaces ({error.stderr.strip()})")
    yield made
    made.down()
