"""Writes this machine's settings of pip to a folder, for an image build: `pip.conf`, and `ca` with its certificates.

The build is given both as secrets, so that no layer and no history holds the address of a package registry or a
password in it. Only settings that mean the same inside are taken: no folders of this machine.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

TAKEN = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
RENAMED = {"default-timeout": "timeout"}
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


def configured(listing: str) -> dict[str, str]:
    """The settings in what `pip config list` prints; those of the environment win, as they do in pip."""
    found: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        key, separator, value = line.partition("=")
        scope, _, name = key.rpartition(".")
        if separator and scope in ("global", "install", ":env:"):
            found[RENAMED.get(name, name)] = str(ast.literal_eval(value))
    return found


def portable(settings: dict[str, str]) -> dict[str, str]:
    """Those that hold in a build as well; of lists of addresses, those that are no folders of this machine."""
    kept = {}
    for name in TAKEN:
        words = [word for word in settings.get(name, "").split() if not word.startswith(("file:", "/", "."))]
        if words:
            kept[name] = " ".join(words)
    return kept


def certificates(settings: dict[str, str]) -> Path | None:
    """The file with the certificates that pip trusts here, if one is named."""
    named = [settings.get("cert"), *map(os.environ.get, CERTIFICATES)]
    return next((Path(path) for path in named if path and Path(path).is_file()), None)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="made if need be, readable by you alone")
    folder = parser.parse_args().folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = configured(listing)
    lines = ["[global]", *(f"{name} = {value}" for name, value in portable(settings).items())]
    trusted = certificates(settings)
    if trusted is None:
        (folder / "ca").write_bytes(b"")
    else:
        shutil.copyfile(trusted, folder / "ca")
        lines.append("cert = /run/secrets/ca")
    (folder / "pip.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
