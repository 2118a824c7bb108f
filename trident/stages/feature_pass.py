"""One pass over the patches of a slide, for one encoder or for several. Imports torch: import this module lazily."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trident.features.encoder_output import EncoderTarget
from trident.features.loop import extract_with_several
from trident.features.precision import precision_name, used_precision
from trident.features.report import FeatureReport
from trident.patching.legacy import plan_from_attributes
from trident.patching.reader import PatchReader
from trident.slides.base import Slide
from trident.stages.base import Progress, StageResult, slide_meta
from trident.store import digests, h5

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder
    from trident.stages.features import PatchFeaturesStage

Outcome = StageResult | Exception


def produce_together(
    stages: Sequence[PatchFeaturesStage], progress: Progress, *, began: float | None = None
) -> list[Outcome]:
    """Make the features of one slide with several encoders; each patch is read once.

    Args:
        stages: one an encoder, of one slide and one set of coordinates, with their locks held.
        progress: told of patches that all encoders have done.
        began: `time.perf_counter()` from before this module was imported: the libraries are part of loading the models.

    Returns:
        For each stage its result, or what went wrong with its encoder or its file, which does not stop the others.

    Raises:
        UnreadableSlideError, StoreError: what all of them need (the slide, the coordinates) is not to be had.
    """
    first = stages[0]
    imports_s = 0.0 if began is None else time.perf_counter() - began
    inputs = first.inputs()
    found = h5.read_coords(first.coords.output)
    writings = [_Writing(stage, inputs) for stage in stages]
    for number, writing in enumerate(writings):
        writing.guarded(lambda: writing.load(0.0 if number else imports_s))  # noqa: B023 - called at once
    began = time.perf_counter()
    with ExitStack() as files, first.open_slide() as slide:
        plan, attributes = plan_from_attributes(found.attributes, slide, source=first.coords.output)
        open_s = time.perf_counter() - began
        for writing in writings:
            files.push(writing.files)
            writing.guarded(lambda: writing.begin(slide, found.coords, attributes))  # noqa: B023 - called at once
        sound = [writing for writing in writings if writing.failure is None]
        if sound:
            outcomes = extract_with_several(
                PatchReader(slide, plan),
                found.coords,
                [writing.target() for writing in sound],
                device=first.context.device,
                batch_size=first.batch_size,
                workers=first.context.max_workers,
                on_progress=progress,
            )
            for writing, outcome in zip(sound, outcomes, strict=True):
                writing.guarded(lambda: writing.end(outcome, slide, open_s))  # noqa: B023 - called at once
    return [writing.outcome() for writing in writings]


@dataclass
class _Loaded:
    encoder: PatchEncoder
    seconds: float


class _Writing:
    """The features of one encoder on their way into their file."""

    def __init__(self, stage: PatchFeaturesStage, inputs: dict[str, str]) -> None:
        self._stage = stage
        self._inputs = inputs
        self._digest = hashlib.sha256(inputs["coords"].encode())
        self.files = ExitStack()
        """Holds the open file: it is completed or thrown away when this is closed."""
        self.failure: Exception | None = None
        self._result: StageResult | None = None

    def guarded(self, action: Callable[[], None]) -> None:
        """Do something that may fail for this encoder alone: then its file is thrown away, and no more is done."""
        if self.failure is not None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this encoder's outcome
            self.failure = error
            self.files.__exit__(type(error), error, error.__traceback__)

    def outcome(self) -> Outcome:
        """How it ended."""
        if self.failure is not None:
            return self.failure
        assert self._result is not None
        return self._result

    def load(self, imports_s: float) -> None:
        """Load the encoder, which may take its weights from a file."""
        began = time.perf_counter() - imports_s
        encoder = self._stage.load_encoder()
        self._loaded = _Loaded(encoder, time.perf_counter() - began)

    def begin(self, slide: Slide, coords: NDArray[np.int64], attributes: dict[str, Any]) -> None:
        """Open the file."""
        stage, encoder = self._stage, self._loaded.encoder
        stage.encoder_settings = {**stage.encoder_settings, "weights_sha256": encoder.weights_sha256}
        precision = used_precision(encoder.precision, stage.context.device.partition(":")[0], stage.precision)
        recipe = stage.wanted_recipe(
            self._inputs,
            reader=slide.reader_type,
            precision=precision_name(precision),
            device=stage.context.device,
        )
        self._writer = self.files.enter_context(
            h5.FeatureFileWriter(
                stage.output,
                n_rows=len(coords),
                dim=encoder.embedding_dim,
                coords=coords,
                coords_attributes=attributes,
                encoder=stage.encoder_name,
                name=stage.source.name,
                savetodir=str(stage.output.parent),
                recipe=recipe,
            )
        )

    def target(self) -> EncoderTarget:
        """The encoder with the file as its sink."""
        return EncoderTarget(self._loaded.encoder, self._append, self._stage.precision)

    def _append(self, features: NDArray[np.float32]) -> None:
        self._digest.update(features.tobytes())
        self._writer.append(features)

    def end(self, outcome: FeatureReport | Exception, slide: Slide, open_s: float) -> None:
        """Complete the file under its final name, unless the encoder failed."""
        if isinstance(outcome, Exception):
            raise outcome
        self._writer.set_attribute(digests.CONTENT_ATTRIBUTE, f"sha256:{self._digest.hexdigest()}")
        if outcome.unreadable:
            self._writer.set_attribute("unreadable_patches", outcome.unreadable)
        began = time.perf_counter()
        self.files.close()
        close_s = time.perf_counter() - began
        message = f"{outcome.n_patches} patches, {self._loaded.encoder.embedding_dim} features each"
        notes = list(slide.notes)
        if outcome.unreadable:
            notes.append(
                f"{len(outcome.unreadable)} of {outcome.n_patches} patches do not decode; black was encoded for them"
            )
            message += f"; {notes[-1]}"
        seconds = outcome.seconds.as_dict()
        self._result = StageResult(
            message,
            {"features": self._stage.output},
            meta=slide_meta(slide),
            reader_type=slide.reader_type,
            notes=notes,
            timings={
                **seconds,
                "write": seconds["write"] + close_s,
                "load": self._loaded.seconds,
                "open": open_s,
            },
        )
