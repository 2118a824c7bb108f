"""What an image build is given of this machine's settings of pip."""

from __future__ import annotations

import stat
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pip_secret.py"
_FOUND = spec_from_file_location("pip_secret", SCRIPT)
assert _FOUND is not None and _FOUND.loader is not None
pip_secret = module_from_spec(_FOUND)
_FOUND.loader.exec_module(pip_secret)


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("", {}),
        ("global.index-url='https://a/simple'", {"index-url": "https://a/simple"}),
        ("install.index-url='https://a'\nlist.format='json'", {"index-url": "https://a"}),
        (":env:.index-url='https://env'\nglobal.index-url='https://file'", {"index-url": "https://env"}),
        (":env:.default-timeout='180'", {"timeout": "180"}),
        ("global.extra-index-url='file:///x https://b /local'", {"extra-index-url": "https://b"}),
        ("global.extra-index-url='file:///x'\nglobal.find-links='/opt'", {}),
        ("global.extra-index-url='\\nhttps://a\\nhttps://b'", {"extra-index-url": "https://a https://b"}),
        ("global.proxy='http://u:p@proxy:1'", {"proxy": "http://u:p@proxy:1"}),
        ("global.cert='/etc/ca.pem'", {}),
        ("a line that is no setting", {}),
    ],
)
def test_settings_that_hold_in_a_build_as_well(listing: str, expected: dict[str, str]) -> None:
    assert pip_secret.portable(pip_secret.configured(listing)) == expected


def test_the_files_are_private_and_name_the_certificates(tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_text("certificates")
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://packages.invalid/simple\nretries = 3\n")
    environment = {"PIP_CONFIG_FILE": str(config), "PIP_CERT": str(trusted), "PATH": "/usr/bin:/bin"}
    folder = tmp_path / "new" / "secrets"
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], env=environment, check=True)
    lines = (folder / "pip.conf").read_text().splitlines()
    assert lines[0] == "[global]"
    assert {"index-url = https://packages.invalid/simple", "retries = 3", "cert = /run/secrets/ca"} <= set(lines)
    assert (folder / "ca").read_text() == "certificates"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
