"""Milliseconds a patch of an encoder on a CPU: as it is, in `channels_last` memory layout, and through torch.compile.

The ways take turns; the fastest round of each counts, as the machine may be busy. The time to compile is told apart.

    python benchmarks/bench_layout.py --models resnet50 vit_small_patch16_224
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch


def ways_of(name: str, batch: Any, compiled: bool) -> tuple[dict[str, Callable[[], Any]], float]:
    """The ways to encode one batch, and the seconds that compiling took."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    last = timm.create_model(name, num_classes=0).eval()
    last.load_state_dict(model.state_dict())
    last = last.to(memory_format=torch.channels_last)
    batch_last = batch.to(memory_format=torch.channels_last)
    ways: dict[str, Callable[[], Any]] = {"as it is": lambda: model(batch), "channels_last": lambda: last(batch_last)}
    began = time.perf_counter()
    if compiled:
        fast = torch.compile(model)
        fast(batch)
        ways["compiled"] = lambda: fast(batch)
    return ways, time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_small_patch16_224"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    batch = torch.randn(given.batch_size, 3, 224, 224)
    with torch.inference_mode():
        for name in given.models:
            ways, compile_s = ways_of(name, batch, not given.no_compile)
            usual = ways["as it is"]()
            best = dict.fromkeys(ways, float("inf"))
            for _ in range(given.rounds + 1):
                for way, encode in ways.items():
                    began = time.perf_counter()
                    features = encode()
                    best[way] = min(best[way], time.perf_counter() - began)
                    if not torch.allclose(features, usual, atol=1e-3, rtol=1e-3):
                        raise SystemExit(f"{name}, {way}: other features than as it is")
            figures = ", ".join(f"{way} {1000 * seconds / given.batch_size:.1f}" for way, seconds in best.items())
            print(f"{name}, {given.threads} threads, ms a patch: {figures}; compiling took {compile_s:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
