"""One stage for every slide of a list, one after the other, in this process: what `Processor` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from trident.errors import DiscoveryError, LockHeldError, StageNotRequestedError, TridentError
from trident.stages.base import Stage
from trident.stages.tracking import describe_error, record_failure, record_result
from trident.stages.work import run_recorded
from trident.staging.cache import SlideCache
from trident.staging.prefetch import copied_ahead
from trident.wsi import WSI

logger = logging.getLogger(__name__)


def run_for_each(
    wsis: Sequence[WSI],
    label: str,
    stage_of: Callable[[WSI], Stage],
    done: Callable[[WSI, Stage], None] | None = None,
    *,
    needs: str | None = None,
    cache: SlideCache | None = None,
    skip_errors: bool = False,
) -> None:
    """Run one stage for every slide.

    Args:
        wsis: the slides.
        label: on the progress bar, which shows on a terminal only.
        stage_of: the stage of a slide.
        done: called after a stage that ended well.
        needs: the method that makes what the stage is made from.
        cache: where slides are copied to, ahead of their stages; None: they are read where they are.
        skip_errors: log a slide that fails, record it, and go on with the others.

    Raises:
        DiscoveryError: two slides have one name.
        TridentError: of the first slide that fails, unless `skip_errors`.
    """
    _require_distinct_names(wsis)
    paths = [Path(wsi.slide_path).absolute() for wsi in wsis]
    with copied_ahead(cache, paths) as release:
        for wsi, path in zip(tqdm(list(wsis), desc=label, unit="slide", disable=None), paths, strict=True):
            stage = stage_of(wsi)
            if _run(stage, needs, skip_errors) and done is not None:
                done(wsi, stage)
            release(path)


def _run(stage: Stage, needs: str | None, skip_errors: bool) -> bool:
    """Run one stage of one slide; whether it ended well."""
    name = stage.source.name
    try:
        if stage.needs is not None and not stage.needs.output.exists():
            raise StageNotRequestedError(f"{stage.source.path}: {stage.needs.output} is missing; call {needs} first")
        result = run_recorded(stage)
    except LockHeldError as error:  # another run is at it: no failure of this slide
        logger.warning("%s: %s is left to another run: %s", name, stage.label, error)
        return False
    except BaseException as error:
        record_failure(stage, error)
        if not (skip_errors and isinstance(error, Exception)):
            raise
        unforeseen = not isinstance(error, TridentError)
        logger.error("%s: %s failed: %s", name, stage.label, describe_error(error), exc_info=unforeseen)
        return False
    if result.skipped:
        record_result(stage, result)
    return True


def _require_distinct_names(wsis: Sequence[WSI]) -> None:
    """The folder's slides are checked when they are found, but callers may add their own to the list."""
    seen: dict[str, WSI] = {}
    for wsi in wsis:
        other = seen.setdefault(wsi.name, wsi)
        if other is not wsi:
            raise DiscoveryError(
                f"{other.slide_path} and {wsi.slide_path} would write the same outputs, named {wsi.name}; give one of "
                "them another name"
            )
