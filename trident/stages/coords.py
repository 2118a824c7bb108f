"""Stage 2: cut the tissue into patches. Makes the coordinates, a picture of them and, on request, patch images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trident.errors import SettingsError, StoreError
from trident.job import COORDS
from trident.slides.base import Slide
from trident.slides.discovery import SlideSource
from trident.stages.base import Condition, Progress, StageContext, StageResult, Status, slide_meta
from trident.stages.h5_stage import H5Stage
from trident.stages.segmentation import SegmentationStage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trident.patching.grid import PatchGeometry, ReadPlan


@dataclass(frozen=True)
class GridOptions:
    """The patch grid and which of its patches are kept.

    Raises:
        SettingsError: not exactly one of `magnification` and `target_mpp` is given.
    """

    magnification: float | None
    """Of the patches; None where `target_mpp` is given."""
    patch_size_px: int
    overlap_px: int = 0
    min_tissue_proportion: float = 0.0
    target_mpp: float | None = None
    """µm/px of the patches, related to level 0 by its true µm/px instead of its rounded magnification."""

    def __post_init__(self) -> None:
        if (self.magnification is None) == (self.target_mpp is None):
            raise SettingsError(
                f"the scale of the patches is given as magnification {self.magnification} and {self.target_mpp} µm/px; "
                "give one of the two, and None for the other"
            )

    def settings(self) -> dict[str, Any]:
        """What a recipe says of the grid."""
        # Keys that a recipe lacks are no difference, so the magnification must say that there is none.
        by_mpp = {} if self.target_mpp is None else {"magnification": "by target_mpp", "target_mpp": self.target_mpp}
        return {
            "magnification": self.magnification,
            "patch_size": self.patch_size_px,
            "overlap": self.overlap_px,
            "min_tissue_proportion": self.min_tissue_proportion,
            **by_mpp,
        }

    def geometry(self, slide: Slide) -> PatchGeometry:
        """The grid over one slide.

        Raises:
            MissingMppError: the slide's µm/px is unknown, or coarser than 5x.
            SettingsError: a value is out of its range.
        """
        from trident.patching.grid import PatchGeometry

        width_px, height_px = slide.dimensions
        if self.target_mpp is not None:
            return PatchGeometry.at_mpp(
                patch_size_px=self.patch_size_px,
                overlap_px=self.overlap_px,
                target_mpp=self.target_mpp,
                level0_mpp=slide.mpp,
                level0_magnification=slide.magnification,
                level0_width_px=width_px,
                level0_height_px=height_px,
            )
        assert self.magnification is not None
        return PatchGeometry(
            patch_size_px=self.patch_size_px,
            overlap_px=self.overlap_px,
            target_magnification=self.magnification,
            level0_magnification=slide.magnification,
            level0_width_px=width_px,
            level0_height_px=height_px,
        )


@dataclass(frozen=True)
class DumpOptions:
    """Patch images beside the coordinates."""

    limit: int = 0
    image_format: str = "png"
    jpeg_quality: int = 90


class CoordsStage(H5Stage):
    """Coordinates of the tissue patches of one slide."""

    kind = COORDS

    def __init__(
        self,
        context: StageContext,
        source: SlideSource,
        *,
        tissue: SegmentationStage,
        grid: GridOptions | None,
        dump: DumpOptions | None = None,
        picture: bool = True,
        output: Path | None = None,
    ) -> None:
        """Args:
        grid: None where the coordinates exist already and are only used.
        picture: draw the patches on the thumbnail.
        """
        super().__init__(context, source, output)
        self.tissue = tissue
        self.grid = grid
        self.dump = dump
        self.picture = picture

    @classmethod
    def given(cls, context: StageContext, source: SlideSource, output: Path | None = None) -> CoordsStage:
        """Coordinates that exist already, whoever made them, as the input of another stage; it cannot be run."""
        return cls(context, source, tissue=SegmentationStage.given(context, source), grid=None, output=output)

    def usual_output(self) -> Path:
        path = self.context.layout.coords(self.source.name)
        clam, exists = self._clam_output(path), self.context.view.exists
        return clam if not exists(path) and exists(clam) else path

    def places(self) -> list[Path]:
        usual = self.context.layout.coords(self.source.name)
        return [self._output] if self._output else [usual, self._clam_output(usual)]

    def _clam_output(self, usual: Path) -> Path:
        return usual.with_name(f"{self.source.name}.h5")  # CLAM leaves out `_patches`

    @property
    def needs(self) -> SegmentationStage:
        return self.tissue

    def settings(self) -> dict[str, Any]:
        if self.grid is None:
            return self.mpp_settings()
        return {**self.grid.settings(), **self.mpp_settings()}

    def inputs(self) -> dict[str, str]:
        inputs = self.slide_inputs()
        if self.tissue.is_there():
            inputs["tissue"] = self.tissue.found_digest()
        return inputs

    def content_digest(self) -> str:
        from trident.store import digests

        return digests.coords_digest(self.output)

    def status(self) -> Status:
        found = super().status()
        if found.done and self.kind in self.context.made and self._lacks_images():
            return Status(Condition.MISSING, "patch images not made yet")
        return found

    def _lacks_images(self) -> bool:
        """Whether images are asked for of coordinates that exist, and there are fewer than that."""
        from trident.store import h5

        if self.dump is None:
            return False
        try:
            text = self.context.view.fact(self.output, "patches", lambda: str(len(h5.read_coords(self.output).coords)))
        except StoreError:  # for whoever needs the coordinates to report
            return False
        wanted = min(int(text), self.dump.limit or int(text))
        folder = self.context.layout.patch_images_dir(self.source.name)
        return sum(1 for _ in folder.glob(f"*.{self.dump.image_format}")) < wanted

    def produce(self, progress: Progress) -> StageResult:
        if self.dump is not None and super().status().done:
            return self._add_images()
        return self._make_coords()

    def _add_images(self) -> StageResult:
        """Images of the patches of coordinates that are done and stay as they are."""
        from trident.patching.legacy import plan_from_attributes
        from trident.store import h5

        found = h5.read_coords(self.output)
        with self.open_slide() as slide:
            plan = plan_from_attributes(found.attributes, slide, source=self.output).plan
            dumped = self._dump(slide, plan, found.coords)
            return StageResult(
                f"{len(found.coords)} patches, {dumped} saved as images",
                {"coords": self.output, "patch_images": self.context.layout.patch_images_dir(self.source.name)},
                meta=slide_meta(slide),
                reader_type=slide.reader_type,
                notes=list(slide.notes),
            )

    def _make_coords(self) -> StageResult:
        from trident.patching.grid import plan_read
        from trident.patching.tissue import select_on_tissue
        from trident.store import geojson, h5
        from trident.store.atomic import atomic_path
        from trident.viz.overlays import draw_patches, save_jpeg, slide_thumbnail

        assert self.grid is not None
        layout, name = self.context.layout, self.source.name
        inputs = self.inputs()
        polygons = geojson.read_tissue(self.tissue.output)
        began = time.perf_counter()
        with self.open_slide() as slide:
            opened = time.perf_counter()
            geometry = self.grid.geometry(slide)
            corners = geometry.corners()
            kept = select_on_tissue(
                corners,
                geometry.side_level0_px,
                polygons,
                min_proportion=self.grid.min_tissue_proportion,
                simplify_px=geometry.simplify_level0_px,
            )
            coords = corners[kept]
            selected = time.perf_counter()
            outputs = {"coords": self.output}
            if self.picture:
                outputs["visualization"] = layout.coords_image(name)
                picture = draw_patches(slide_thumbnail(slide), coords, geometry.side_level0_px, slide.dimensions)
                with atomic_path(layout.coords_image(name)) as path:
                    save_jpeg(path, picture)
            plan = plan_read(geometry, slide.level_downsamples)
            dumped = self._dump(slide, plan, coords) if self.dump else None
            recipe = self.wanted_recipe(inputs, reader=slide.reader_type, level0_mpp=slide.mpp)
            h5.write_coords(self.output, coords, geometry.attributes(name, str(layout.grid_dir)), recipe)
            message = (
                f"{len(coords)} patches"
                if len(coords)
                else "no patches: " + ("no tissue" if not polygons else "no part of the grid reaches the tissue")
            )
            if dumped is not None:
                message += f", {dumped} saved as images"
                outputs["patch_images"] = layout.patch_images_dir(name)
            return StageResult(
                message,
                outputs,
                meta=slide_meta(slide),
                reader_type=slide.reader_type,
                notes=list(slide.notes),
                timings={"open": opened - began, "write": time.perf_counter() - selected},
            )

    def _dump(self, slide: Slide, plan: ReadPlan, coords: NDArray[np.int64]) -> int:
        from trident.patching.dump import dump_patches
        from trident.patching.reader import PatchReader

        assert self.dump is not None
        return dump_patches(
            PatchReader(slide, plan),
            coords,
            self.context.layout.patch_images_dir(self.source.name),
            limit=self.dump.limit,
            image_format=self.dump.image_format,
            jpeg_quality=self.dump.jpeg_quality,
        )
