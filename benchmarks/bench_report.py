"""Seconds and bytes of the HTML report over the size of a cohort, and how long Chromium takes to show it.

A synthetic job directory is made from overlays of drawn slides (as noisy as real ones, which decides how well they
compress) with outlines and state files of the usual size. Times: the first report, the same again with nothing changed,
and again after ten slides have changed, as while a run goes on; each as [by the clock, of the processor].

    python benchmarks/bench_report.py --slides 100 1000 --browser
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from shapely.geometry import Polygon

from trident.demo.slide import render_demo_slide
from trident.store.atomic import write_json
from trident.store.geojson import write_tissue
from trident.store.h5 import write_coords
from trident.store.layout import JobLayout
from trident.store.states import SlideInfo
from trident.viz.overlays import draw_patches, draw_tissue, save_jpeg
from trident.viz.report.write import write_report

N_DRAWN = 12
OUTLINE_POINTS = 600
GRID = "20x_256px_0px_overlap"
SIDE_LEVEL0_PX = 512


def make_job(job_dir: Path, n_slides: int) -> JobLayout:
    """A finished job directory with `n_slides` slides."""
    layout = JobLayout(job_dir, GRID)
    drawn = [_draw(job_dir.parent / "drawn", seed) for seed in range(N_DRAWN)]
    random = np.random.default_rng(0)
    layout.states_dir.mkdir(parents=True)
    for at in range(n_slides):
        name, pictures = f"slide-{at:05d}", drawn[at % N_DRAWN]
        for source, path in zip(pictures, (layout.contours_image(name), layout.coords_image(name)), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path)
        radius_px = random.lognormal(8.5, 0.4)
        write_tissue(layout.tissue(name), [_blob(random, radius_px, 60_000 * piece) for piece in range(5)], None)
        n_patches = int(5 * math.pi * radius_px**2 / SIDE_LEVEL0_PX**2)
        write_coords(layout.coords(name), np.zeros((n_patches, 2), np.int64), {"patch_size": 256}, None)
        _write_state(layout, name, n_patches, random)
    return layout


def _draw(folder: Path, seed: int) -> tuple[Path, Path]:
    """The two overlays of a drawn slide, 1000 px wide."""
    folder.mkdir(parents=True, exist_ok=True)
    image = render_demo_slide(seed=seed, width_px=4000, height_px=3000)[::4, ::4]
    paths = folder / f"{seed}-tissue.jpg", folder / f"{seed}-patches.jpg"
    outline = _blob(np.random.default_rng(seed), 900.0, 1500)
    corners = np.stack(np.meshgrid(np.arange(512, 3000, 512), np.arange(512, 2500, 512)), -1).reshape(-1, 2)
    save_jpeg(paths[0], draw_tissue(image, [outline], (4000, 3000)))
    save_jpeg(paths[1], draw_patches(image, corners, SIDE_LEVEL0_PX, (4000, 3000)))
    return paths


def _blob(random: np.random.Generator, radius_px: float, centre_px: float) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    radii = radius_px * (1 + 0.05 * random.standard_normal(OUTLINE_POINTS).cumsum() / OUTLINE_POINTS**0.5)
    return Polygon(np.stack([centre_px + radii * np.cos(angles), 1500 + radii * np.sin(angles)], 1)).buffer(0)


def _write_state(layout: JobLayout, name: str, n_patches: int, random: np.random.Generator) -> None:
    info = SlideInfo.of(Path("/slides") / f"{name}.svs", name)
    seconds = {"segmentation": 3.0, "coords": 0.4, "patch_features:uni_v1": n_patches / 200, "slide_features:x": 0.1}
    tasks = {
        task: {
            "status": "completed",
            "message": f"{n_patches} patches",
            "attempts": [
                {
                    "attempt_id": "0",
                    "started_at": "2026-01-01T00:00:00.000+00:00",
                    "finished_at": "2026-01-01T00:00:01.000+00:00",
                    "duration_s": round(typical * random.lognormal(0, 0.3), 3),
                    "result": "completed",
                    "error": None,
                }
            ],
            "outputs": {},
        }
        for task, typical in seconds.items()
    }
    meta = {"dimensions": [90_000, 60_000], "mpp": random.choice([0.25, 0.2528, 0.5], p=[0.8, 0.18, 0.02]), "mag": 40}
    slide = {"name": name, "rel_path": f"batch/{name}.svs", "abs_path": info.abs_path}
    write_json(
        layout.states_dir / f"{info.id}.json", {"schema_version": 2, "slide": slide, "meta": meta, "tasks": tasks}
    )
    for folder in (layout.patch_features_dir("uni_v1"), layout.slide_features_dir("x")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.h5").touch()


def _change(layout: JobLayout, name: str) -> None:
    """Give the outputs of one slide a new date, as if they had been made again."""
    picture = layout.contours_image(name)
    content = picture.read_bytes()
    picture.unlink()  # it shares its content with other slides
    picture.write_bytes(content)
    layout.tissue(name).touch()
    layout.coords(name).touch()


def timed_write(layout: JobLayout) -> tuple[float, float]:
    """Seconds of one report, by the clock and of the processor."""
    began, busy = time.perf_counter(), time.process_time()
    write_report(layout)
    return round(time.perf_counter() - began, 2), round(time.process_time() - busy, 2)


def timed_load(page: Path, rounds: int) -> dict[str, float]:
    """Medians in a fresh headless Chromium: ms until the table is drawn, ms of one frame of scrolling, MiB of heap."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    flags = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*flags, "disable-component-update", "disable-quic", f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        chrome = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            loads, frames, heaps = [], [], []
            for _ in range(rounds):
                chrome.get(page.as_uri())
                loads.append(chrome.execute_script("return performance.getEntriesByType('navigation')[0].domComplete"))
                frames.append(chrome.execute_async_script(_SCROLL))
                heaps.append(chrome.execute_script("return performance.memory.usedJSHeapSize / 2 ** 20"))
        finally:
            chrome.quit()
    return {
        "load_ms": round(statistics.median(loads)),
        "scroll_frame_ms": round(statistics.median(frames), 1),
        "heap_mib": round(statistics.median(heaps), 1),
    }


_SCROLL = """
const done = arguments[0], box = document.getElementById("grid-box"), frames = [];
let last = performance.now();
function step(now) {
  frames.push(now - last);
  last = now;
  box.scrollTop += 700;
  if (frames.length < 60) requestAnimationFrame(step);
  else done(frames.sort((a, b) => a - b)[Math.floor(0.95 * frames.length)]);
}
requestAnimationFrame(step);
"""


def main() -> None:
    """Print one JSON object a cohort size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--browser", action="store_true", help="also measure the page in Chromium")
    parser.add_argument("--keep", type=Path, help="keep the job directories here")
    given = parser.parse_args()
    for n_slides in given.slides:
        with tempfile.TemporaryDirectory() as scratch:
            folder = given.keep / str(n_slides) if given.keep else Path(scratch)
            layout = make_job(folder / "job", n_slides)
            result: dict[str, object] = {"slides": n_slides, "first_s": timed_write(layout)}
            result["again_s"] = statistics.median_low(timed_write(layout) for _ in range(3))
            for at in range(min(10, n_slides)):
                _change(layout, f"slide-{at:05d}")
            result["ten_changed_s"] = timed_write(layout)
            page = layout.job_dir / "report.html"
            result["page_mb"] = round(page.stat().st_size / 1e6, 1)
            if given.browser:
                result.update(timed_load(page, rounds=5))
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
