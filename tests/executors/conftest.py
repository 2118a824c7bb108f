"""Jobs of the encoder that misbehaves when told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def job_path(clean_settings: Path, moody: Any, tmp_path: Path, drawn_slides: Callable[..., Path]) -> Callable[..., str]:
    """Function (**options): the job file of a run over two slides with the moody encoder."""
    from trident.job import create_job
    from trident.settings import load_settings

    def make(**options: object) -> str:
        usual = {
            "job_dir": tmp_path / "job",
            "wsi_dir": drawn_slides(tmp_path / "wsis", "a.svs", "b.svs"),
            "segmenter": "otsu",
            "patch_size": 128,
            "patch_encoder": moody.name,
            "gpus": "-1",
            "task": "all",
        }
        return str(create_job(load_settings(**{**usual, **options})).save())

    return make
