"""Stage settings on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

from trident.store.configs import write_stage_config


def test_settings_are_written_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "grid" / "_config_coords.json"
    write_stage_config(path, {"mag": 20, "hf_token": "x", "job_dir": Path("/job")})
    assert json.loads(path.read_text()) == {"mag": 20, "job_dir": "/job"}


def test_the_same_settings_leave_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "_config_coords.json"
    settings = {"mag": 20, "ext": (".svs",)}
    write_stage_config(path, settings)
    os.utime(path, (1, 1))
    write_stage_config(path, settings)
    assert path.stat().st_mtime == 1
    write_stage_config(path, {**settings, "mag": 10})
    assert json.loads(path.read_text())["mag"] == 10


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "_config_coords.json"
    path.write_bytes(b"\xff{")
    write_stage_config(path, {"mag": 20})
    assert json.loads(path.read_text()) == {"mag": 20}
