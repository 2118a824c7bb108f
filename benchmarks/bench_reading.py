"""Patches per second: OpenSlide with PIL's resize, the plain way, against the project's own reader.

Both ways give the same pixels (checked first). They take turns within each round, so that a machine that slows down or
warms up harms both alike; medians over the rounds are compared. One thread each.

    python benchmarks/bench_reading.py --slide slide.svs --rounds 7 --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from trident import exit_codes
from trident.demo import draw_demo_slide
from trident.errors import TridentError
from trident.patching.grid import PatchGeometry, ReadPlan, plan_read
from trident.patching.reader import PatchReader
from trident.slides.registry import open_slide

MIN_ROUNDS = 5

Patch = NDArray[np.uint8]
Reader = Callable[[int, int], Patch]


def choose_patches(slide_path: Path, mag: float, patch_size_px: int, limit: int) -> tuple[NDArray[np.int64], ReadPlan]:
    """At most `limit` corners, spread evenly over the patches wholly inside the slide, and how to read them."""
    with open_slide(slide_path) as slide:
        geometry = PatchGeometry(patch_size_px, 0, mag, slide.magnification, *slide.dimensions)
        corners = geometry.corners()
        inside = corners[(corners + geometry.side_level0_px <= np.array(slide.dimensions)).all(axis=1)]
        plan = plan_read(geometry, slide.level_downsamples)
    if not len(inside):
        raise SystemExit(f"{slide_path}: no whole patch of {patch_size_px} px at {mag:g}x fits; choose a smaller one")
    return inside[np.unique(np.linspace(0, len(inside) - 1, limit).astype(int))], plan


def plain_reader(slide: openslide.OpenSlide, plan: ReadPlan) -> Reader:
    """OpenSlide's region, alpha dropped, resized by PIL."""

    def read(x: int, y: int) -> Patch:
        region = slide.read_region((x, y), plan.level, (plan.read_px, plan.read_px)).convert("RGB")
        if plan.read_px != plan.patch_size_px:
            region = region.resize((plan.patch_size_px, plan.patch_size_px), Image.Resampling.BICUBIC)
        return np.asarray(region)

    return read


def seconds(read: Reader, corners: NDArray[np.int64]) -> float:
    """Time to read every patch once."""
    started = time.perf_counter()
    for x, y in corners.tolist():
        read(x, y)
    return time.perf_counter() - started


def run(slide_path: Path, *, mag: float, patch_size_px: int, limit: int, rounds: int) -> dict[str, Any]:
    """Time both ways; every round opens the slide anew, so that no way profits from tiles that it has cached."""
    corners, plan = choose_patches(slide_path, mag, patch_size_px, limit)
    rates: dict[str, list[float]] = {"plain": [], "trident": []}
    worst = 0
    for turn in range(rounds + 1):
        with openslide.OpenSlide(slide_path) as plain, open_slide(slide_path) as slide:
            readers = {"plain": plain_reader(plain, plan), "trident": PatchReader(slide, plan).read}
            reader_type = slide.reader_type
            if turn == 0:  # also warms the file cache and the libraries
                pairs = ([read(x, y).astype(int) for read in readers.values()] for x, y in corners.tolist())
                worst = max(int(np.abs(first - second).max()) for first, second in pairs)
                continue
            order = list(readers) if turn % 2 else list(reversed(readers))
            for way in order:
                rates[way].append(len(corners) / seconds(readers[way], corners))
    medians = {way: statistics.median(values) for way, values in rates.items()}
    return {
        "slide": slide_path.name,
        "patches": len(corners),
        "magnification": mag,
        "patch_size_px": patch_size_px,
        "level": plan.level,
        "read_px": plan.read_px,
        "reader": reader_type,
        "rounds": rounds,
        "patches_per_s": {way: [round(value, 1) for value in values] for way, values in rates.items()},
        "median_patches_per_s": {way: round(value, 1) for way, value in medians.items()},
        "ratio": round(medians["trident"] / medians["plain"], 2),
        "largest_grey_level_difference": worst,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Parse options, run, print a table and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="slide to read (default: a synthetic one, drawn for the occasion)")
    parser.add_argument("--mag", type=float, default=20.0, help="magnification of the patches (default: 20)")
    parser.add_argument("--patch-size", type=int, default=256, help="patch side in pixels (default: 256)")
    parser.add_argument("--patches", type=int, default=200, help="most patches a round (default: 200)")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"timed rounds, at least {MIN_ROUNDS}")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(argv)
    if options.rounds < MIN_ROUNDS or options.patches < 1:
        parser.error(f"--rounds must be at least {MIN_ROUNDS} and --patches at least 1")
    with tempfile.TemporaryDirectory() as folder:
        slide_path = options.slide
        if slide_path is None:
            slide_path = Path(folder) / "demo.svs"
            draw_demo_slide(slide_path)
        try:
            result = run(
                slide_path,
                mag=options.mag,
                patch_size_px=options.patch_size,
                limit=options.patches,
                rounds=options.rounds,
            )
        except TridentError as error:
            print(f"error: {error}", file=sys.stderr)
            return exit_codes.USAGE
    medians, rates = result["median_patches_per_s"], result["patches_per_s"]
    print(f"{result['slide']}: {result['patches']} patches, {result['read_px']} px of level {result['level']}")
    for way, label in (("plain", "OpenSlide + PIL"), ("trident", f"trident ({result['reader']})")):
        print(f"  {label:<20} {medians[way]:8.1f} patches/s   ({min(rates[way]):.1f} to {max(rates[way]):.1f})")
    print(
        f"  ratio of medians     {result['ratio']:8.2f}   largest difference {result['largest_grey_level_difference']}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
