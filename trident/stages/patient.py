"""Patient level: the slides of one patient become one vector, once their features are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trident.errors import StageNotRequestedError, StoreError
from trident.slides.discovery import SlideSource
from trident.stages.base import Progress, StageContext, StageResult
from trident.stages.h5_stage import H5Stage

if TYPE_CHECKING:
    from trident.encoders.slide.base import SlideEncoder

PATIENT_FEATURES = "patient_features"

Pooling = Literal["mean", "early"]


class PatientStage(H5Stage):
    """The vector of one patient: the mean of the slide embeddings, or all patches through the slide encoder at once."""

    kind = PATIENT_FEATURES

    def __init__(
        self,
        context: StageContext,
        patient: str,
        slides: tuple[str, ...],
        *,
        pooling: Pooling,
        slide_encoder: str,
        patch_encoder: str,
        load_encoder: Callable[[], SlideEncoder],
    ) -> None:
        """Args:
        patient: names the output.
        slides: names of the patient's slides.
        pooling: `mean` of the slide embeddings, or `early` fusion: the patches of all slides are encoded as one.
        slide_encoder: canonical name.
        patch_encoder: whose features early fusion takes.
        load_encoder: called only for early fusion.
        """
        super().__init__(context, SlideSource(Path(patient), patient, patient, mpp=None, size_bytes=0))
        self.slides = slides
        self.pooling = pooling
        self.slide_encoder = slide_encoder
        self.patch_encoder = patch_encoder
        self.load_encoder = load_encoder

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.slide_encoder}"

    def usual_output(self) -> Path:
        return self.context.layout.patient_features(self.source.name, self.slide_encoder)

    @property
    def needs(self) -> None:
        return None

    def settings(self) -> dict[str, Any]:
        return {"slide_encoder": self.slide_encoder, "pooling": self.pooling}

    def inputs(self) -> dict[str, str]:
        from trident.store import digests

        found = {slide: digests.features_digest(path) for slide, path in self._files().items() if path.exists()}
        # One digest of all: a slide more or less in the list is a change too.
        return {"slides": hashlib.sha256(json.dumps(found).encode()).hexdigest()}

    def produce(self, progress: Progress) -> StageResult:
        from trident.store import h5

        inputs = self.inputs()
        missing = [str(path) for path in self._files().values() if not path.exists()]
        if missing:
            raise StageNotRequestedError(
                f"{missing[0]}: missing ({len(missing)} of {len(self.slides)} slides of patient {self.source.name}); "
                f"run --task feat --slide_encoder {self.slide_encoder} on them first"
            )
        embedding, n_used = self._mean() if self.pooling == "mean" else self._early()
        h5.write_slide_features(
            self.output,
            embedding,
            np.empty((0, 2), np.int64),
            {"name": self.source.name, "savetodir": str(self.output.parent)},
            name=self.source.name,
            savetodir=str(self.output.parent),
            encoder=self.slide_encoder,
            recipe=self.wanted_recipe(inputs, slides=list(self.slides), device=self.context.device),
        )
        message = f"{len(embedding)} features from {n_used} of {len(self.slides)} slides"
        return StageResult(message if n_used == len(self.slides) else f"{message}; the others have no patches")

    def _files(self) -> dict[str, Path]:
        layout = self.context.layout
        if self.pooling == "mean":
            return {slide: layout.slide_features(slide, self.slide_encoder) for slide in self.slides}
        return {slide: layout.patch_features(slide, self.patch_encoder) for slide in self.slides}

    def _mean(self) -> tuple[NDArray[np.float32], int]:
        """Mean over the slides that have patches; a slide without has an embedding of zeros that means nothing."""
        from trident.store import h5

        found = [h5.read_slide_features(path) for path in self._files().values()]
        lengths = {len(one.features) for one in found}
        if len(lengths) > 1:
            raise StoreError(
                f"patient {self.source.name}: the slide embeddings have different lengths {sorted(lengths)}; "
                "make them anew with one version of the encoder"
            )
        used = [one.features for one in found if len(one.coords)]
        if not used:
            return np.zeros(lengths.pop(), np.float32), 0
        mean: NDArray[np.float64] = np.stack(used).astype(np.float64).mean(axis=0)
        return mean.astype(np.float32), len(used)

    def _early(self) -> tuple[NDArray[np.float32], int]:
        from trident.features.slide import embed_slide
        from trident.store import h5

        found = [h5.read_features(path) for path in self._files().values()]
        used = [one for one in found if len(one.coords)]
        sides = {int(one.coords_attributes.get("patch_size_level0", 0)) for one in used}
        if len(sides) > 1:
            raise StoreError(
                f"patient {self.source.name}: patches cover {sorted(sides)} level-0 px, since the slides were scanned "
                "at different magnifications; early fusion needs one size, --pooling mean does not"
            )
        side_px = sides.pop() if sides else 1
        chosen = used or found[:1]
        coords = side_by_side([one.coords for one in chosen], side_px)
        features = np.concatenate([one.features for one in chosen])
        return embed_slide(features, coords, side_px, self.load_encoder(), self.context.device), len(used)


def side_by_side(coords: list[NDArray[np.int64]], side_px: int) -> NDArray[np.int64]:
    """Patch corners of several slides in one plane, the slides next to each other with one patch's width between them.

    Encoders that look at positions would otherwise take patches of different slides at one place for one patch.

    Args:
        coords: (N, 2) corners of each slide, level-0 px.
        side_px: side of a patch, level-0 px; shifts are multiples of it, so that the slides stay on one grid.
    """
    shifted, left_px = [], 0
    for one in coords:
        if not len(one):
            shifted.append(one)
            continue
        start_px = int(one[:, 0].min()) // side_px * side_px
        shifted.append(one + np.array([left_px - start_px, 0]))
        width_px = int(one[:, 0].max()) - start_px
        left_px += (width_px // side_px + 3) * side_px
    return np.concatenate(shifted)
