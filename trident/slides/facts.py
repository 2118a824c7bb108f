"""What is known about one slide, gathered without processing it. Imports the readers: late."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trident.errors import SlideError
from trident.slides.base import Slide
from trident.slides.metadata import MppCandidate, mpp_candidates, objective_power, table_magnification
from trident.slides.registry import default_reader_type, open_slide, slide_extension
from trident.slides.tile_layout import level_layouts

_PROBE_PX = 256
_ASSOCIATED = re.compile(r"openslide\.associated\.(.+)\.(width|height)")


@dataclass(frozen=True)
class LevelFacts:
    """One pyramid level."""

    width_px: int
    height_px: int
    downsample: float
    """Level-0 pixels per pixel."""
    tile_size: tuple[int, int] | None
    """(width, height) in pixels; None where the level has no tiles, or the file does not say."""
    compression: str | None


@dataclass(frozen=True)
class SlideFacts:
    """What a file says of itself, and what the pipeline would make of it."""

    path: Path
    name: str
    """Names the outputs."""
    format: str
    """OpenSlide's name of the vendor's format, or the image format."""
    size_bytes: int | None
    """Length of the file; None for a folder."""
    reader_type: str
    reader_reason: str
    levels: tuple[LevelFacts, ...]
    mpp: float | None
    """µm/px of level 0 that is used."""
    mpp_source: str | None
    mpp_candidates: tuple[MppCandidate, ...]
    """The keys of the metadata that may hold µm/px, best first."""
    magnification: int | None
    """Of level 0, by the table of the output contract."""
    objective_power: float | None
    """As the metadata claims it."""
    objective_key: str | None
    associated_images: dict[str, tuple[int, int]]
    """Name (label, macro, ...) -> (width, height) in pixels."""
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    """Why the pipeline could not process the slide, each with what to do about it; empty where it could."""


def slide_facts(
    path: Path | str,
    *,
    reader_type: str | None = None,
    mpp: float | None = None,
    custom_mpp_keys: Sequence[str] = (),
) -> SlideFacts:
    """Open a slide as the pipeline would, and say what is found. One small region is read, to see whether it decodes.

    Args:
        path: the slide file.
        reader_type: as for `trident.slides.registry.open_slide`.
        mpp: the user's own µm/px of level 0.
        custom_mpp_keys: further metadata keys that may hold µm/px.

    Raises:
        TridentError: as `open_slide`.
    """
    path = Path(path)
    with open_slide(path, reader_type=reader_type, mpp=mpp, custom_mpp_keys=custom_mpp_keys) as slide:
        problems = tuple(_problems(slide))
        power, power_key = objective_power(slide.properties) or (None, None)
        return SlideFacts(
            path=path,
            name=slide.name,
            format=slide.properties.get("openslide.vendor")
            or slide.properties.get("image.format")
            or slide.reader_type,
            size_bytes=path.stat().st_size if path.is_file() else None,
            reader_type=slide.reader_type,
            reader_reason=_reader_reason(path, reader_type, slide),
            levels=_levels(slide),
            mpp=slide.mpp_or_none,
            mpp_source=slide.mpp_source,
            mpp_candidates=tuple(mpp_candidates(slide.properties, custom_mpp_keys)),
            magnification=None if slide.mpp_or_none is None else table_magnification(slide.mpp_or_none),
            objective_power=power,
            objective_key=power_key,
            associated_images=_associated_images(slide),
            notes=tuple(slide.notes),
            problems=problems,
        )


def _levels(slide: Slide) -> tuple[LevelFacts, ...]:
    rows = zip(slide.level_dimensions, slide.level_downsamples, level_layouts(slide), strict=True)
    return tuple(
        LevelFacts(width_px, height_px, downsample, layout.tile_size, layout.compression)
        for (width_px, height_px), downsample, layout in rows
    )


def _associated_images(slide: Slide) -> dict[str, tuple[int, int]]:
    """From the metadata: no image is decoded."""
    sides: dict[str, dict[str, int]] = {}
    for key, value in slide.properties.items():
        match = _ASSOCIATED.fullmatch(key)
        if match and value.isdecimal():
            sides.setdefault(match[1], {})[match[2]] = int(value)
    return {name: (side["width"], side["height"]) for name, side in sides.items() if len(side) == len(("x", "y"))}


def _problems(slide: Slide) -> list[str]:
    problems = []
    try:
        _ = slide.magnification
    except SlideError as error:
        problems.append(_without_path(error))
    width_px, height_px = slide.dimensions
    size = (min(_PROBE_PX, width_px), min(_PROBE_PX, height_px))
    middle = ((width_px - size[0]) // 2, (height_px - size[1]) // 2)
    try:
        slide.read_region(middle, 0, size)
    except SlideError as error:
        problems.append(_without_path(error))
    return problems


def _without_path(error: SlideError) -> str:
    return str(error).removeprefix(f"{error.path}: ")


def _reader_reason(path: Path, asked: str | None, slide: Slide) -> str:
    """Why this reader reads the slide."""
    if asked is not None:
        return "asked for with --reader_type"
    if slide.reader_type == "cucim":
        return "its tiles are JPEG or JPEG 2000, and a few regions were found to have OpenSlide's pixels"
    wanted = default_reader_type(path)
    if wanted == "cucim":
        return "cuCIM was tried first and does not give OpenSlide's pixels for this file (see the notes)"
    if wanted != "openslide":
        return f"the reader of {slide_extension(path)} files"
    from trident.slides.eligibility import reason_against_cucim

    reason = reason_against_cucim(path)
    return f"not cuCIM: {reason}" if reason else "cuCIM, which is faster for this file, is not installed here"
