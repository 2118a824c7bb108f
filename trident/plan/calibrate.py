"""Measures how long stages take, on a part of one slide. Imports torch: import this module late. Writes nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from trident.errors import TridentError
from trident.features.encoder_output import EncoderTarget
from trident.features.loop import extract_with_several
from trident.features.slide import embed_slide
from trident.job import COORDS
from trident.patching.grid import plan_read
from trident.patching.reader import PatchReader
from trident.plan.rates import StageRate
from trident.plan.tissue import Patches, patches_on, rough_outlines
from trident.plan.window import SlideWindow
from trident.slides.base import Slide
from trident.stages.coords import CoordsStage
from trident.stages.features import PatchFeaturesStage, SlideFeaturesStage
from trident.stages.plan import JobStages
from trident.stages.segmentation import SegmentationStage

logger = logging.getLogger(__name__)

N_PATCHES = 256
_MOST_EMBEDDED = 20_000
_WINDOW_UM = 4096.0
"""Side of the part of a slide on which a neural segmenter is timed: 64 tiles at 10x."""


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        rates: by stage key.
        failures: by stage key, why nothing could be measured.
        peak_bytes: most GPU memory that torch held meanwhile; None on a CPU.
    """

    rates: Mapping[str, StageRate]
    failures: Mapping[str, str]
    peak_bytes: int | None


def calibrate(stages: JobStages, slide: str, keys: Collection[str], n_patches: int) -> Calibration:
    """Run a little of each of these stages on one slide.

    Args:
        stages: of the job, on the device that is to be measured.
        slide: name of the slide.
        keys: of the stages to measure; their weights must be on this machine.
        n_patches: of that slide, for the size of what a slide encoder gets.

    Raises:
        TridentError: the slide does not open, or has no resolution.
    """
    rates: dict[str, StageRate] = {}
    failures: dict[str, str] = {}
    by_key = {key: stages.of_key(key, slide) for key in stages.job.stages if key in keys}
    encoders = {key: stage for key, stage in by_key.items() if isinstance(stage, PatchFeaturesStage)}
    began = time.perf_counter()
    with stages.stage(COORDS, slide).open_slide() as opened:
        open_s = time.perf_counter() - began
        coords = stages.stage(COORDS, slide)
        assert isinstance(coords, CoordsStage) and coords.grid is not None
        began = time.perf_counter()
        outlines = rough_outlines(opened, cut_holes=coords.tissue.cut_holes)
        patches = patches_on(opened, coords.grid, outlines)
        found_s = open_s + time.perf_counter() - began
        megapixels = opened.dimensions[0] * opened.dimensions[1] / 1e6
        basis = f"measured on {opened.path.name}"
        for key, stage in by_key.items():
            try:
                if isinstance(stage, SegmentationStage):
                    seconds = _segment(stage, opened) + open_s + _thumbnail_seconds(opened)
                    rates[key] = StageRate("megapixels", 0.0, seconds / megapixels, basis=basis)
                elif isinstance(stage, CoordsStage):  # finding the tissue stands for drawing the patches
                    rates[key] = StageRate("megapixels", 0.0, found_s / megapixels, basis=basis)
                elif isinstance(stage, SlideFeaturesStage):
                    rates[key] = _embed(stage, n_patches, patches, basis)
            except TridentError as error:
                failures[key] = str(error)
        if encoders:
            try:
                rates.update(_encode(encoders, opened, patches, open_s, basis))
            except TridentError as error:
                failures.update(dict.fromkeys(encoders, str(error)))
    return Calibration(rates, failures, _peak_bytes(stages.context.device))


def _thumbnail_seconds(slide: Slide) -> float:
    """Of the picture that the stage leaves beside the outlines."""
    from trident.viz.overlays import slide_thumbnail

    began = time.perf_counter()
    slide_thumbnail(slide)
    return time.perf_counter() - began


def _segment(stage: SegmentationStage, slide: Slide) -> float:
    """Seconds that the segmenter takes for the whole slide, from a window where it is a network."""
    segmenter = stage.load_segmenter()
    if not stage.uses_device:
        began = time.perf_counter()
        segmenter.segment(slide)
        return time.perf_counter() - began
    window = SlideWindow.in_the_middle(slide, max(1, round(_WINDOW_UM / slide.mpp)))
    segmenter.segment(window)  # the first batch on a device takes longer
    began = time.perf_counter()
    segmenter.segment(window)
    seconds = time.perf_counter() - began
    area, whole = np.prod(window.dimensions), np.prod(slide.dimensions)
    return float(seconds * whole / area)


def _encode(
    stages: Mapping[str, PatchFeaturesStage], slide: Slide, patches: Patches, open_s: float, basis: str
) -> dict[str, StageRate]:
    """Read and encode a run of neighbouring patches, as a run would, and throw the features away."""
    first = next(iter(stages.values()))
    total = len(patches.corners)
    count = min(N_PATCHES, total)
    if not count:
        raise TridentError(f"{slide.path}: no tissue was found on it, so nothing can be measured there")
    start = (total - count) // 2
    sample = np.ascontiguousarray(patches.corners[start : start + count])
    loaded = {}
    for key, stage in stages.items():
        began = time.perf_counter()
        loaded[key] = stage.load_encoder(), time.perf_counter() - began
    reader = PatchReader(slide, plan_read(patches.geometry, slide.level_downsamples))

    def go(corners: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[object]:
        targets = [EncoderTarget(encoder, lambda features: None, first.precision) for encoder, _ in loaded.values()]
        return list(
            extract_with_several(
                reader,
                corners,
                targets,
                device=first.context.device,
                batch_size=first.batch_size,
                workers=first.context.max_workers,
            )
        )

    go(sample[: min(count, first.batch_size)])  # the first batch chooses algorithms and fills caches
    rates = {}
    for (key, (_, load_s)), outcome in zip(loaded.items(), go(sample), strict=True):
        if isinstance(outcome, Exception):
            raise outcome if isinstance(outcome, TridentError) else TridentError(f"{key}: {outcome}")
        seconds = outcome.seconds  # type: ignore[attr-defined]  # a report where it is no error
        rates[key] = StageRate(
            "patches",
            open_s,
            seconds.wait / count,
            (seconds.encode + seconds.write) / count,
            load_s,
            f"{count} patches {basis}",
        )
    return rates


def _embed(stage: SlideFeaturesStage, n_patches: int, patches: Patches, basis: str) -> StageRate:
    """Pool random features of as many patches as the slide has."""
    from trident.encoders.patch.registry import spec

    began = time.perf_counter()
    encoder = stage.load_encoder()
    load_s = time.perf_counter() - began
    dim = spec(stage.features.encoder_name).embedding_dim
    if dim is None:
        raise TridentError(f"{stage.features.encoder_name}: its declaration does not say how long its features are")
    count = max(1, min(n_patches, _MOST_EMBEDDED))
    features = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    side_px = patches.geometry.side_level0_px
    grid = int(np.ceil(np.sqrt(count)))
    coords = np.stack([np.arange(count) % grid, np.arange(count) // grid], axis=1).astype(np.int64) * side_px
    began = time.perf_counter()
    embed_slide(features, coords, side_px, encoder, stage.context.device, precision=stage.precision)
    seconds = time.perf_counter() - began
    return StageRate("patches", 0.0, seconds / count, load_s=load_s, basis=f"{count} random features, {basis}")


def _peak_bytes(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
