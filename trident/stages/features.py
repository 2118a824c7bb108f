"""Stages 3 and 4: encode the patches, and pool them into one embedding of the slide."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident.job import PATCH_FEATURES, SLIDE_FEATURES
from trident.slides.discovery import SlideSource
from trident.stages.base import H5Stage, Progress, StageContext, StageResult, slide_meta
from trident.stages.coords import CoordsStage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
        output: Path | None = None,
    ) -> None:
        """Args:
        encoder_settings: what shapes the features beside the encoder's name (weights' digest, input size).
        load_encoder: called only if the stage runs.
        """
        super().__init__(context, source, output)
        self.coords = coords
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
        if self.coords.output.exists():
            inputs["coords"] = self.coords.content_digest()
        return inputs

    def content_digest(self) -> str:
        from trident.store import digests

        return digests.features_digest(self.output)

    def produce(self, progress: Progress) -> StageResult:
        from trident.features.loop import extract_features
        from trident.patching.legacy import plan_from_attributes
        from trident.patching.reader import PatchReader
        from trident.store import digests, h5

        inputs = self.inputs()
        found = h5.read_coords(self.coords.output)
        encoder = self.load_encoder()
        self.encoder_settings = {**self.encoder_settings, "weights_sha256": encoder.weights_sha256}
        with self.open_slide() as slide:
            plan, attributes = plan_from_attributes(found.attributes, slide, source=self.coords.output)
            recipe = self.wanted_recipe(
                inputs,
                reader=slide.reader_type,
                precision=_precision(encoder, self.context.device),
                device=self.context.device,
            )
            digest = hashlib.sha256(recipe.inputs["coords"].encode())
            with h5.FeatureFileWriter(
                self.output,
                n_rows=len(found.coords),
                dim=encoder.embedding_dim,
                coords=found.coords,
                coords_attributes=attributes,
                encoder=self.encoder_name,
                name=self.source.name,
                savetodir=str(self.output.parent),
                recipe=recipe,
            ) as writer:

                def sink(features: NDArray[np.float32]) -> None:
                    digest.update(features.tobytes())
                    writer.append(features)

                report = extract_features(
                    PatchReader(slide, plan).read,
                    found.coords,
                    encoder,
                    device=self.context.device,
                    batch_size=self.batch_size,
                    workers=self.context.max_workers,
                    sink=sink,
                    on_progress=progress,
                )
                writer.set_attribute(digests.CONTENT_ATTRIBUTE, f"sha256:{digest.hexdigest()}")
                if report.unreadable:
                    writer.set_attribute("unreadable_patches", report.unreadable)
            message = f"{report.n_patches} patches, {encoder.embedding_dim} features each"
            notes = list(slide.notes)
            if report.unreadable:
                notes.append(
                    f"{len(report.unreadable)} of {report.n_patches} patches do not decode; black was encoded for them"
                )
                message += f"; {notes[-1]}"
            return StageResult(
                message, {"features": self.output}, meta=slide_meta(slide), reader_type=slide.reader_type, notes=notes
            )


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
        output: Path | None = None,
    ) -> None:
        """Args:
        encoder_settings: what shapes the embedding beside the encoder's name (weights' digest).
        load_encoder: called only if the stage runs.
        """
        super().__init__(context, source, output)
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
        return {"features": self.features.content_digest()} if self.features.output.exists() else {}

    def produce(self, progress: Progress) -> StageResult:
        from trident.features.slide import embed_slide
        from trident.store import h5

        inputs = self.inputs()
        found = h5.read_features(self.features.output)
        encoder = self.load_encoder()
        self.encoder_settings = {**self.encoder_settings, "weights_sha256": encoder.weights_sha256}
        embedding = embed_slide(
            found.features,
            found.coords,
            int(found.coords_attributes.get("patch_size_level0", 0)),
            encoder,
            self.context.device,
        )
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
                precision=_precision(encoder, self.context.device),
                device=self.context.device,
            ),
        )
        n_patches = len(found.features)
        message = (
            f"{len(embedding)} features from {n_patches} patches" if n_patches else "zeros: the slide has no patches"
        )
        return StageResult(message, {"features": self.output})


def _precision(encoder: PatchEncoder | SlideEncoder, device: str) -> str:
    """Precision that the features are computed in: the declared one on a GPU, float32 on the CPU."""
    return str(encoder.precision).removeprefix("torch.") if device.startswith("cuda") else "float32"


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
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _no_encoder() -> PatchEncoder:
    raise AssertionError("features that are given are not made")
