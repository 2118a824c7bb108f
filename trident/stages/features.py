"""Stages 3 and 4: encode the patches, and pool them into one embedding of the slide."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident.job import PATCH_FEATURES, SLIDE_FEATURES
from trident.slides.discovery import SlideSource
from trident.stages.base import Progress, StageContext, StageResult
from trident.stages.coords import CoordsStage
from trident.stages.h5_stage import H5Stage

if TYPE_CHECKING:
    from trident.encoders.patch.base import PatchEncoder
    from trident.encoders.slide.base import SlideEncoder


class PatchFeaturesStage(H5Stage):
    """Features of the patches of one slide, in the order of its coordinates."""

    kind = PATCH_FEATURES
    uses_device = True

    def __init__(
        self,
        context: StageContext,
        source: SlideSource,
        *,
        coords: CoordsStage,
        encoder_name: str,
        encoder_settings: dict[str, Any],
        load_encoder: Callable[[], PatchEncoder],
        batch_size: int = 64,
        precision: str = "auto",
        output: Path | None = None,
    ) -> None:
        """Args:
        encoder_settings: what shapes the features beside the encoder's name (weights' digest, input size, precision).
        load_encoder: called only if the stage runs.
        precision: a value of `--precision`.
        """
        super().__init__(context, source, output)
        self.coords = coords
        self.precision = precision
        self.encoder_name = encoder_name
        self.encoder_settings = encoder_settings
        self.load_encoder = load_encoder
        self.batch_size = batch_size

    @classmethod
    def of_model(
        cls,
        context: StageContext,
        source: SlideSource,
        encoder: PatchEncoder,
        *,
        settings: dict[str, Any],
        coords: CoordsStage,
        batch_size: int,
        output: Path | None = None,
    ) -> PatchFeaturesStage:
        """The stage for an encoder that is loaded already.

        Args:
            settings: `settings_of_model` of the encoder, which may take a while to find out.
        """
        return cls(
            context,
            source,
            coords=coords,
            encoder_name=encoder.enc_name,
            encoder_settings=settings,
            load_encoder=lambda: encoder,
            batch_size=batch_size,
            output=output,
        )

    @classmethod
    def given(
        cls, context: StageContext, source: SlideSource, encoder_name: str, output: Path | None = None
    ) -> PatchFeaturesStage:
        """Features that exist already, whoever made them, as the input of another stage; it cannot be run."""
        return cls(
            context,
            source,
            coords=CoordsStage.given(context, source),
            encoder_name=encoder_name,
            encoder_settings={},
            load_encoder=_no_encoder,
            output=output,
        )

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.encoder_name}"

    def usual_output(self) -> Path:
        return self.context.layout.patch_features(self.source.name, self.encoder_name)

    @property
    def needs(self) -> CoordsStage:
        return self.coords

    def settings(self) -> dict[str, Any]:
        return {"patch_encoder": self.encoder_name, **self.encoder_settings}

    def inputs(self) -> dict[str, str]:
        inputs = self.slide_inputs()
        if self.coords.is_there():
            inputs["coords"] = self.coords.found_digest()
        return inputs

    def content_digest(self) -> str:
        from trident.store import digests

        return digests.features_digest(self.output)

    def produce(self, progress: Progress) -> StageResult:
        began = time.perf_counter()
        from trident.stages.feature_pass import produce_together

        [outcome] = produce_together([self], progress, began=began)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class SlideFeaturesStage(H5Stage):
    """The embedding of one slide."""

    kind = SLIDE_FEATURES

    def __init__(
        self,
        context: StageContext,
        source: SlideSource,
        *,
        features: PatchFeaturesStage,
        encoder_name: str,
        encoder_settings: dict[str, Any],
        load_encoder: Callable[[], SlideEncoder],
        precision: str = "auto",
        output: Path | None = None,
    ) -> None:
        """Args:
        encoder_settings: what shapes the embedding beside the encoder's name (weights' digest, precision).
        load_encoder: called only if the stage runs.
        precision: a value of `--precision`.
        """
        super().__init__(context, source, output)
        self.precision = precision
        self.encoder_settings = encoder_settings
        self.uses_device = not encoder_name.startswith("mean-")
        self.features = features
        self.encoder_name = encoder_name
        self.load_encoder = load_encoder

    @classmethod
    def of_model(
        cls,
        context: StageContext,
        source: SlideSource,
        encoder: SlideEncoder,
        *,
        features: PatchFeaturesStage,
        output: Path | None = None,
    ) -> SlideFeaturesStage:
        """The stage for an encoder that is loaded already."""
        return cls(
            context,
            source,
            features=features,
            encoder_name=encoder.enc_name,
            encoder_settings={"weights_sha256": encoder.weights_sha256},
            load_encoder=lambda: encoder,
            output=output,
        )

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.encoder_name}"

    def usual_output(self) -> Path:
        return self.context.layout.slide_features(self.source.name, self.encoder_name)

    @property
    def needs(self) -> PatchFeaturesStage:
        return self.features

    def settings(self) -> dict[str, Any]:
        return {"slide_encoder": self.encoder_name, **self.encoder_settings}

    def inputs(self) -> dict[str, str]:
        return {"features": self.features.found_digest()} if self.features.is_there() else {}

    def produce(self, progress: Progress) -> StageResult:
        from trident.features.precision import precision_name, used_precision
        from trident.features.slide import embed_slide
        from trident.store import h5

        began = time.perf_counter()
        inputs = self.inputs()
        found = h5.read_features(self.features.output)
        read = time.perf_counter()
        encoder = self.load_encoder()
        loaded = time.perf_counter()
        self.encoder_settings = {**self.encoder_settings, "weights_sha256": encoder.weights_sha256}
        embedding = embed_slide(
            found.features,
            found.coords,
            int(found.coords_attributes.get("patch_size_level0", 0)),
            encoder,
            self.context.device,
            precision=self.precision,
        )
        encoded = time.perf_counter()
        device_type = self.context.device.partition(":")[0]
        h5.write_slide_features(
            self.output,
            embedding,
            found.coords,
            found.coords_attributes,
            name=self.source.name,
            savetodir=str(self.output.parent),
            encoder=self.encoder_name,
            recipe=self.wanted_recipe(
                inputs,
                patch_encoder=self.features.encoder_name,
                precision=precision_name(used_precision(encoder.precision, device_type, self.precision)),
                device=self.context.device,
            ),
        )
        n_patches = len(found.features)
        message = (
            f"{len(embedding)} features from {n_patches} patches" if n_patches else "zeros: the slide has no patches"
        )
        timings = {
            "wait": read - began,
            "read": read - began,
            "decode": 0.0,
            "load": loaded - read,
            "encode": encoded - loaded,
            "write": time.perf_counter() - encoded,
        }
        return StageResult(message, {"features": self.output}, timings=timings)


def settings_of_model(encoder: PatchEncoder) -> dict[str, Any]:
    """What shapes the features of a loaded encoder beside its name, as a recipe states it.

    Of a user's own model the weights are hashed: two models under one name must not be taken for one another.
    """
    from trident.encoders.patch.base import CustomInferenceEncoder
    from trident.encoders.patch.registry import SPECS

    if isinstance(encoder, CustomInferenceEncoder):
        return {"model_sha256": _digest_of_weights(encoder)}
    declared = SPECS.get(encoder.enc_name)
    usual = declared is None or encoder.input_size == declared.input_size_px
    return {
        "patch_encoder_img_size": "usual" if usual else encoder.input_size,
        "weights_sha256": encoder.weights_sha256,
        **({"patch_encoder_options": dict(encoder.options)} if encoder.options else {}),
    }


def _digest_of_weights(encoder: PatchEncoder) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        if not isinstance(tensor, torch.Tensor):  # a module's extra state, which has no bytes of its own
            continue
        given = tensor.to(encoder.given_dtypes.get(name, tensor.dtype))  # whatever a device has made of it
        digest.update(f"{name} {given.dtype} {tuple(given.shape)}\n".encode())
        digest.update(given.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _no_encoder() -> PatchEncoder:
    raise AssertionError("features that are given are not made")
