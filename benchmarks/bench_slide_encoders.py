"""Time and peak memory of slide encoders by the number of patches.

Every case runs in a process of its own, so that its peak is its own. The weights are those that the layers are born
with (neither figure depends on their values), or published ones: a file NAME.safetensors, NAME.pt, NAME.pth or NAME.bin
in --weights-dir.

    python benchmarks/bench_slide_encoders.py --encoders titan gigapath --patches 1000 10000 --json result.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident import exit_codes
from trident.encoders.checkpoint import CHECKPOINT_SUFFIXES
from trident.errors import TridentError

if TYPE_CHECKING:
    from trident.encoders.slide.base import SlideEncoder

ENCODERS = ("titan", "prism", "gigapath", "chief", "feather", "feather_uni_v2", "madeleine", "abmil", "mean-uni_v1")
PATCHES = (1000, 10_000, 50_000)
PATCH_SIZE_LEVEL0 = 512
GIB = 1 << 30


def fresh_encoder(name: str) -> SlideEncoder:
    """The encoder with the weights that its layers are born with."""
    from trident.encoders.slide.base import PoolingEncoder
    from trident.encoders.slide.chief import ChiefNetwork
    from trident.encoders.slide.factory import encoder_factory
    from trident.encoders.slide.feather import FeatherNetwork
    from trident.encoders.slide.gigapath import GigaPathNetwork
    from trident.encoders.slide.madeleine import MadeleineNetwork
    from trident.encoders.slide.network_encoder import NetworkSlideEncoder
    from trident.encoders.slide.prism import PrismNetwork
    from trident.encoders.slide.registry import spec
    from trident.encoders.slide.titan import TitanNetwork

    declared = spec(name)
    if name in (with_places := {"titan": TitanNetwork, "gigapath": GigaPathNetwork}):
        return NetworkSlideEncoder(declared, with_places[name](), takes_coords=True)
    if name == "prism":
        return NetworkSlideEncoder(declared, PrismNetwork(), takes_coords=False)
    if name in (pooling := {"chief": ChiefNetwork, "madeleine": MadeleineNetwork}):
        return PoolingEncoder(declared, pooling[name]())
    if name.startswith("feather"):
        return PoolingEncoder(declared, FeatherNetwork(declared.input_dim or 0))
    options: dict[str, Any] = (
        {"input_feature_dim": 768, "n_heads": 1, "head_dim": 512, "gated": True} if name == "abmil" else {}
    )
    return encoder_factory(name, **options)


def published_encoder(name: str, weights_dir: Path) -> SlideEncoder | None:
    """The encoder with its weights from that folder; None where the folder has none for it."""
    from trident.encoders.slide.factory import encoder_factory

    for suffix in CHECKPOINT_SUFFIXES:
        path = weights_dir / f"{name}{suffix}"
        if path.is_file():
            return encoder_factory(name, weights_path=path)
    return None


def measure(name: str, n_patches: int, weights_dir: Path | None) -> dict[str, Any]:
    """Embed one made-up slide, a square of tissue, in this process."""
    import numpy as np
    import torch

    from trident.features.slide import embed_slide

    encoder = None if weights_dir is None else published_encoder(name, weights_dir)
    weights = "published" if encoder is not None else "fresh"
    encoder = (encoder or fresh_encoder(name)).eval().requires_grad_(False)
    columns = math.ceil(math.sqrt(n_patches))
    index = np.arange(n_patches)
    coords = PATCH_SIZE_LEVEL0 * np.stack([index % columns, index // columns], axis=1)
    features = np.random.default_rng(0).standard_normal((n_patches, encoder.input_dim or 1024), dtype=np.float32)
    embed_slide(features[:16], coords[:16], PATCH_SIZE_LEVEL0, encoder, "cpu")  # what only a first call does
    started = time.perf_counter()
    embed_slide(features, coords, PATCH_SIZE_LEVEL0, encoder, "cpu")
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "encoder": name,
        "patches": n_patches,
        "seconds": round(time.perf_counter() - started, 2),
        "peak_gib": round(peak / GIB, 2),
        "features_gib": round(features.nbytes / GIB, 2),
        "weights": weights,
        "threads": torch.get_num_threads(),
    }


def measure_apart(name: str, n_patches: int, weights_dir: Path | None) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--case", name, str(n_patches)]
    if weights_dir is not None:
        command += ["--weights-dir", str(weights_dir)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} with {n_patches} patches failed with code {done.returncode}; its message is above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Parse options, measure, print a table and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--encoders", nargs="+", default=ENCODERS, help=f"slide encoders (default: {' '.join(ENCODERS)})"
    )
    parser.add_argument("--patches", nargs="+", type=int, default=PATCHES, help="numbers of patches of a slide")
    parser.add_argument("--weights-dir", type=Path, help="folder of published weights (default: fresh ones)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--case", nargs=2, metavar=("ENCODER", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.case is not None:
        try:
            print(json.dumps(measure(options.case[0], int(options.case[1]), options.weights_dir)))
        except TridentError as error:
            print(f"error: {error}", file=sys.stderr)
            return exit_codes.USAGE
        return 0
    results = []
    print(
        "| encoder | patches | seconds | peak memory, GiB | of which features, GiB |\n|---|---|---|---|---|", flush=True
    )
    for name in options.encoders:
        for n_patches in options.patches:
            one = measure_apart(name, n_patches, options.weights_dir)
            results.append(one)
            cells = (name, f"{n_patches:,}", one["seconds"], one["peak_gib"], one["features_gib"])
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if options.json is not None:
        machine = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"cases": results, "machine": machine}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
