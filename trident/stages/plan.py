"""From a job to its stages: the one place where options become stage objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from trident.devices import device_for, restrict_visibility
from trident.encoders.patch.registry import spec
from trident.encoders.weights import locate
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, STAGE_KINDS, Job
from trident.stages import models
from trident.stages.base import Stage, StageContext
from trident.stages.coords import CoordsStage, DumpOptions, GridOptions
from trident.stages.features import PatchFeaturesStage, SlideFeaturesStage
from trident.stages.segmentation import SegmentationStage

if TYPE_CHECKING:
    from trident.slides.discovery import SlideSource


class JobStages:
    """Makes the stages of a job's slides; whatever is the same for all slides is worked out once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        settings = job.settings
        restrict_visibility(settings.device_index)
        self.context = StageContext(
            layout=job.layout,
            made=frozenset(kind for kind in STAGE_KINDS if job.makes(kind)),
            reader_type=settings.reader_type,
            custom_mpp_keys=settings.custom_mpp_keys or (),
            device=device_for(settings.device_index),
            max_workers=settings.max_workers,
            overwrite_run=job.nonce or None,
        )
        self._encoder_settings = self._patch_encoder_settings()

    def all_of(self, slide: str) -> list[Stage]:
        """The stages that this job makes for one slide, in order."""
        return [self.stage(key.partition(":")[0], slide) for key in self.job.stages]

    def stage(self, kind: str, slide: str) -> Stage:
        """One stage of one slide, with those that it needs behind `needs`."""
        source = self.job.slides[slide]
        makers: dict[str, Callable[[SlideSource], Stage]] = {
            SEGMENTATION: self._segmentation,
            COORDS: self._coords,
            PATCH_FEATURES: self._patch_features,
            SLIDE_FEATURES: self._slide_features,
        }
        return makers[kind](source)

    def _segmentation(self, source: SlideSource) -> SegmentationStage:
        settings = self.job.settings
        neural = settings.segmenter != "otsu"
        threshold = {"seg_conf_thresh": settings.seg_conf_thresh} if neural else {}
        return SegmentationStage(
            self.context,
            source,
            load_segmenter=partial(
                models.segmenter,
                settings.segmenter,
                settings.seg_conf_thresh,
                self.context.device,
                settings.seg_batch_size or settings.batch_size,
            ),
            segmenter_settings={"segmenter": settings.segmenter, **threshold},
            keep_holes=settings.remove_holes,
        )

    def _coords(self, source: SlideSource) -> CoordsStage:
        settings = self.job.settings
        dump = DumpOptions(settings.dump_patches_max, settings.dump_patches_format, settings.dump_patches_jpeg_quality)
        return CoordsStage(
            self.context,
            source,
            tissue=self._segmentation(source),
            grid=GridOptions(settings.mag, settings.patch_size, settings.overlap, settings.min_tissue_proportion),
            dump=dump if settings.dump_patches else None,
        )

    def _patch_features(self, source: SlideSource) -> PatchFeaturesStage:
        settings = self.job.settings
        return PatchFeaturesStage(
            self.context,
            source,
            coords=self._coords(source),
            encoder_name=self.job.patch_encoder,
            encoder_settings=dict(self._encoder_settings),
            load_encoder=partial(
                models.patch_encoder,
                self.job.patch_encoder,
                settings.patch_encoder_ckpt_path,
                settings.patch_encoder_img_size,
                self.context.device,
            ),
            batch_size=settings.feat_batch_size or settings.batch_size,
        )

    def _slide_features(self, source: SlideSource) -> SlideFeaturesStage:
        assert self.job.slide_encoder is not None
        return SlideFeaturesStage(
            self.context,
            source,
            features=self._patch_features(source),
            encoder_name=self.job.slide_encoder,
            load_encoder=partial(models.slide_encoder, self.job.slide_encoder, self.context.device),
        )

    def _patch_encoder_settings(self) -> dict[str, Any]:
        if not self.job.makes(PATCH_FEATURES):
            return {}
        settings = self.job.settings
        found = locate(spec(self.job.patch_encoder), settings.patch_encoder_ckpt_path)
        return {
            "patch_encoder_img_size": settings.patch_encoder_img_size or "usual",
            "weights_sha256": found.sha256 if found else None,
        }
