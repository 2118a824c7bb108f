"""From a job to its stages: the one place where options become stage objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from trident.devices import device_for, restrict_visibility
from trident.encoders.patch.registry import spec
from trident.encoders.slide import registry as slide_encoders
from trident.encoders.weights import fetch, locate
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, STAGE_KINDS, Job
from trident.segmentation.registry import removal_asked_for, removal_settings, segmenter_settings
from trident.segmentation.spec import ARTIFACT_REMOVER
from trident.segmentation.spec import SPECS as SEGMENTATION_MODELS
from trident.stages import models
from trident.stages.base import Stage, StageContext
from trident.stages.coords import CoordsStage, DumpOptions, GridOptions
from trident.stages.features import PatchFeaturesStage, SlideFeaturesStage
from trident.stages.features_group import PatchFeaturesGroup
from trident.stages.segmentation import SegmentationStage
from trident.staging.cache import SlideCache
from trident.store.output_view import OutputView

if TYPE_CHECKING:
    from trident.slides.discovery import SlideSource


class JobStages:
    """Makes the stages of a job's slides; whatever is the same for all slides is worked out once."""

    def __init__(self, job: Job, *, device_index: int | None = None) -> None:
        """Args:
        job: the job.
        device_index: GPU on which stages are to run in this process, -1: its CPU. None: nothing runs here, this process
            only asks how stages stand, and sees every device.
        """
        self.job = job
        settings = job.settings
        if device_index is not None:
            restrict_visibility(device_index)
        self.context = StageContext(
            layout=job.layout,
            made=frozenset(kind for kind in STAGE_KINDS if job.makes(kind)),
            reader_type=settings.reader_type,
            custom_mpp_keys=settings.custom_mpp_keys or (),
            device="cpu" if device_index is None else device_for(device_index),
            max_workers=settings.max_workers,
            overwrite_run=job.nonce or None,
            cache=None if settings.wsi_cache is None else SlideCache(settings.wsi_cache, settings.cache_batch_size),
        )
        self._removal = removal_asked_for(
            remove_artifacts=settings.remove_artifacts, remove_penmarks=settings.remove_penmarks
        )
        self._tissue_settings = self._segmenter_settings()
        self._encoder_settings = self._patch_encoder_settings()
        self._slide_encoder = (
            slide_encoders.spec(job.slide_encoder) if job.slide_encoder and job.makes(SLIDE_FEATURES) else None
        )
        found = locate(self._slide_encoder) if self._slide_encoder else None
        self._slide_encoder_settings = {
            "weights_sha256": found.sha256 if found else None,
            "precision": settings.precision,
        }

    @property
    def slide_encoder_has_weights(self) -> bool:
        """Whether the slide encoder is a model that takes memory, and time to load."""
        return self._slide_encoder is not None and bool(self._slide_encoder.filenames)

    def fetch_weights(self, kinds: Collection[str]) -> None:
        """Have the weights of these kinds of stage on this machine; what is missing is downloaded.

        Raises:
            WeightsError: they are not to be had; the message names repository and file.
        """
        settings = self.job.settings
        if SEGMENTATION in kinds:
            names = [settings.segmenter, *([ARTIFACT_REMOVER] if self._removal != "none" else [])]
            for name in names:
                if name in SEGMENTATION_MODELS:
                    fetch(SEGMENTATION_MODELS[name])
        if PATCH_FEATURES in kinds:
            for name in self.job.patch_encoders:
                fetch(spec(name), settings.patch_encoder_ckpt_path)
        if SLIDE_FEATURES in kinds and self._slide_encoder is not None:
            name = self._slide_encoder.name
            slide_encoders.require_weights(name, trust_remote_code=settings.trust_remote_code)
            if self._slide_encoder.repo_id is not None and not self._slide_encoder.remote_code:
                fetch(self._slide_encoder)

    def seen_by(self, view: OutputView) -> JobStages:
        """The same stages, which look at existing outputs through `view`."""
        other = copy.copy(self)
        other.context = replace(self.context, view=view)
        return other

    def all_of(self, slide: str) -> list[Stage]:
        """The stages that this job makes for one slide, in order."""
        return [self.of_key(key, slide) for key in self.job.stages]

    def of_key(self, key: str, slide: str) -> Stage:
        """The stage with one of the job's keys, with those that it needs behind `needs`."""
        kind, _, encoder = key.partition(":")
        return (
            self._patch_features(self.job.slides[slide], encoder) if kind == PATCH_FEATURES else self.stage(kind, slide)
        )

    def stage(self, kind: str, slide: str) -> Stage:
        """What runs as one for a slide: one stage, or the patch features of all encoders as a group."""
        source = self.job.slides[slide]
        makers: dict[str, Callable[[SlideSource], Stage]] = {
            SEGMENTATION: self._segmentation,
            COORDS: self._coords,
            PATCH_FEATURES: self._all_patch_features,
            SLIDE_FEATURES: self._slide_features,
        }
        return makers[kind](source)

    def _segmentation(self, source: SlideSource) -> SegmentationStage:
        settings = self.job.settings
        where = (self.context.device, settings.seg_batch_size or settings.batch_size, self.context.max_workers)
        return SegmentationStage(
            self.context,
            source,
            load_segmenter=partial(models.segmenter, settings.segmenter, settings.seg_conf_thresh, *where),
            segmenter_settings=dict(self._tissue_settings),
            cut_holes=settings.remove_holes,
            load_artifact_remover=(
                None
                if self._removal == "none"
                else partial(models.artifact_remover, self._removal == "pen marks", *where)
            ),
        )

    def _coords(self, source: SlideSource) -> CoordsStage:
        settings = self.job.settings
        dump = DumpOptions(settings.dump_patches_max, settings.dump_patches_format, settings.dump_patches_jpeg_quality)
        return CoordsStage(
            self.context,
            source,
            tissue=self._segmentation(source),
            grid=GridOptions(
                settings.mag if settings.target_mpp is None else None,
                settings.patch_size,
                settings.overlap,
                settings.min_tissue_proportion,
                settings.target_mpp,
            ),
            dump=dump if settings.dump_patches else None,
        )

    def _all_patch_features(self, source: SlideSource) -> PatchFeaturesStage | PatchFeaturesGroup:
        members = [self._patch_features(source, name) for name in self.job.patch_encoders]
        return PatchFeaturesGroup(members) if len(members) > 1 else members[0]

    def _patch_features(self, source: SlideSource, encoder: str) -> PatchFeaturesStage:
        settings = self.job.settings
        return PatchFeaturesStage(
            self.context,
            source,
            coords=self._coords(source),
            encoder_name=encoder,
            encoder_settings=dict(self._encoder_settings.get(encoder, {})),
            load_encoder=partial(
                models.patch_encoder,
                encoder,
                settings.patch_encoder_ckpt_path,
                settings.patch_encoder_img_size,
                self.context.device,
                at_once=len(self.job.patch_encoders),
            ),
            batch_size=settings.feat_batch_size or settings.batch_size,
            precision=settings.precision,
        )

    def _slide_features(self, source: SlideSource) -> SlideFeaturesStage:
        assert self.job.slide_encoder is not None
        return SlideFeaturesStage(
            self.context,
            source,
            features=self._patch_features(source, self.job.patch_encoder),
            encoder_name=self.job.slide_encoder,
            encoder_settings=dict(self._slide_encoder_settings),
            load_encoder=partial(
                models.slide_encoder,
                self.job.slide_encoder,
                self.context.device,
                self.job.settings.trust_remote_code,
            ),
            precision=self.job.settings.precision,
        )

    def _segmenter_settings(self) -> dict[str, Any]:
        settings = self.job.settings
        # Weights are hashed only where they would be used.
        made = self.job.makes(SEGMENTATION)
        return {
            **segmenter_settings(settings.segmenter, settings.seg_conf_thresh, with_digest=made),
            **removal_settings(self._removal, with_digest=made),
        }

    def _patch_encoder_settings(self) -> dict[str, dict[str, Any]]:
        """By encoder."""
        if not self.job.makes(PATCH_FEATURES):
            return {}
        settings = self.job.settings
        found = {name: locate(spec(name), settings.patch_encoder_ckpt_path) for name in self.job.patch_encoders}
        return {
            name: {
                "patch_encoder_img_size": settings.patch_encoder_img_size or "usual",
                "weights_sha256": located.sha256 if located else None,
                "precision": settings.precision,
            }
            for name, located in found.items()
        }
