"""A job directory made file by file, and one headless browser for the tests of the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Polygon

from trident.store.atomic import write_json
from trident.store.geojson import write_tissue
from trident.store.h5 import write_coords
from trident.store.layout import JobLayout
from trident.store.states import SlideInfo, SlideStateFile
from trident.viz.report.write import write_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

GRID = "20x_256px_0px_overlap"
HOSTILE = 'evil </script><img src=x onerror=pwned=1> & "q" \'s'
SQUARE_WITH_HOLE = Polygon(
    [(0, 0), (1000, 0), (1000, 1000), (0, 1000)], [[(100, 100), (300, 100), (300, 300), (100, 300)]]
)
"""960,000 px²: at 0.5 µm/px 0.24 mm²."""


class JobMaker:
    """Writes what runs leave behind, one thing at a time."""

    grid = GRID
    hostile = HOSTILE
    square = SQUARE_WITH_HOLE

    def __init__(self, job_dir: Path, wsi_dir: Path) -> None:
        self.job_dir, self.wsi_dir = job_dir, wsi_dir
        self.layout = JobLayout(job_dir, GRID)
        (job_dir / "wsi_states").mkdir(parents=True)

    @staticmethod
    def done(seconds: float, **more: Any) -> dict[str, Any]:
        """The entry of a task that was made at its first attempt."""
        attempt = {"attempt_id": "a", "started_at": "s", "finished_at": "f", "duration_s": seconds}
        return {
            "status": "completed",
            "attempts": [attempt | {"result": "completed", "error": None}],
            "outputs": {},
        } | more

    @staticmethod
    def failed(*errors: str) -> dict[str, Any]:
        """The entry of a task whose attempts all failed."""
        attempts = [
            {
                "attempt_id": str(at),
                "started_at": "s",
                "finished_at": f"f{at}",
                "duration_s": 0.1,
                "result": "error",
                "error": error,
            }
            for at, error in enumerate(errors)
        ]
        return {"status": "error", "message": errors[-1], "attempts": attempts, "outputs": {}}

    def outlines(self, slide: str, *polygons: Polygon) -> Path:
        """Tissue outlines of a slide."""
        path = self.layout.tissue(slide)
        write_tissue(path, polygons, None)
        return path

    def patches(self, slide: str, count: int, grid: str = GRID) -> Path:
        """Patch coordinates of a slide."""
        path = JobLayout(self.job_dir, grid).coords(slide)
        write_coords(path, np.zeros((count, 2), np.int64), {"patch_size": 256}, None)
        return path

    def picture(
        self, path: Path, colour: tuple[int, int, int] = (200, 120, 160), size: tuple[int, int] = (400, 300)
    ) -> Path:
        """A JPEG of one colour."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        return path

    def touch(self, path: Path) -> Path:
        """An output of which only the name counts."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        return path

    def state(self, rel_path: str, tasks: dict[str, Any], *, mpp: float | None = 0.5) -> Path:
        """A state file; tasks: key -> seconds (it was done), or the whole entry."""
        info = SlideInfo.of(self.wsi_dir / rel_path, Path(rel_path).stem, rel_path)
        file = SlideStateFile.load_or_new(self.layout, info)
        if mpp is not None:
            file.set_meta(dimensions=(4000, 3000), mpp=mpp, mag=20, level_count=3, reader_type="openslide")
        state = json.loads(file.path.read_text())
        state["tasks"] = {key: entry if isinstance(entry, dict) else self.done(entry) for key, entry in tasks.items()}
        write_json(file.path, state)
        return file.path

    def slide(self, rel_path: str, *, patches: int = 5, seconds: float = 1.0, mpp: float = 0.5) -> str:
        """A slide on which everything went well; returns its name."""
        name = Path(rel_path).stem
        self.outlines(name, SQUARE_WITH_HOLE)
        self.patches(name, patches)
        self.picture(self.layout.contours_image(name))
        self.picture(self.layout.coords_image(name), (90, 120, 220))
        self.touch(self.layout.patch_features(name, "enc"))
        self.state(rel_path, {"segmentation": seconds, "coords": 0.5, "patch_features:enc": 2 * seconds}, mpp=mpp)
        return name

    def manifest(self, **values: Any) -> Path:
        """A run's manifest."""
        content = {"run_id": "0" * 12, "tool": "batch", "started_at": "2026-01-01T10:00:00.000+00:00", "args": {}}
        path = self.job_dir / "runs" / f"{values.get('run_id', '0' * 12)}.json"
        write_json(path, content | {"status": "completed"} | values)
        return path

    def job_file(self, *rel_paths: str, **settings: Any) -> Path:
        """The file of a job with these slides."""
        slides = [{"name": Path(rel_path).stem, "rel_path": rel_path} for rel_path in rel_paths]
        grid = {"mag": 20.0, "patch_size": 256, "overlap": 0, "coords_dir": None}
        path = self.layout.private_dir / "jobs" / "job.json"
        write_json(path, {"settings": grid | settings, "slides": slides})
        return path

    @staticmethod
    def data_of(page: Path) -> dict[str, Any]:
        """What the page's script will read."""
        head = '<script type="application/json" id="data">'
        line = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(head))
        found: dict[str, Any] = json.loads(line.removeprefix(head).removesuffix("</script>"))
        return found

    def data(self) -> dict[str, Any]:
        """Writes the report and returns the data that it carries."""
        return self.data_of(write_report(self.job_dir))


@pytest.fixture
def job(tmp_path: Path) -> JobMaker:
    """An empty job directory to put things into."""
    return JobMaker(tmp_path / "job", tmp_path / "slides")


@pytest.fixture(scope="module")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], JobMaker]:
    """Function (name): another empty job directory, that lasts as long as the module."""
    return lambda name: JobMaker(tmp_path_factory.mktemp(name) / "job", tmp_path_factory.mktemp(f"{name}-slides"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium with an empty profile."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium with chromedriver on this machine (Debian: apt-get install chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra `dev`)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        f"user-data-dir={profile}",
        "window-size=1400,1000",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_script_timeout(300)
    yield chrome
    chrome.quit()
