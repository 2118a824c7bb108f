"""Stage 1: find the tissue. Makes the outlines, a thumbnail, and a picture of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident.job import SEGMENTATION
from trident.slides.discovery import SlideSource
from trident.stages.base import Progress, Stage, StageContext, StageResult, slide_meta
from trident.store.recipes import Recipe

if TYPE_CHECKING:
    from shapely.geometry import Polygon

    from trident.segmentation.base import Segmenter
    from trident.segmentation.neural import NeuralSegmenter
    from trident.slides.base import Slide


class SegmentationStage(Stage):
    """Tissue outlines of one slide, in level-0 pixels."""

    kind = SEGMENTATION
    edited_by_hand = True

    def __init__(
        self,
        context: StageContext,
        source: SlideSource,
        *,
        load_segmenter: Callable[[], Segmenter],
        segmenter_settings: dict[str, Any],
        cut_holes: bool,
        load_artifact_remover: Callable[[], NeuralSegmenter] | None = None,
        output: Path | None = None,
    ) -> None:
        """Args:
        load_segmenter: called only if the stage runs.
        segmenter_settings: name and whatever else shapes the outlines, the removal of artifacts included.
        cut_holes: cut holes out of the outlines.
        load_artifact_remover: makes the model that removes artifacts from the tissue; None leaves them in.
        """
        super().__init__(context, source, output)
        self.load_segmenter = load_segmenter
        self.segmenter_settings = segmenter_settings
        self.cut_holes = cut_holes
        self.load_artifact_remover = load_artifact_remover
        self.uses_device = load_artifact_remover is not None or segmenter_settings.get("segmenter") != "otsu"

    @classmethod
    def of_model(
        cls,
        context: StageContext,
        source: SlideSource,
        segmenter: Segmenter,
        *,
        cut_holes: bool,
        artifact_remover: NeuralSegmenter | None = None,
    ) -> SegmentationStage:
        """The stage for models that are loaded already."""
        return cls(
            context,
            source,
            load_segmenter=lambda: segmenter,
            segmenter_settings=_settings_of(segmenter, artifact_remover),
            cut_holes=cut_holes,
            load_artifact_remover=None if artifact_remover is None else lambda: artifact_remover,
        )

    @classmethod
    def given(cls, context: StageContext, source: SlideSource, output: Path | None = None) -> SegmentationStage:
        """Outlines that exist already, whoever made them, as the input of another stage; it cannot be run."""
        return cls(context, source, load_segmenter=_no_segmenter, segmenter_settings={}, cut_holes=False, output=output)

    def usual_output(self) -> Path:
        return self.context.layout.tissue(self.source.name)

    @property
    def needs(self) -> None:
        return None

    def settings(self) -> dict[str, Any]:
        return {**self.segmenter_settings, "remove_holes": self.cut_holes, **self.mpp_settings()}

    def inputs(self) -> dict[str, str]:
        return self.slide_inputs()

    def read_recipe(self) -> Recipe | None:
        from trident.store import geojson

        return geojson.read_recipe(self.output)

    def content_digest(self) -> str:
        from trident.store import digests

        return digests.tissue_digest(self.output)

    def produce(self, progress: Progress) -> StageResult:
        from trident.store import geojson
        from trident.store.atomic import atomic_path
        from trident.viz.overlays import draw_tissue, save_jpeg, slide_thumbnail

        layout, name = self.context.layout, self.source.name
        began = time.perf_counter()
        # Before the slide is opened: where weights are missing, no slide is touched.
        segmenter = self.load_segmenter()
        remover = None if self.load_artifact_remover is None else self.load_artifact_remover()
        self.segmenter_settings = {**self.segmenter_settings, **_settings_of(segmenter, remover)}
        loaded = time.perf_counter()
        with self.open_slide() as slide:
            opened = time.perf_counter()
            meta = slide_meta(slide)
            polygons, message = self._find(slide, segmenter, remover, progress)
            found = time.perf_counter()
            thumbnail = slide_thumbnail(slide)
            with atomic_path(layout.thumbnail(name)) as path:
                save_jpeg(path, thumbnail)
            with atomic_path(layout.contours_image(name)) as path:
                save_jpeg(path, draw_tissue(thumbnail, polygons, slide.dimensions))
            recipe = self.wanted_recipe(
                self.inputs(),
                reader=slide.reader_type,
                level0_mpp=slide.mpp,
                mpp_source=slide.mpp_source,
                **segmenter.recipe_facts(),
            )
            geojson.write_tissue(self.output, polygons, recipe)
            return StageResult(
                message=message,
                outputs={
                    "geojson": self.output,
                    "contours": layout.contours_image(name),
                    "thumbnail": layout.thumbnail(name),
                },
                meta=meta,
                reader_type=slide.reader_type,
                notes=list(slide.notes),
                timings={
                    **slide.timings,
                    "load": loaded - began,
                    "open": opened - loaded,
                    "write": slide.timings.get("write", 0.0) + time.perf_counter() - found,
                },
            )

    def _find(
        self, slide: Slide, segmenter: Segmenter, remover: NeuralSegmenter | None, progress: Progress
    ) -> tuple[list[Polygon], str]:
        """The outlines, and the stage's message about them."""
        from trident.segmentation.registry import segment_tissue

        polygons = segment_tissue(slide, segmenter, cut_holes=self.cut_holes, progress=progress)
        if remover is None or not polygons:
            return polygons, _count(polygons)
        from trident.segmentation.artifacts import remove_artifacts

        clean = remove_artifacts(slide, polygons, remover, progress)
        if clean:
            return clean, _count(clean)
        remedy = (
            "try without --remove_penmarks"
            if remover.remove_penmarks_only
            else "try without --remove_artifacts or --remove_penmarks only"
        )
        return clean, f"{_count(clean)}: artifact removal left nothing; {remedy}"


def _settings_of(segmenter: Segmenter, remover: NeuralSegmenter | None) -> dict[str, Any]:
    from trident.segmentation.registry import removal_settings

    if remover is None:
        return {**segmenter.recipe_settings(), **removal_settings("none")}
    return {**segmenter.recipe_settings(), **removal_settings(remover.removal, weights_sha256=remover.weights_sha256)}


def _count(polygons: list[Polygon]) -> str:
    return f"{len(polygons)} tissue region{'s' * (len(polygons) != 1)}" if polygons else "no tissue found"


def _no_segmenter() -> Segmenter:
    raise AssertionError("outlines that are given are not made")
