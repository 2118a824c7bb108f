"""Patches per second of the whole feature stage, with an encoder that costs nothing: the plain way against ours.

The plain way is a script as a user would write it: OpenSlide, PIL and torchvision in the forked workers of a
DataLoader, the encoder batch by batch, one HDF5 file at the end. Ours is the stage of the task graph with all that
belongs to it: the check of the output, lock, state, opening the slide and comparing it with OpenSlide, digests, the
file. Both work on all patches of the tissue that Otsu finds, and take turns within each round. The encoder takes the
middle pixel of a patch; what both write is compared.

    python benchmarks/bench_feature_stage.py --slide slide.svs
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from bench_data_path import BATCH_SIZE, IMAGENET, MIN_ROUNDS, machine, plain_batches
from torch import nn
from torchvision import transforms

from trident import exit_codes
from trident.errors import TridentError
from trident.features.threads import default_workers
from trident.patch_encoder_models import CustomInferenceEncoder
from trident.patching.grid import PatchGeometry, plan_read
from trident.processor import Processor
from trident.segmentation_models import segmentation_model_factory
from trident.slides.registry import open_slide
from trident.store import h5

TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*IMAGENET)])


class MiddlePixel(nn.Module):
    """Features (B, 3) of patches (B, 3, H, W): the pixel in the middle."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """The middle pixels."""
        return batch[:, :, batch.shape[2] // 2, batch.shape[3] // 2]


def plain_stage(slide_path: Path, coords: np.ndarray, mag: float, patch_size_px: int, out: Path) -> None:
    """A user's own script."""
    with open_slide(slide_path) as slide:
        geometry = PatchGeometry(patch_size_px, 0, mag, slide.magnification, *slide.dimensions)
        plan = plan_read(geometry, slide.level_downsamples)
    network = MiddlePixel()
    with torch.inference_mode():
        batches = plain_batches(slide_path, plan, coords, TRANSFORM, default_workers())
        features = np.concatenate([network(batch).numpy() for batch in batches])
    with h5py.File(out, "w") as file:
        file["features"], file["coords"] = features, coords


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the coordinates, time both ways in turns, print medians and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--mag", type=int, default=20)
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"timed rounds, at least {MIN_ROUNDS}")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args(arguments)
    if given.rounds < MIN_ROUNDS:
        parser.error(f"--rounds must be at least {MIN_ROUNDS}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run(given, Path(folder))
        except TridentError as error:
            print(f"error: {error}", file=sys.stderr)
            return exit_codes.USAGE
    for way, rates in result["patches_per_s"].items():
        print(f"{way:6} {statistics.median(rates):6.0f} patches/s ({min(rates):.0f} to {max(rates):.0f})")
    print(f"ratio  {result['ratio']:6.2f}, {result['patches']} patches, largest difference {result['difference']:.3f}")
    if given.json is not None:
        given.json.write_text(json.dumps({**result, "machine": machine()}, indent=2) + "\n", encoding="utf-8")
    return exit_codes.OK


def run(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Both ways in turns."""
    wsis = folder / "wsis"
    wsis.mkdir()
    (wsis / given.slide.name).symlink_to(given.slide.absolute())
    job = Processor(job_dir=folder / "job", wsi_source=wsis)
    job.run_segmentation_job(segmentation_model_factory("otsu"))
    grid = job.run_patching_job(given.mag, given.patch_size)
    (coords_path,) = Path(job.job_dir, grid, "patches").glob("*_patches.h5")
    coords = h5.read_coords(coords_path).coords
    encoder = CustomInferenceEncoder("middle-pixel", MiddlePixel(), TRANSFORM, torch.float32, reentrant=True)
    features: dict[str, Path] = {}

    def ours() -> None:
        for done in features.values():
            done.unlink(missing_ok=True)
        made = job.run_patch_feature_extraction_job(grid, encoder, device="cpu", batch_limit=BATCH_SIZE)
        (features["ours"],) = Path(made).glob("*.h5")

    ways = {
        "plain": lambda: plain_stage(given.slide, coords, given.mag, given.patch_size, folder / "plain.h5"),
        "ours": ours,
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(given.rounds + 1):
        for way in ways if turn % 2 else reversed(ways):
            began = time.perf_counter()
            ways[way]()
            if turn:  # the first warms the file cache and the libraries
                rates[way].append(len(coords) / (time.perf_counter() - began))
    with h5py.File(folder / "plain.h5") as plain, h5py.File(features["ours"]) as mine:
        difference = np.abs(plain["features"][:] - mine["features"][:]).max(axis=0)
    medians = {way: statistics.median(values) for way, values in rates.items()}
    return {
        "slide": given.slide.name,
        "patches": len(coords),
        "patches_per_s": rates,
        "ratio": medians["ours"] / medians["plain"],
        "difference": float((difference * np.array(IMAGENET[1]) * 255).max()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
