"""Runs over small drawn slides, and ways to look at what they left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GRID = "20x_128px_0px_overlap"
ENCODER = ("--patch_encoder", "stain-stats", "--slide_encoder", "mean-stain-stats")


class JobDir:
    """What one job directory holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.grid = path / GRID

    def tissue(self, slide: str) -> Path:
        return self.path / "contours_geojson" / f"{slide}.geojson"

    def coords(self, slide: str) -> Path:
        return self.grid / "patches" / f"{slide}_patches.h5"

    def features(self, slide: str) -> Path:
        return self.grid / "features_stain-stats" / f"{slide}.h5"

    def embedding(self, slide: str) -> Path:
        return self.grid / "slide_features_mean-stain-stats" / f"{slide}.h5"

    def outputs(self, slide: str) -> list[Path]:
        return [self.tissue(slide), self.coords(slide), self.features(slide), self.embedding(slide)]

    def stamps(self, slide: str) -> list[tuple[int, int]]:
        """Of each output: its inode and time; another one where it was made anew."""
        return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in self.outputs(slide)]

    def state(self, slide: str) -> dict[str, Any]:
        (path,) = (self.path / "wsi_states").glob(f"{slide}__*.json")
        state: dict[str, Any] = json.loads(path.read_text())
        return state

    def statuses(self, slide: str) -> dict[str, str]:
        return {key.split(":")[0]: task["status"] for key, task in self.state(slide)["tasks"].items()}

    def attempts(self, slide: str) -> dict[str, list[str]]:
        """Results of all attempts at each stage."""
        tasks = self.state(slide)["tasks"]
        return {key.split(":")[0]: [attempt["result"] for attempt in task["attempts"]] for key, task in tasks.items()}

    def last_run(self) -> str:
        """The last section of the summary."""
        return (self.path / "summary.md").read_text().split("\n## ")[-1]

    def manifests(self) -> list[dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in (self.path / "runs").glob("*.json")]
        return sorted(found, key=lambda manifest: str(manifest["started_at"]))

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Every file with its inode and time."""
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    return JobDir(tmp_path / "job")


@pytest.fixture
def wsis(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Path:
    return drawn_slides(tmp_path / "wsis", "a.svs", "b.svs")


@pytest.fixture
def run(run_batch: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Function (task, *further arguments): one run over `wsis` into `job`, in this process."""

    def go(task: str, *arguments: object) -> Any:
        return run_batch(
            *("--task", task, "--wsi_dir", tmp_path / "wsis", "--job_dir", tmp_path / "job"),
            *("--segmenter", "otsu", "--mag", 20, "--patch_size", 128, "--gpus", "-1"),
            *ENCODER,
            *arguments,
        )

    return go


@pytest.fixture
def draw_image() -> Callable[..., None]:
    """Function (path, colour, mpp): a slide of one colour, an SVS or a plain image that does not say its µm/px."""
    from PIL import Image

    from trident.demo.svs import write_svs

    def draw(path: Path, colour: tuple[int, int, int] = (255, 255, 255), mpp: float = 0.25) -> None:
        pixels = np.full((768, 1024, 3), colour, np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svs":
            write_svs(path, pixels, mpp=mpp, magnification=40)
        else:
            Image.fromarray(pixels).save(path)

    return draw
