"""A segmenter that is a network: the slide's tiles through it, and its decisions into one mask.

Imports torch: import this module lazily.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trident.encoders.patch.base import PatchEncoder
from trident.features.loop import extract_features
from trident.features.threads import default_workers
from trident.patching.grid import plan_read
from trident.segmentation.base import Progress, Segmenter, TissueMask
from trident.segmentation.decisions import Decision, decision_of
from trident.segmentation.spec import ARTIFACT_REMOVER, TILE_PX, Removal, SegmentationModelSpec
from trident.segmentation.tile_reader import TileReader
from trident.segmentation.tile_transform import tile_transform
from trident.segmentation.tiles import TileGrid
from trident.slides.base import Slide
from trident.store.timings import summed

_MAX_BLOCK_READERS = 4
"""Threads that may each hold the blocks of a large tile."""
_CPU_TILES_PER_THREAD = 2
"""A CPU looks at one tile a thread at a time, so that a larger batch would only take memory."""


class NeuralSegmenter(Segmenter):
    """A published network with its decision. Tiles are read ahead by threads, and looked at in batches on the device.

    Called on a batch of transformed tiles (B, 3, H, W), it gives uint8 (B, H, W), 1 on what is kept.
    """

    input_size: ClassVar[int] = TILE_PX
    """Side of a tile, pixels at `target_magnification`."""

    def __init__(
        self,
        spec: SegmentationModelSpec,
        network: nn.Module,
        *,
        confidence_thresh: float = 0.5,
        remove_penmarks_only: bool = False,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
        max_workers: int | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        """Args:
        spec: declaration of the network.
        network: (B, 3, H, W) -> logits (B, classes, H, W).
        confidence_thresh: probability from which a pixel is tissue; the artifact model has no use for it.
        remove_penmarks_only: of the artifact model's classes, remove pen marks and background alone.
        device: where to compute.
        batch_size: tiles looked at together on a GPU.
        max_workers: reading threads; None for one a processor, 0 to read in the calling thread.
        weights_sha256: digest of the weights file, where it is known.
        """
        self.spec = spec
        self.name = spec.name
        self.target_magnification = spec.magnification
        self.confidence_thresh = confidence_thresh
        self.remove_penmarks_only = remove_penmarks_only
        self.batch_size = batch_size
        self.max_workers = max_workers
        self.weights_sha256 = weights_sha256
        self.eval_transforms = tile_transform(spec)
        self.precision: torch.dtype = getattr(torch, spec.precision)
        self.model = network.eval()
        decision = decision_of(spec, confidence_thresh=confidence_thresh, remove_penmarks_only=remove_penmarks_only)
        self._decide = _Decide(network, decision)
        self.to(device)

    def to(self, device: torch.device | str) -> NeuralSegmenter:
        """Move the network to a device, where it computes from then on."""
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """uint8 (B, H, W), 1 on what is kept of each transformed tile; in the precision of the calling code."""
        with torch.inference_mode():
            return self._decide.decision(self._decide.probabilities(batch)).to(torch.uint8)

    def probabilities(self, batch: Tensor) -> Tensor:
        """Class probabilities, float32 (B, classes, H, W), of transformed tiles (B, 3, H, W) on its device."""
        with torch.inference_mode():
            return self._decide.probabilities(batch)

    def segment(self, slide: Slide, progress: Progress | None = None) -> TissueMask:
        """The mask of the whole slide, at the network's magnification or, for a huge slide, coarser.

        Tiles that do not decode are background, and noted on the slide.

        Raises:
            MissingMppError: the slide's resolution is unknown.
            UnreadableSlideError: more tiles than one in a hundred do not decode.
            WeightsError: the network gave NaN.
            TridentError: not even one tile fits into the device's memory.
        """
        grid = self.grid(slide)
        mask = grid.empty_mask()
        self.look(slide, grid, grid.geometry.corners(), mask, progress)
        return grid.tissue_mask(mask)

    def grid(self, slide: Slide) -> TileGrid:
        """The tiles of a slide.

        Raises:
            MissingMppError: the slide's resolution is unknown.
        """
        return TileGrid.over(slide.dimensions, slide.magnification, self.target_magnification)

    def look(
        self,
        slide: Slide,
        grid: TileGrid,
        corners: NDArray[np.int64],
        mask: NDArray[np.bool_],
        progress: Progress | None = None,
    ) -> None:
        """Write what is kept of some tiles into `mask`; the rest of it stays as it is.

        Args:
            slide: to read from.
            grid: the slide's.
            corners: (N, 2), of the tiles to look at.
            mask: of the grid's shape.
            progress: called with (tiles done, N).

        Raises:
            UnreadableSlideError, WeightsError, TridentError: as `segment`.
        """
        reader = TileReader(slide, plan_read(grid.geometry, slide.level_downsamples))
        done = 0

        def paste(decisions: NDArray[np.float32]) -> None:
            nonlocal done
            for corner, decision in zip(corners[done : done + len(decisions)], decisions, strict=True):
                grid.paste(mask, corner, decision.reshape(TILE_PX, TILE_PX) > 0)
            done += len(decisions)

        report = extract_features(
            reader.source,
            corners,
            self._as_encoder(),
            device=self.device,
            batch_size=self._usable_batch_size(),
            workers=self._usable_workers(reader),
            sink=paste,
            on_progress=progress,
        )
        slide.timings.update(summed([slide.timings, report.seconds.as_dict()]))
        for index in report.unreadable:
            mask[grid.window(corners[index])] = False
        if report.unreadable:
            slide.notes.append(
                f"{len(report.unreadable)} of {len(corners)} tiles did not decode for {self.name}; no tissue there"
            )

    def recipe_settings(self) -> dict[str, str | int | float | bool | None]:
        """What shapes the mask: network, magnification, threshold, digest of the weights."""
        own: dict[str, str | int | float | bool | None] = (
            {"remove_penmarks_only": self.remove_penmarks_only}
            if self.name == ARTIFACT_REMOVER
            else {"seg_conf_thresh": self.confidence_thresh}
        )
        return {
            "segmenter": self.name,
            "segmenter_magnification": self.target_magnification,
            **own,
            "segmenter_weights_sha256": self.weights_sha256,
        }

    def recipe_facts(self) -> dict[str, str]:
        """Device and precision."""
        on_gpu = self.device.type == "cuda"
        return {"device": str(self.device), "precision": self.spec.precision if on_gpu else "float32"}

    @property
    def removal(self) -> Removal:
        """What the artifact model removes."""
        return "pen marks" if self.remove_penmarks_only else "all artifacts"

    def _as_encoder(self) -> PatchEncoder:
        """The network for the loop that extracts features: a tile's "feature" is its decision, pixel by pixel."""
        return PatchEncoder(
            self.name,
            self._decide,
            self.eval_transforms,
            self.precision,
            embedding_dim=TILE_PX * TILE_PX,
            reentrant=True,
        )

    def _usable_batch_size(self) -> int:
        if self.device.type != "cpu":
            return self.batch_size
        return min(self.batch_size, _CPU_TILES_PER_THREAD * torch.get_num_threads())

    def _usable_workers(self, reader: TileReader) -> int:
        workers = default_workers() if self.max_workers is None else self.max_workers
        return min(workers, _MAX_BLOCK_READERS) if reader.in_blocks else workers


class _Decide(nn.Module):
    """(B, 3, H, W) -> float32 (B, H * W): 1 on what is kept, 0 elsewhere, NaN where the network gave NaN."""

    def __init__(self, network: nn.Module, decision: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.decision: Decision = decision

    def forward(self, batch: Tensor) -> Tensor:
        # One tile after the other where no batch makes it faster: activations take hundreds of megabytes a tile.
        parts = torch.split(batch, 1) if batch.device.type == "cpu" else (batch,)
        return torch.cat([self._decide(part) for part in parts])

    def probabilities(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(batch)
        return logits.to(torch.float32).softmax(dim=1)

    def _decide(self, batch: Tensor) -> Tensor:
        probabilities = self.probabilities(batch)
        kept = self.decision(probabilities).to(torch.float32)
        return torch.where(probabilities.isfinite().all(dim=1), kept, torch.nan).flatten(1)
