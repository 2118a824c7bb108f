"""Stage 1: find the tissue. Makes the outlines, a thumbnail, and a picture of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident.job import SEGMENTATION
from trident.slides.discovery import SlideSource
from trident.stages.base import Progress, Stage, StageContext, StageResult, slide_meta
from trident.store.recipes import Recipe

if TYPE_CHECKING:
    from trident.segmentation.base import Segmenter


class SegmentationStage(Stage):
    """Tissue outlines of one slide, in level-0 pixels."""

    kind = SEGMENTATION

    def __init__(
        self,
        context: StageContext,
        source: SlideSource,
        *,
        load_segmenter: Callable[[], Segmenter],
        segmenter_settings: dict[str, Any],
        keep_holes: bool,
        output: Path | None = None,
    ) -> None:
        """Args:
        load_segmenter: called only if the stage runs.
        segmenter_settings: name and whatever else shapes the mask.
        keep_holes: cut holes out of the outlines.
        """
        super().__init__(context, source, output)
        self.load_segmenter = load_segmenter
        self.segmenter_settings = segmenter_settings
        self.keep_holes = keep_holes

    def usual_output(self) -> Path:
        return self.context.layout.tissue(self.source.name)

    @property
    def needs(self) -> None:
        return None

    def settings(self) -> dict[str, Any]:
        return {**self.segmenter_settings, "remove_holes": self.keep_holes, **self.mpp_settings()}

    def inputs(self) -> dict[str, str]:
        return self.slide_inputs()

    def read_recipe(self) -> Recipe | None:
        from trident.store import geojson

        return geojson.read_recipe(self.output)

    def content_digest(self) -> str:
        from trident.store import digests

        return digests.tissue_digest(self.output)

    def produce(self, progress: Progress) -> StageResult:
        from trident.segmentation.registry import segment_tissue
        from trident.store import geojson
        from trident.store.atomic import atomic_path
        from trident.viz.overlays import draw_tissue, save_jpeg, slide_thumbnail

        layout, name = self.context.layout, self.source.name
        with self.open_slide() as slide:
            meta = slide_meta(slide)
            polygons = segment_tissue(slide, self.load_segmenter(), keep_holes=self.keep_holes, progress=progress)
            thumbnail = slide_thumbnail(slide)
            with atomic_path(layout.thumbnail(name)) as path:
                save_jpeg(path, thumbnail)
            with atomic_path(layout.contours_image(name)) as path:
                save_jpeg(path, draw_tissue(thumbnail, polygons, slide.dimensions))
            recipe = self.wanted_recipe(reader=slide.reader_type, level0_mpp=slide.mpp, mpp_source=slide.mpp_source)
            geojson.write_tissue(self.output, polygons, recipe)
            message = f"{len(polygons)} tissue region{'s' * (len(polygons) != 1)}" if polygons else "no tissue found"
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
            )
