"""Quality control of tissue outlines: edit one as QuPath would, run again, and see that only what follows is redone.

    python tutorials/edit_outlines.py --out tutorial

Draws two slides and runs the pipeline on them; deletes the smallest piece of tissue of the first slide from its
GeoJSON, the file that one would open, edit and export in QuPath; asks what a run would do now; and runs again. It takes
half a minute on a CPU. docs/qupath.md explains the same by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shapely.geometry import shape

from trident.cli import batch
from trident.demo import draw_demo_slide
from trident.store import h5

NAMES = ("first", "second")
GRID = "20x_128px_0px_overlap"


def run(slides: Path, job_dir: Path, *more: str) -> None:
    """Run the pipeline on the folder, as `trident batch` does."""
    options = ["--wsi_dir", slides, "--job_dir", job_dir, "--task", "all", "--segmenter", "otsu", "--gpus", -1]
    options += ["--executor", "in-process"]  # small slides: starting another process would take longer than the work
    options += ["--mag", 20, "--patch_size", 128, "--patch_encoder", "stain-stats", *more]
    if code := batch([str(option) for option in options]):
        raise SystemExit(code)


def delete_smallest_piece(geojson: Path) -> None:
    """Take the smallest outline away, and write the file as QuPath exports annotations: without our own members."""
    pieces = json.loads(geojson.read_text(encoding="utf-8"))["features"]
    if len(pieces) < 2:
        raise SystemExit(f"{geojson}: has {len(pieces)} piece of tissue, and one must remain")
    smallest = min(pieces, key=lambda piece: shape(piece["geometry"]).area)
    kept: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": piece["geometry"], "properties": {"objectType": "annotation"}}
        for piece in pieces
        if piece is not smallest
    ]
    geojson.write_text(json.dumps({"type": "FeatureCollection", "features": kept}), encoding="utf-8")


def attempts(job_dir: Path) -> dict[str, dict[str, int]]:
    """How often each stage of each slide was begun, from the slides' state files."""
    states = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(job_dir.glob("wsi_states/*.json"))]
    return {
        state["slide"]["name"]: {stage: len(task["attempts"]) for stage, task in state["tasks"].items()}
        for state in states
    }


def patches(job_dir: Path) -> dict[str, int]:
    """Number of patches of each slide."""
    folder = job_dir / GRID / "features_stain-stats"
    return {name: len(h5.read_features(folder / f"{name}.h5").features) for name in NAMES}


def main() -> None:
    """Run the tutorial."""
    parser = argparse.ArgumentParser(description="Edit an outline, and run again.")
    parser.add_argument("--out", type=Path, default=Path("tutorial"), help="folder of everything that is made")
    given = parser.parse_args()
    slides, job_dir = given.out / "slides", given.out / "job"
    if job_dir.exists():
        parser.error(f"{job_dir} exists, and this tutorial begins with an empty one; name another --out")

    for seed, name in enumerate(NAMES):
        draw_demo_slide(slides / f"{name}.svs", seed=seed, width_px=1024, height_px=768, mpp=0.5)
    run(slides, job_dir)
    before, patches_before = attempts(job_dir), patches(job_dir)

    delete_smallest_piece(job_dir / "contours_geojson" / f"{NAMES[0]}.geojson")
    run(slides, job_dir, "--dry_run")
    run(slides, job_dir)

    after, patches_after = attempts(job_dir), patches(job_dir)
    for name in NAMES:
        again = [stage for stage, number in after[name].items() if number > before[name][stage]]
        print(f"{name}: {patches_before[name]} patches before, {patches_after[name]} after")
        print(f"{name}: redone: {', '.join(again) or 'nothing'}")


if __name__ == "__main__":
    main()
