"""A job: the options of a run and its slides, resolved once and frozen in a file that tasks on any machine can read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trident.encoders.slide.registry import canonical_name, slide_to_patch_encoder_name
from trident.errors import SettingsError, SlideError, StoreError
from trident.settings import Settings, host_options
from trident.slides.discovery import SlideSource, find_slides
from trident.slides.folders import source_bytes
from trident.slides.metadata import MPP_AT_1X
from trident.slides.registry import slide_name
from trident.store.atomic import write_text
from trident.store.layout import JobLayout, grid_name

if TYPE_CHECKING:
    from trident.encoders.patch.spec import PatchEncoderSpec

logger = logging.getLogger(__name__)

SEGMENTATION, COORDS, PATCH_FEATURES, SLIDE_FEATURES = "segmentation", "coords", "patch_features", "slide_features"
STAGE_KINDS = (SEGMENTATION, COORDS, PATCH_FEATURES, SLIDE_FEATURES)

_SAME_SCALE_SHARE = 0.1
"""--target_mpp this close to the nominal µm/px of an encoder's magnification counts as that magnification."""

_STAGES_OF_TASK = {
    "seg": (SEGMENTATION,),
    "coords": (COORDS,),
    "feat": (PATCH_FEATURES, SLIDE_FEATURES),
    "all": STAGE_KINDS,
}


@dataclass(frozen=True)
class Job:
    """Options and slides of one run.

    Two equal jobs have one digest and one job file, also on hosts that differ in how they do the work: such options
    (devices, batch sizes, scheduler) are no part of either.
    """

    settings: Settings
    slides: Mapping[str, SlideSource]
    """By slide name, in the order in which they are processed."""
    kinds: tuple[str, ...]
    """Kinds of stage that this job makes: those of `--task`, or those up to a single task of the graph."""
    nonce: str = ""
    """Distinguishes runs with `--overwrite`, each of which makes its outputs anew."""

    @cached_property
    def slide_encoder(self) -> str | None:
        """Canonical name of the slide encoder, if one is asked for."""
        return canonical_name(self.settings.slide_encoder) if self.settings.slide_encoder else None

    @cached_property
    def patch_encoders(self) -> tuple[str, ...]:
        """The patch encoders to run, the one that the slide encoder needs among them."""
        return self.settings.patch_encoder

    @cached_property
    def patch_encoder(self) -> str:
        """The patch encoder that the slide encoder needs, else the first one."""
        if self.slide_encoder:
            return slide_to_patch_encoder_name.get(self.slide_encoder, self.patch_encoders[0])
        return self.patch_encoders[0]

    @cached_property
    def layout(self) -> JobLayout:
        """Paths of the outputs."""
        settings = self.settings
        grid = settings.coords_dir or grid_name(
            settings.mag, settings.patch_size, settings.overlap, target_mpp=settings.target_mpp
        )
        return JobLayout(settings.job_dir, grid)

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """State keys of the stages that this job makes, in order, such as `patch_features:uni_v1`."""
        keys = []
        for kind in self.kinds:
            if kind == PATCH_FEATURES:
                keys += [f"{kind}:{name}" for name in self.patch_encoders]
            elif kind == SLIDE_FEATURES:
                if self.slide_encoder:
                    keys.append(f"{kind}:{self.slide_encoder}")
            else:
                keys.append(kind)
        return tuple(keys)

    def makes(self, kind: str) -> bool:
        """Whether this job makes that kind of stage (an earlier one may be needed and yet not be part of it)."""
        return any(key.partition(":")[0] == kind for key in self.stages)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for this job."""
        return hashlib.sha256(self._to_json().encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        """The job file."""
        return self.layout.private_dir / "jobs" / f"{self.digest}.json"

    def save(self) -> Path:
        """Write the job file (once; equal jobs share it) and return its path."""
        if not self.path.exists():
            write_text(self.path, self._to_json())
        return self.path

    def _to_json(self) -> str:
        slides = [{**asdict(slide), "path": str(slide.path)} for slide in self.slides.values()]
        settings = self.settings.model_dump(mode="json", exclude=set(host_options()))
        content = {"settings": settings, "kinds": self.kinds, "slides": slides, "nonce": self.nonce}
        return json.dumps(content, indent=1)


def create_job(settings: Settings, *, kinds: tuple[str, ...] | None = None, nonce: str = "") -> Job:
    """Check options against each other, find the slides, and freeze both.

    Args:
        settings: the options.
        kinds: kinds of stage to make, instead of those of `--task`.
        nonce: with `--overwrite`, what tells this run from others.

    Raises:
        SettingsError, NotAvailableError, DiscoveryError: with what to change.
    """
    settings = _with_needed_encoder(_absolute(settings))
    job = Job(
        settings, MappingProxyType({}), kinds or _STAGES_OF_TASK[settings.task], nonce if settings.overwrite else ""
    )
    _check(job)
    if settings.slide_path is not None:
        sources = [_single_source(settings.slide_path)]
    else:
        assert settings.wsi_dir is not None
        sources = find_slides(
            settings.wsi_dir,
            extensions=settings.wsi_ext,
            search_nested=settings.search_nested,
            custom_list=settings.custom_list_of_wsis,
        )
    return replace(job, slides=MappingProxyType({source.name: source for source in sources}))


@lru_cache(maxsize=16)
def load_job(path: Path, host: tuple[tuple[str, Any], ...] = ()) -> Job:
    """Read a job file.

    Args:
        path: the file.
        host: this host's options, which the file does not have; by default those of the environment.

    Raises:
        StoreError: missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings(**{**content["settings"], **dict(host)})
        sources = [SlideSource(**{**entry, "path": Path(entry["path"])}) for entry in content["slides"]]
        kinds, nonce = tuple(content["kinds"]), str(content["nonce"])
        if odd := [source.name for source in sources if source.name in ("", "..") or "/" in source.name]:
            raise ValueError(f"the slide name {odd[0]!r} would lead out of the job directory")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: not a readable job file ({reason}); start the run again") from error
    return Job(settings, MappingProxyType({source.name: source for source in sources}), kinds, nonce)


def absolute_path(path: Path) -> Path:
    """An absolute path without `~` and `..`. Links stay as they are, but for those that a `..` leads out of.

    Paths are cut and joined as text by much that comes after, and no container can be given a folder with `..`.
    """
    parts = path.expanduser().absolute().parts
    if ".." not in parts:
        return Path(*parts)
    end = len(parts) - parts[::-1].index("..")
    return Path(os.path.realpath(Path(*parts[:end])), *parts[end:])


def _absolute(settings: Settings) -> Settings:
    changes = {
        name: absolute_path(value)
        for name in ("job_dir", "wsi_dir", "slide_path", "custom_list_of_wsis", "patch_encoder_ckpt_path", "wsi_cache")
        if (value := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=changes)


def _with_needed_encoder(settings: Settings) -> Settings:
    """Settings that name every patch encoder to run: those asked for, and the one that the slide encoder needs.

    Where none is asked for, the slide encoder's is the only one.
    """
    needed = slide_to_patch_encoder_name.get(canonical_name(settings.slide_encoder)) if settings.slide_encoder else None
    if needed is None:
        return settings
    asked = settings.patch_encoder if "patch_encoder" in settings.model_fields_set else ()
    return settings.model_copy(update={"patch_encoder": tuple(dict.fromkeys((*asked, needed)))})


def _single_source(path: Path) -> SlideSource:
    try:
        status = path.stat()
        size = source_bytes(path, status)
    except OSError as error:
        raise SlideError(path, f"no such slide ({error.strerror}); check --slide_path") from error
    name = slide_name(path, is_folder=stat.S_ISDIR(status.st_mode))
    return SlideSource(path=path, rel_path=path.name, name=name, mpp=None, size_bytes=size)


def _check(job: Job) -> None:
    settings = job.settings
    if (settings.wsi_dir is None) == (settings.slide_path is None):
        raise SettingsError("give either --wsi_dir (a directory of slides) or --slide_path (one slide)")
    if settings.overlap >= settings.patch_size:
        raise SettingsError(f"--overlap {settings.overlap} must be smaller than --patch_size {settings.patch_size}")
    if settings.custom_list_of_wsis is not None and settings.wsi_dir is None:
        raise SettingsError("--custom_list_of_wsis needs --wsi_dir, to which its paths are relative")
    _check_availability(job)


def _check_availability(job: Job) -> None:
    """Say at once, before any slide is touched, what this version cannot do."""
    from trident.encoders.patch.factory import check_img_size
    from trident.encoders.patch.registry import spec as patch_encoder_spec
    from trident.encoders.slide.registry import check_available as check_slide_encoder
    from trident.encoders.slide.registry import check_grid
    from trident.encoders.slide.registry import spec as slide_encoder_spec
    from trident.segmentation.registry import check_available as check_segmenter

    settings = job.settings
    if job.makes(SEGMENTATION):
        check_segmenter(settings.segmenter)
    if job.makes(PATCH_FEATURES):
        _check_options_of_one(job)
        for name in job.patch_encoders:
            declared = patch_encoder_spec(name)
            check_img_size(declared, settings.patch_encoder_img_size)
            _warn_of_another_scale(job, declared)
    if job.slide_encoder and job.makes(SLIDE_FEATURES):
        check_slide_encoder(job.slide_encoder)
        if settings.coords_dir is None:
            declared_mag = slide_encoder_spec(job.slide_encoder).magnification
            mag = _magnification_for(settings, declared_mag)
            try:
                check_grid(job.slide_encoder, settings.patch_size, mag, settings.overlap)
            except SettingsError as error:
                if settings.target_mpp is None or declared_mag is None:
                    raise
                raise SettingsError(
                    f"{error} (--target_mpp {settings.target_mpp:g} is about --mag {mag:g}, and --mag {declared_mag:g} "
                    f"about --target_mpp {MPP_AT_1X / declared_mag:g})"
                ) from None
    if settings.gpus and settings.devices != settings.gpus:
        logger.warning("--gpus %s: a GPU that is named twice counts once", " ".join(map(str, settings.gpus)))


def _check_options_of_one(job: Job) -> None:
    """Refuse options that one patch encoder has and several cannot share."""
    if len(job.patch_encoders) < 2:
        return
    for name, remedy in (
        ("patch_encoder_ckpt_path", "name each encoder's file in a registry named by TRIDENT_LOCAL_CKPTS"),
        ("patch_encoder_img_size", "run that encoder by itself"),
    ):
        if getattr(job.settings, name) is not None:
            raise SettingsError(
                f"--{name} is for one patch encoder, and this run has {', '.join(job.patch_encoders)}; {remedy}"
            )


def _warn_of_another_scale(job: Job, declared: PatchEncoderSpec) -> None:
    """An encoder also works at another scale than it was trained on, only worse; say so, since it is often a slip."""
    settings = job.settings
    trained = (declared.magnification, declared.patch_size_px)
    given = (_magnification_for(settings, declared.magnification), settings.patch_size)
    if settings.coords_dir is None and None not in trained and trained != given:
        logger.warning(
            "%s was made for patches of %s px at %gx; this run gives it %s px at %s",
            declared.name,
            declared.patch_size_px,
            declared.magnification,
            settings.patch_size,
            f"{settings.mag:g}x" if settings.target_mpp is None else f"{settings.target_mpp:g} µm/px",
        )


def _magnification_for(settings: Settings, declared: float | None) -> float:
    """Magnification of the patches, to compare with an encoder's declared one.

    With --target_mpp it is the nominal one of that many µm/px, and the declared one itself where the two are close: an
    encoder is told "20x" of slides from 0.3 to 0.6 µm/px.
    """
    if settings.target_mpp is None:
        return settings.mag
    nominal = MPP_AT_1X / settings.target_mpp
    if declared is not None and abs(nominal - declared) <= _SAME_SCALE_SHARE * declared:
        return declared
    return round(nominal, 2)
