"""The tissue segmenters by name. Light to import: what a segmenter needs is imported when it is made."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from trident.encoders import weights
from trident.errors import SettingsError
from trident.segmentation.spec import ARTIFACT_REMOVER, SPECS, Removal

if TYPE_CHECKING:
    import torch
    from shapely.geometry import Polygon

    from trident.segmentation.base import Progress, Segmenter
    from trident.segmentation.neural import NeuralSegmenter
    from trident.slides.base import Slide

SEGMENTER_NAMES = ("hest", "grandqc", "otsu")
"""Every name that `--segmenter` knows."""

RecipeSettings = dict[str, str | int | float | bool | None]


def check_available(name: str) -> None:
    """Complain about a name that is no segmenter.

    Raises:
        SettingsError: the name is unknown.
    """
    if name not in SEGMENTER_NAMES:
        close = difflib.get_close_matches(name, SEGMENTER_NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise SettingsError(f"--segmenter {name} is unknown{hint} Choose one of: {', '.join(SEGMENTER_NAMES)}")


def segmentation_model_factory(
    name: str,
    *,
    confidence_thresh: float = 0.5,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    weights_path: Path | str | None = None,
    max_workers: int | None = None,
    **options: object,
) -> Segmenter:
    """Make a segmenter, with its weights where it has any.

    Args:
        name: one of `SEGMENTER_NAMES`, or `grandqc_artifact`, the model that removes artifacts from tissue.
        confidence_thresh: probability from which a pixel is tissue, 0 to 1; for `hest` and `grandqc`.
        device: where a neural segmenter runs, e.g. `cuda:0`; `otsu` has no use for it.
        batch_size: tiles a neural segmenter looks at together; `otsu` has no use for it.
        weights_path: weights file, or the folder that holds it; None looks in the registry of local weights, then on
            the hub.
        max_workers: threads that read tiles; None for one a processor, 0 to read in the calling thread.
        options: `remove_penmarks_only` of `grandqc_artifact`.

    Raises:
        SettingsError: an unknown name or option, or a value out of its range.
        WeightsError: the weights are missing, damaged or those of another network.
    """
    if name == ARTIFACT_REMOVER:
        return artifact_remover(
            penmarks_only=bool(options.pop("remove_penmarks_only", False)),
            device=device,
            batch_size=batch_size,
            weights_path=weights_path,
            max_workers=max_workers,
            **options,
        )
    check_available(name)
    _check_options(name, batch_size, options)
    if not 0.0 <= confidence_thresh <= 1.0:
        raise SettingsError(f"--seg_conf_thresh is {confidence_thresh}; it must lie between 0 and 1")
    if name in SPECS:
        return _neural(
            name,
            weights_path,
            confidence_thresh=confidence_thresh,
            device=device,
            batch_size=batch_size,
            max_workers=max_workers,
        )
    _check_no_weights(name, weights_path)

    from trident.segmentation.otsu import OtsuSegmenter

    return OtsuSegmenter()


def artifact_remover(
    *,
    penmarks_only: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    weights_path: Path | str | None = None,
    max_workers: int | None = None,
    **options: object,
) -> NeuralSegmenter:
    """Make the model that removes artifacts from tissue; see `segmentation_model_factory` for the arguments.

    Args:
        penmarks_only: remove pen marks and background alone, and leave folds, bubbles and blur in.
        device: where it runs.
        batch_size: tiles looked at together.
        weights_path: weights file, or the folder that holds it.
        max_workers: threads that read tiles.
        options: refused; there is no further one.

    Raises:
        SettingsError, WeightsError: as `segmentation_model_factory`.
    """
    _check_options(ARTIFACT_REMOVER, batch_size, options)
    return _neural(
        ARTIFACT_REMOVER,
        weights_path,
        remove_penmarks_only=penmarks_only,
        device=device,
        batch_size=batch_size,
        max_workers=max_workers,
    )


def segmenter_settings(name: str, confidence_thresh: float, *, with_digest: bool = True) -> RecipeSettings:
    """`Segmenter.recipe_settings` of a segmenter that is not made yet.

    Args:
        name: the segmenter.
        confidence_thresh: probability from which a pixel is tissue.
        with_digest: hash the weights too, where they are on this machine; elsewhere the digest is None.

    Raises:
        WeightsError: the registry of local weights is wrong.
    """
    if name not in SPECS:
        return {"segmenter": name}
    return {
        "segmenter": name,
        "segmenter_magnification": SPECS[name].magnification,
        "seg_conf_thresh": confidence_thresh,
        "segmenter_weights_sha256": _digest(name) if with_digest else None,
    }


def removal_asked_for(*, remove_artifacts: bool, remove_penmarks: bool) -> Removal:
    """What two flags ask for together."""
    if remove_artifacts:
        return "all artifacts"
    return "pen marks" if remove_penmarks else "none"


def removal_settings(
    removal: Removal, *, weights_sha256: str | None = None, with_digest: bool = True
) -> RecipeSettings:
    """How the removal of artifacts shapes the outlines, for their recipe.

    Args:
        removal: what is removed.
        weights_sha256: digest of the model's weights, where it is known.
        with_digest: otherwise find it out, where the weights are on this machine.

    Raises:
        WeightsError: the registry of local weights is wrong.
    """
    if removal == "none":
        return {"artifacts_removed": removal}
    if weights_sha256 is None and with_digest:
        weights_sha256 = _digest(ARTIFACT_REMOVER)
    return {"artifacts_removed": removal, "artifact_weights_sha256": weights_sha256}


def segment_tissue(
    slide: Slide, segmenter: Segmenter, *, cut_holes: bool = False, progress: Progress | None = None
) -> list[Polygon]:
    """Outlines of a slide's tissue in level-0 pixels; empty where there is none.

    Args:
        slide: to look at.
        segmenter: finds the mask.
        cut_holes: cut holes out of the outlines.
        progress: called with (parts done, their total).

    Raises:
        MissingMppError: the slide's resolution is unknown.
        UnreadableSlideError: a region does not decode.
    """
    from trident.segmentation.contours import mask_to_polygons

    return mask_to_polygons(segmenter.segment(slide, progress), cut_holes=cut_holes, slide_size=slide.dimensions)


def _neural(
    name: str,
    weights_path: Path | str | None,
    *,
    device: torch.device | str,
    batch_size: int,
    max_workers: int | None,
    confidence_thresh: float = 0.5,
    remove_penmarks_only: bool = False,
) -> NeuralSegmenter:
    declared = SPECS[name]
    found = weights.fetch(declared, weights_path)
    assert found is not None  # every one of them is published

    from trident.segmentation.networks import load_network
    from trident.segmentation.neural import NeuralSegmenter

    return NeuralSegmenter(
        declared,
        load_network(declared, found.path),
        confidence_thresh=confidence_thresh,
        remove_penmarks_only=remove_penmarks_only,
        device=device,
        batch_size=batch_size,
        max_workers=max_workers,
        weights_sha256=found.sha256,
    )


def _digest(name: str) -> str | None:
    found = weights.locate(SPECS[name])
    return None if found is None else found.sha256


def _check_options(name: str, batch_size: int, options: dict[str, object]) -> None:
    if options:
        raise SettingsError(f"segmenter {name} does not take: {', '.join(sorted(options))}")
    if batch_size < 1:
        raise SettingsError(f"--seg_batch_size is {batch_size}; it must be at least 1")


def _check_no_weights(name: str, weights_path: Path | str | None) -> None:
    if weights_path is not None:
        raise SettingsError(f"segmenter {name} has no weights, so it cannot load {weights_path}; leave the path out")
