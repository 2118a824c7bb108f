"""Health check of the image: luigid answers where it is what runs, else the installation works."""

from __future__ import annotations

import importlib
import sys
import urllib.request
from pathlib import Path

LUIGID_PORT = 8082
_RUN_OTHERS = ("docker-init", "tini", "entrypoint.sh", "sh", "dash", "bash", "env")
"""Programs whose arguments are what is really run."""


def luigid_port(command: list[str]) -> int | None:
    """The port of luigid in the container's command, with whatever starts it; None if that runs something else."""
    for position, word in enumerate(command):
        name = Path(word).name
        if name == "luigid":
            arguments = command[position + 1 :]
            break
        is_setting = word.startswith("-") or "=" in word
        if not (is_setting or name in _RUN_OTHERS or name.startswith("python")):
            return None
    else:
        return None
    port = str(LUIGID_PORT)
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if option == "--port":
            port = value
        elif option.startswith("--port="):
            port = option.partition("=")[2]
    return int(port)


def main() -> int:
    """0: healthy, 1: not."""
    port = luigid_port(Path("/proc/1/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
    if port is None:
        importlib.import_module("trident.cli")
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/task_list?data=%7B%7D", timeout=10) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        sys.stderr.write(f"luigid does not answer on port {port}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
