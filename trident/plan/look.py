"""One slide as a plan sees it: does it open, has it a resolution, do its pixels decode, how many patches has it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trident.errors import MissingMppError, SlideError, TridentError
from trident.job import COORDS, PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES
from trident.slides.base import Slide
from trident.stages.base import Stage, Status
from trident.stages.coords import CoordsStage
from trident.stages.segmentation import SegmentationStage

_PROBE_PX = 256

FROM_COORDS, FROM_OUTLINES, FROM_THUMBNAIL = "coordinates", "outlines", "thumbnail"


@dataclass(frozen=True)
class Look:
    """What looking at a slide gave.

    Attributes:
        n_patches: None where it is not known.
        patches_from: `coordinates` or `outlines`, which are there (exact), or `thumbnail` (estimated).
        megapixels: of level 0.
        problem: why a stage that is to run would fail; None where nothing speaks against it.
    """

    n_patches: int | None = None
    patches_from: str | None = None
    megapixels: float | None = None
    problem: str | None = None


def look_at(stages: Mapping[str, Stage], statuses: Mapping[str, Status]) -> Look:
    """Look at one slide, as far as its stages that are to run need it.

    Args:
        stages: all stages of the slide by kind, also those that the job only uses; of several encoders, any.
        statuses: of those that the job makes, by kind; of several encoders, one that is not done, if there is one.
    """
    to_run = {kind for kind, status in statuses.items() if not status.done}
    coords, tissue = stages.get(COORDS), stages.get(SEGMENTATION)
    n_patches, source = None, None
    if to_run & {PATCH_FEATURES, SLIDE_FEATURES} and isinstance(coords, CoordsStage) and COORDS not in to_run:
        try:
            n_patches, source = _stored(coords), FROM_COORDS
        except TridentError as error:
            return Look(problem=str(error))
    if not to_run - {SLIDE_FEATURES}:
        return Look(n_patches, source)
    megapixels = None
    try:
        with next(iter(stages.values())).open_slide() as slide:
            megapixels = slide.dimensions[0] * slide.dimensions[1] / 1e6
            _probe(slide)
            if n_patches is None and isinstance(coords, CoordsStage):
                n_patches, source = _counted(slide, coords, made_anew=SEGMENTATION in to_run)
            elif isinstance(tissue, SegmentationStage) and SEGMENTATION in to_run:
                _ = slide.magnification  # the segmenters need it
    except MissingMppError as error:
        return Look(None, None, megapixels, _short(error))
    except TridentError as error:
        return Look(n_patches, source, megapixels, _short(error))
    return Look(n_patches, source, megapixels)


def _stored(coords: CoordsStage) -> int:
    from trident.store import h5

    return h5.read_header(coords.output).n_coords


def _counted(slide: Slide, coords: CoordsStage, *, made_anew: bool) -> tuple[int, str]:
    """Patches on the outlines that are there and stay, else on those of a small image."""
    from trident.plan.tissue import patches_on, rough_outlines
    from trident.store import geojson

    assert coords.grid is not None
    if coords.tissue.is_there() and not made_anew:
        return len(patches_on(slide, coords.grid, geojson.read_tissue(coords.tissue.output)).corners), FROM_OUTLINES
    outlines = rough_outlines(slide, cut_holes=coords.tissue.cut_holes)
    return len(patches_on(slide, coords.grid, outlines).corners), FROM_THUMBNAIL


def _probe(slide: Slide) -> None:
    """Read one small region from the middle of level 0: a file may open whose pixels do not decode.

    Raises:
        UnreadableSlideError: it does not decode.
    """
    width_px, height_px = slide.dimensions
    size = (min(_PROBE_PX, width_px), min(_PROBE_PX, height_px))
    slide.read_region(((width_px - size[0]) // 2, (height_px - size[1]) // 2), 0, size)


def _short(error: TridentError) -> str:
    return str(error).removeprefix(f"{error.path}: ") if isinstance(error, SlideError) else str(error)
