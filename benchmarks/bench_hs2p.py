"""Tiles per second of this project's reader against hs2p's streaming reader, on the same tiles of one slide.

hs2p has an environment of its own; this script is told both interpreters. The two take
turns, each round in new processes; the time from opening the slide to the last tile counts, imports do not. Both give
each tile as uint8 (side, side, 3) at level 0, without resizing: ours in batches of 64 as the feature loop takes them,
hs2p's one by one from `iter_tile_arrays_from_result`, by cuCIM with as many workers. The tiles are compared first.

    python -m venv /tmp/hs2p && /tmp/hs2p/bin/pip install hs2p cucim-cu13
    python benchmarks/bench_hs2p.py --slide slide.svs --hs2p /tmp/hs2p/bin/python
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


def tiles_of_hs2p(slide: Path, coords: Any, side_px: int, mpp: float, workers: int) -> Iterator[Any]:
    """hs2p's streaming reader; it takes any object with the fields of its tiling result."""
    from hs2p.wsi.streaming.stream import iter_tile_arrays_from_result

    tiling = SimpleNamespace(
        image_path=slide,
        backend="cucim",
        base_spacing_um=mpp,
        read_level=0,
        read_tile_size_px=side_px,
        tile_size_lv0=side_px,
        step_px_lv0=side_px,
        overlap=0.0,
        level_downsamples=[1.0],
        x=coords[:, 0],
        y=coords[:, 1],
        tile_index=np.arange(len(coords)),
    )
    yield from iter_tile_arrays_from_result(result=tiling, num_workers=workers)


def tiles_of_ours(slide: Path, coords: Any, side_px: int, mpp: float, workers: int) -> Iterator[Any]:
    """The reading threads of the feature loop."""
    from torchvision import transforms

    from trident.features.patch_batches import PatchBatches
    from trident.patching.grid import ReadPlan
    from trident.patching.reader import PatchReader
    from trident.slides.registry import open_slide

    with (
        open_slide(slide, mpp=mpp) as opened,
        PatchBatches(
            PatchReader(opened, ReadPlan(0, side_px, side_px)),
            coords,
            [transforms.Compose([transforms.ToTensor()])],
            batch_size=64,
            workers=workers,
            pinned=False,
            max_unreadable_share=0.0,
        ) as batches,
    ):
        for batch in batches:
            yield from batches.pixels(batch).numpy()
            batches.release(batch)


def work(given: argparse.Namespace) -> None:
    """What one of the processes does: read all tiles, print seconds, or with `--digests` what the tiles are."""
    coords = np.load(given.coords)
    ways = {"hs2p": tiles_of_hs2p, "ours": tiles_of_ours}
    tiles = ways[given.role](given.slide, coords, given.side, given.mpp, given.workers)
    if given.role == "ours":  # the imports that the generator would do within the timed part
        import torchvision  # noqa: F401

        import trident.features.patch_batches
        import trident.slides.cucim  # noqa: F401
    else:
        import hs2p.wsi.backends.cucim
        import hs2p.wsi.streaming.stream  # noqa: F401
    import cucim  # noqa: F401

    if given.digests:  # hs2p groups neighbours, so its order is another one
        print(json.dumps(sorted(hashlib.md5(np.ascontiguousarray(tile)).hexdigest() for tile in tiles)))
        return
    began = time.perf_counter()
    count = sum(1 for tile in tiles if tile.shape == (given.side, given.side, 3))
    print(json.dumps({"seconds": time.perf_counter() - began, "tiles": count}))


def run(role: str, interpreter: Path, given: argparse.Namespace, coords: Path, *, digests: bool = False) -> Any:
    command = [str(interpreter), __file__, "--slide", str(given.slide), "--role", role, "--coords", str(coords)]
    command += ["--side", str(given.side), "--mpp", str(given.mpp), "--workers", str(given.workers)]
    done = subprocess.run([*command, *(["--digests"] if digests else [])], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{role}: {interpreter} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(given: argparse.Namespace) -> int:
    from bench_data_path import tissue_patches

    coords, plan = tissue_patches(given.slide, 40 if given.mpp < 0.3 else 20, given.side, 0, given.tiles)
    if (plan.level, plan.read_px) != (0, given.side):
        raise SystemExit(f"{given.slide}: tiles of {given.side} px are read as {plan}; give --mpp as the file has it")
    interpreters = {"ours": given.ours, "hs2p": given.hs2p}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coords.npy"
        np.save(file, coords)
        same = len({json.dumps(run(role, path, given, file, digests=True)) for role, path in interpreters.items()}) == 1
        rates: dict[str, list[float]] = {role: [] for role in interpreters}
        for turn in range(given.rounds):
            for role in list(interpreters)[:: 1 if turn % 2 else -1]:
                found = run(role, interpreters[role], given, file)
                rates[role].append(found["tiles"] / found["seconds"])
    medians = {role: statistics.median(values) for role, values in rates.items()}
    print(
        f"{len(coords)} tiles of {given.side} px, {given.workers} workers, {given.rounds} rounds, same pixels: {same}"
    )
    for role, values in rates.items():
        print(f"{role}: {medians[role]:.0f} tiles/s (slowest {min(values):.0f}, fastest {max(values):.0f})")
    print(f"ours / hs2p: {medians['ours'] / medians['hs2p']:.2f}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--hs2p", type=Path, help="interpreter of the environment with hs2p")
    parser.add_argument("--ours", type=Path, default=Path(sys.executable))
    parser.add_argument("--side", type=int, default=512, help="side of a tile, level-0 px")
    parser.add_argument("--mpp", type=float, default=0.25, help="µm/px of level 0")
    parser.add_argument("--tiles", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--role", choices=("ours", "hs2p"), help=argparse.SUPPRESS)
    parser.add_argument("--coords", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--digests", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.role:
        work(given)
        return 0
    if given.hs2p is None:
        parser.error("--hs2p: name the interpreter that has hs2p")
    return compare(given)


if __name__ == "__main__":
    raise SystemExit(main())
