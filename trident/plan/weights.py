"""Whether the weights that a run needs are here, can be fetched, or are missing. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from trident.encoders.patch.registry import spec as patch_spec
from trident.encoders.slide import registry as slide_encoders
from trident.encoders.weights import LOCAL_CKPTS_ENV, WeightsSource, locate
from trident.errors import TridentError
from trident.job import PATCH_FEATURES, SEGMENTATION, SLIDE_FEATURES, Job
from trident.segmentation.spec import ARTIFACT_REMOVER
from trident.segmentation.spec import SPECS as SEGMENTATION_MODELS

State = Literal["here", "download", "missing"]
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class WeightsNeed:
    """Weights of one model.

    Attributes:
        model: its name.
        stage: key of the stage that needs them.
        state: `here`, `download` (the run would fetch them first) or `missing` (the run would stop).
        detail: the path, the repository, or what is wrong and what to do.
        size_bytes: of the files, where they are here.
    """

    model: str
    stage: str
    state: State
    detail: str
    size_bytes: int | None = None


def weights_needed(job: Job, kinds: Collection[str]) -> list[WeightsNeed]:
    """What the stages of these kinds need, in the order in which they run."""
    settings, needs = job.settings, []
    if SEGMENTATION in kinds:
        removes = settings.remove_artifacts or settings.remove_penmarks
        for name in [settings.segmenter, *([ARTIFACT_REMOVER] if removes else [])]:
            if name in SEGMENTATION_MODELS:
                needs.append(_need(SEGMENTATION_MODELS[name], SEGMENTATION))
    if PATCH_FEATURES in kinds:
        for name in job.patch_encoders:
            declared = patch_spec(name)
            if declared.filenames:
                needs.append(_need(declared, f"{PATCH_FEATURES}:{name}", settings.patch_encoder_ckpt_path))
    if SLIDE_FEATURES in kinds and job.slide_encoder:
        key = f"{SLIDE_FEATURES}:{job.slide_encoder}"
        slide = slide_encoders.spec(job.slide_encoder)
        try:
            slide_encoders.require_weights(slide.name, trust_remote_code=settings.trust_remote_code)
        except TridentError as error:
            return [*needs, WeightsNeed(slide.name, key, "missing", str(error))]
        if slide.filenames:
            needs.append(_need(slide, key))
    return needs


def _need(source: WeightsSource, stage: str, given: object = None) -> WeightsNeed:
    from pathlib import Path

    try:
        found = locate(source, given if isinstance(given, Path) else None)
        if found is not None:
            size = sum(path.stat().st_size for path in found.shards or (found.path,))
            return WeightsNeed(source.name, stage, "here", str(found.path), size)
    except TridentError as error:
        return WeightsNeed(source.name, stage, "missing", str(error))
    why = _not_to_be_had(source)
    if why:
        return WeightsNeed(source.name, stage, "missing", why)
    return WeightsNeed(source.name, stage, "download", f"https://huggingface.co/{source.repo_id}")


def _not_to_be_had(source: WeightsSource) -> str | None:
    """Why the hub will not give these weights, as far as this machine can tell without asking it."""
    remedy = f"name the file in a registry named by {LOCAL_CKPTS_ENV}"
    what = f"{source.name}: its weights are not on this machine"
    if source.repo_id is None:
        return f"{what} and not on the hub; {remedy}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        return f"{what}, and HF_HUB_OFFLINE forbids the download; {remedy}"
    if getattr(source, "gated", False) and not _has_token():
        return (
            f"{what}, and https://huggingface.co/{source.repo_id} gives them only to those who were granted access; "
            f"ask for it there and set HF_TOKEN, or {remedy}"
        )
    return None


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())
