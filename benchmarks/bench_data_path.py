"""Patches per second from the slide file to the network's normalised input: the plain way against the project's own.

The plain way is OpenSlide's `read_region`, alpha dropped, PIL's bicubic resize, torchvision's transform, in the forked
workers of a DataLoader. Ours is `PatchBatches`: the reading threads and the `finish` of the feature loop, without an
encoder. Both work on the same patches of tissue, in the same order, with as many workers as there are cores; their
batches are compared first. They take turns within each round, and so do two measures of what cannot be beaten:
libjpeg-turbo and cuCIM decoding the same tiles or regions on all cores, and nothing else. "Read" is ours up to the
bytes of the patches at the level's size: what is left for the processor where a GPU resizes and normalises.
"Scaling" is all cores against one, to which the whole process is then held: ours, and libjpeg-turbo alone ("jpeg").
Where the tiles are not JPEG, libjpeg-turbo's columns stay empty.

    python benchmarks/bench_data_path.py --slide slide.svs --mag 20 10 --patch-size 256 512 --overlap 0 64
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trident import exit_codes
from trident.demo import draw_demo_slide
from trident.errors import TridentError
from trident.features.patch_batches import PatchBatches
from trident.features.threads import default_workers, single_core_threads
from trident.patching.grid import PatchGeometry, ReadPlan, plan_read
from trident.patching.reader import PatchReader
from trident.slides.registry import open_slide

MIN_ROUNDS = 5
BATCH_SIZE = 64
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PACKAGES = ("torch", "torchvision", "openslide-bin", "cucim-cu13", "simplejpeg", "opencv-python-headless", "pillow")

Coords = NDArray[np.int64]
Transform = Callable[[Image.Image], torch.Tensor]


class PlainPatches(Dataset[torch.Tensor]):
    """Patches as a straightforward pipeline makes them."""

    def __init__(self, slide_path: Path, plan: ReadPlan, coords: Coords, transform: Transform) -> None:
        self._path, self._plan, self._coords, self._transform = slide_path, plan, coords, transform
        self._slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self._coords)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._slide is None:  # one handle in each worker
            self._slide = openslide.OpenSlide(self._path)
        read_px, patch_px = self._plan.read_px, self._plan.patch_size_px
        x, y = self._coords[index].tolist()
        patch = self._slide.read_region((x, y), self._plan.level, (read_px, read_px)).convert("RGB")
        return self._transform(patch.resize((patch_px, patch_px), Image.Resampling.BICUBIC))


def plain_batches(
    slide_path: Path, plan: ReadPlan, coords: Coords, transform: Transform, workers: int
) -> Iterator[torch.Tensor]:
    patches = PlainPatches(slide_path, plan, coords, transform)
    yield from DataLoader(patches, batch_size=BATCH_SIZE, num_workers=workers, multiprocessing_context="fork")


def our_batches(
    slide_path: Path, plan: ReadPlan, coords: Coords, transform: Transform, workers: int, *, only_read: bool = False
) -> Iterator[torch.Tensor]:
    with (
        open_slide(slide_path) as slide,
        PatchBatches(
            PatchReader(slide, plan),
            coords,
            [transform],
            batch_size=BATCH_SIZE,
            workers=workers,
            pinned=False,
            max_unreadable_share=0.0,
            on_device=only_read,
        ) as batches,
        single_core_threads(workers, "finish") as finishers,
    ):
        # As the feature loop does on a CPU: the parts of a batch, each in a thread of its own.
        for batch in batches:
            if only_read:
                yield batches.pixels(batch)
            else:
                yield from finishers.map(batches.finish, torch.tensor_split(batches.pixels(batch), workers))
            batches.release(batch)


def on_one_core(run: Callable[[], None]) -> None:
    """Run it with this thread, and all that it starts, on one of the cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        run()
    finally:
        os.sched_setaffinity(0, allowed)


def decode_tiles(slide_path: Path, plan: ReadPlan, coords: Coords, workers: int) -> None:
    """Every tile under the patches, once, by libjpeg-turbo."""
    from trident.slides.cucim import CuCimSlide
    from trident.slides.jpeg_tiles import JpegTiles, jpeg_decoder
    from trident.slides.tile_regions import TileRegions

    with open_slide(slide_path) as slide:
        decoder = jpeg_decoder()
        assert decoder is not None and isinstance(slide, CuCimSlide)
        tiles = JpegTiles(slide.path, slide.level_pages[plan.level], decoder)
        regions = TileRegions(tiles, slide.level_downsamples[plan.level], plan.read_px, coords)
        needed = np.flatnonzero(regions.uses())

        def decode(part: NDArray[np.int64]) -> None:
            out = np.empty((tiles.tile_size[1], tiles.tile_size[0], 3), dtype=np.uint8)
            for index in part.tolist():
                tiles.decode(index, out)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(decode, np.array_split(needed, workers)))


def decode_regions(slide_path: Path, plan: ReadPlan, coords: Coords, workers: int) -> None:
    """Every patch's region by cuCIM."""
    from trident.slides.eligibility import import_cucim

    image = import_cucim().CuImage(str(slide_path))
    side = (plan.read_px, plan.read_px)

    def decode(part: Coords) -> None:
        for x, y in part.tolist():
            np.asarray(image.read_region((x, y), side, plan.level))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(decode, np.array_split(coords, workers)))


def decoders_of(slide_path: Path, level: int) -> set[str]:
    """Which decoders can be timed alone on a level."""
    from trident.slides.cucim import CuCimSlide
    from trident.slides.eligibility import JPEG
    from trident.slides.jpeg_tiles import jpeg_decoder

    with open_slide(slide_path) as slide:
        if not isinstance(slide, CuCimSlide):
            return set()
        is_jpeg = slide.level_pages[level].compression == JPEG and jpeg_decoder() is not None
    return {"cucim", "libjpeg_turbo", "libjpeg_turbo_1_core"} if is_jpeg else {"cucim"}


def tissue_patches(
    slide_path: Path, mag: float, patch_size_px: int, overlap_px: int, limit: int, *, mpp: float | None = None
) -> tuple[Coords, ReadPlan]:
    """At most `limit` neighbouring patches of coloured areas from the middle of the slide, row by row."""
    with open_slide(slide_path, mpp=mpp) as slide:
        geometry = PatchGeometry(patch_size_px, overlap_px, mag, slide.magnification, *slide.dimensions)
        plan = plan_read(geometry, slide.level_downsamples)
        thumbnail = slide.thumbnail((1000, 1000))
        scale = thumbnail.shape[1] / slide.dimensions[0]
    coloured = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV)[..., 1] > 20
    corners = geometry.corners()
    corners = corners[(corners + geometry.side_level0_px < np.array(slide.dimensions)).all(axis=1)]
    middles = ((corners + geometry.side_level0_px // 2) * scale).astype(int)
    corners = corners[coloured[middles[:, 1], middles[:, 0]]]
    first = max(0, (len(corners) - limit) // 2)
    return corners[first : first + limit], plan


def largest_difference(plain: Iterator[torch.Tensor], ours: Iterator[torch.Tensor]) -> float:
    """Largest difference of two pixels, in grey levels."""
    std = torch.tensor(IMAGENET[1]).view(1, 3, 1, 1)
    return max(float(((first - second) * std * 255).abs().max()) for first, second in zip(plain, ours, strict=True))


def run_case(slide_path: Path, coords: Coords, plan: ReadPlan, rounds: int, workers: int) -> dict[str, Any]:
    """Time all ways in turns."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    arguments = slide_path, plan, coords

    def consume(batches: Iterator[torch.Tensor]) -> None:
        for _ in batches:
            pass

    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: consume(plain_batches(*arguments, transform, workers)),
        "ours": lambda: consume(our_batches(*arguments, transform, workers)),
        "ours_read": lambda: consume(our_batches(*arguments, transform, workers, only_read=True)),
        "ours_1_core": lambda: on_one_core(lambda: consume(our_batches(*arguments, transform, 1))),
    }
    alone: dict[str, Callable[[], None]] = {
        "libjpeg_turbo": lambda: decode_tiles(*arguments, workers),
        "libjpeg_turbo_1_core": lambda: on_one_core(lambda: decode_tiles(*arguments, 1)),
        "cucim": lambda: decode_regions(*arguments, workers),
    }
    timed = decoders_of(slide_path, plan.level)
    ways.update({way: run for way, run in alone.items() if way in timed})
    few = coords[:: max(1, len(coords) // 100)]
    worst = largest_difference(
        plain_batches(slide_path, plan, few, transform, workers), our_batches(slide_path, plan, few, transform, 1)
    )
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in ways if turn % 2 else reversed(ways):
            started = time.perf_counter()
            ways[way]()
            if turn:  # the first warms the file cache and the libraries
                rates[way].append(len(coords) / (time.perf_counter() - started))
    medians = {way: statistics.median(values) for way, values in rates.items()}

    def ratio(way: str, other: str) -> float | None:
        return round(medians[way] / medians[other], 2) if way in medians and other in medians else None

    return {
        "slide": slide_path.name,
        "patches": len(coords),
        "patch_size_px": plan.patch_size_px,
        "level": plan.level,
        "read_px": plan.read_px,
        "largest_grey_level_difference": round(worst, 3),
        "patches_per_s": {way: [round(value, 1) for value in values] for way, values in rates.items()},
        "median_patches_per_s": {way: round(value, 1) for way, value in medians.items()},
        "ratio_to_plain": ratio("ours", "plain"),
        "share_of_libjpeg_turbo": ratio("ours", "libjpeg_turbo"),
        "share_of_libjpeg_turbo_read": ratio("ours_read", "libjpeg_turbo"),
        "share_of_cucim": ratio("ours", "cucim"),
        "scaling": ratio("ours", "ours_1_core"),
        "scaling_of_libjpeg_turbo": ratio("libjpeg_turbo", "libjpeg_turbo_1_core"),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def machine() -> dict[str, Any]:
    """Where and with what the figures were made."""
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    versions = {name: installed.get(name, "unknown") for name in PACKAGES}
    return {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version(), **versions}


COLUMNS: tuple[tuple[str, int, Callable[[dict[str, Any]], float | None], str], ...] = (
    ("plain", 6, lambda case: case["median_patches_per_s"]["plain"], ".0f"),
    ("ours", 6, lambda case: case["median_patches_per_s"]["ours"], ".0f"),
    ("x", 5, lambda case: case["ratio_to_plain"], ".1f"),
    ("read", 6, lambda case: case["median_patches_per_s"]["ours_read"], ".0f"),
    ("libjpeg", 8, lambda case: case["median_patches_per_s"].get("libjpeg_turbo"), ".0f"),
    ("ours", 5, lambda case: case["share_of_libjpeg_turbo"], ".0%"),
    ("read", 5, lambda case: case["share_of_libjpeg_turbo_read"], ".0%"),
    ("cuCIM", 6, lambda case: case["median_patches_per_s"].get("cucim"), ".0f"),
    ("ours", 5, lambda case: case["share_of_cucim"], ".0%"),
    ("scaling", 8, lambda case: case["scaling"], ".2f"),
    ("jpeg", 5, lambda case: case["scaling_of_libjpeg_turbo"], ".2f"),
    ("diff", 5, lambda case: case["largest_grey_level_difference"], ".2f"),
    ("MB", 5, lambda case: case["peak_memory_mb"], "d"),
)
"""Title, width and content of what is printed of a case."""


def line_of(case: dict[str, Any]) -> str:
    """One line of the table."""
    values = [(value(case), width, form) for _, width, value, form in COLUMNS]
    return " ".join(("-" if value is None else format(value, form)).rjust(width) for value, width, form in values)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse options, run every case, print a table and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--slide", type=Path, nargs="+", help="slides (default: a synthetic one, drawn for the occasion)"
    )
    parser.add_argument("--mpp", type=float, help="µm/px of the slides, where they do not say")
    parser.add_argument("--mag", type=float, nargs="+", default=[20.0], help="magnifications (default: 20)")
    parser.add_argument("--patch-size", type=int, nargs="+", default=[256], help="patch sides in pixels (default: 256)")
    parser.add_argument("--overlap", type=int, nargs="+", default=[0], help="overlaps in pixels (default: 0)")
    parser.add_argument("--patches", type=int, default=512, help="most patches a round (default: 512)")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"timed rounds, at least {MIN_ROUNDS}")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(argv)
    if options.rounds < MIN_ROUNDS or options.patches < 1:
        parser.error(f"--rounds must be at least {MIN_ROUNDS} and --patches at least 1")
    with tempfile.TemporaryDirectory() as folder:
        slides = options.slide
        if slides is None:
            slides = [Path(folder) / "demo.svs"]
            draw_demo_slide(slides[0])
        try:
            cases = run_all(slides, options)
        except TridentError as error:
            print(f"error: {error}", file=sys.stderr)
            return exit_codes.USAGE
    if options.json is not None:
        result = {"machine": machine(), "workers": default_workers(), "rounds": options.rounds, "cases": cases}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return exit_codes.OK


def run_all(slides: Sequence[Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case; a line of each is printed as soon as it is known."""
    print(
        f"{'slide, magnification, patch, overlap':44} " + " ".join(title.rjust(width) for title, width, *_ in COLUMNS)
    )
    cases = []
    for slide_path, mag, patch_size_px, overlap_px in itertools.product(
        slides, options.mag, options.patch_size, options.overlap
    ):
        coords, plan = tissue_patches(slide_path, mag, patch_size_px, overlap_px, options.patches, mpp=options.mpp)
        if not len(coords):
            print(f"{slide_path}: no patch of {patch_size_px} px at {mag:g}x fits into its tissue", file=sys.stderr)
            continue
        case = run_case(slide_path, coords, plan, options.rounds, default_workers())
        cases.append({"magnification": mag, "overlap_px": overlap_px, **case})
        label = f"{slide_path.name} {mag:g}x {patch_size_px} {overlap_px} (level {plan.level})"
        print(f"{label:44} {line_of(case)}", flush=True)
    return cases


if __name__ == "__main__":
    sys.exit(main())
