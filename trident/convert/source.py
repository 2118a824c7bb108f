"""Opens a file for conversion: its pixels as a libvips image that is read once, its µm/px and its colour profile.

A slide is read by `trident.slides`, so that a converted file has the pixels that the pipeline would have read from the
original. Plain images, and TIFFs that OpenSlide does not take for 8-bit RGB slides, are streamed by libvips itself.
Imported only where a file is converted: needs libvips.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openslide
import pyvips
import tifffile

from trident.convert.colour import to_rgb8
from trident.convert.ome import PHYSICAL_SIZE_KEY, require_one_plane
from trident.convert.region_stream import RegionStream
from trident.errors import MissingMppError, TridentError, UnreadableSlideError
from trident.slides.base import Slide
from trident.slides.diagnosis import one_line, require_file
from trident.slides.dicom import openable_file
from trident.slides.discovery import SlideSource
from trident.slides.eligibility import PARSE_ERRORS
from trident.slides.limits import require_plausible_tiff, require_size
from trident.slides.metadata import (
    TIFF_RESOLUTION_KEY,
    TIFF_UNIT_KEY,
    is_from_tiff_tags,
    is_of_print,
    positive_number,
    resolve_resolution,
)
from trident.slides.registry import IMAGE_EXTENSIONS, open_slide, slide_extension

logger = logging.getLogger(__name__)

LIBVIPS = "libvips"
"""`reader` of a file whose pixels libvips reads itself."""

_OME_EXTENSIONS = (".ome.tif", ".ome.tiff")
_TIFF_EXTENSIONS = (".tif", ".tiff", *_OME_EXTENSIONS)
_YCBCR, _JPEG = 6, (6, 7)
_CENTIMETRE, _INCH = 3, 2
_UNITS = {_CENTIMETRE: "centimeter", _INCH: "inch"}


@dataclass
class OpenedSource:
    """A file that is open for conversion."""

    image: pyvips.Image
    """8-bit RGB, to be read once from top to bottom."""
    mpp: float
    """µm/px."""
    mpp_source: str
    profile: bytes | None
    """ICC profile of the pixels."""
    reader: str
    notes: list[str] = field(default_factory=list)
    stream: RegionStream | None = None

    @property
    def failure(self) -> BaseException | None:
        """What kept a region of the slide from being read."""
        return None if self.stream is None else self.stream.failure


@contextmanager
def opened(source: SlideSource, threads: int) -> Iterator[OpenedSource]:
    """A file with its pixels, µm/px and profile.

    Args:
        source: the file; its `mpp`, where given, wins over the metadata.
        threads: that read a slide.

    Raises:
        UnreadableSlideError: it does not open.
        MissingMppError: µm/px neither given nor in the metadata.
        NotAvailableError: this version has no reader for it.
    """
    if is_read_by_libvips(source.path):
        yield _open_image(source)
        return
    with open_slide(source.path, mpp=source.mpp, name=source.name) as slide:
        properties, mpp, mpp_source, notes = slide.properties, slide.mpp_or_none, slide.mpp_source, list(slide.notes)
        if slide_extension(source.path).lower() in _OME_EXTENSIONS:  # OpenSlide does not look into OME-XML
            ome = _tiff_properties(source.path)
            stated = positive_number(ome.get(PHYSICAL_SIZE_KEY))
            # Programs that write OME-TIFF leave the TIFF tags at whatever they were.
            if mpp is None or (stated is not None and is_from_tiff_tags(properties, mpp_source)):
                about_tags = resolve_resolution(source.path, properties, None).notes
                resolution = resolve_resolution(source.path, ome, None, (PHYSICAL_SIZE_KEY,))
                mpp, mpp_source = resolution.mpp, resolution.source
                notes = [*(note for note in notes if note not in about_tags), *resolution.notes]
        mpp, mpp_source = _usable(source, properties, mpp, mpp_source)
        stream = RegionStream(slide, threads)
        pipe = pyvips.SourceCustom()
        pipe.on_read(stream.read)
        pipe.on_seek(stream.seek)
        try:
            image = pyvips.Image.tiffload_source(pipe, access="sequential", fail_on="error", unlimited=True)
            yield OpenedSource(
                image.copy(interpretation="srgb"),
                mpp,
                mpp_source,
                _profile_of(slide),
                slide.reader_type,
                notes,
                stream,
            )
        finally:
            stream.close()


def is_read_by_libvips(path: Path) -> bool:
    """Whether libvips reads a file itself: plain images, and TIFFs that OpenSlide does not take for 8-bit RGB slides.

    Raises:
        UnreadableSlideError: missing, empty, or a TIFF that claims impossible sizes.
    """
    extension = slide_extension(path).lower()
    if extension in IMAGE_EXTENSIONS:
        return True
    if extension not in _TIFF_EXTENSIONS:
        return False
    require_file(path)
    require_plausible_tiff(path)
    vendor = openslide.OpenSlide.detect_format(path)
    return vendor is None or (vendor == "generic-tiff" and not _is_rgb8(path))


def _is_rgb8(path: Path) -> bool:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return page.samplesperpixel >= 3 and page.bitspersample == 8
    except PARSE_ERRORS as error:
        raise UnreadableSlideError(
            path, f"its TIFF directories do not parse ({one_line(error)}); fetch it again"
        ) from error


def _open_image(source: SlideSource) -> OpenedSource:
    path = source.path
    require_file(path)
    properties: Mapping[str, str] = {}
    if slide_extension(path).lower() in _TIFF_EXTENSIONS:
        properties = _tiff_properties(path)
    image = _load(path)
    require_size(path, [(image.width, image.height)], size_bytes=path.stat().st_size)
    resolution = resolve_resolution(path, properties, source.mpp, (PHYSICAL_SIZE_KEY,))
    mpp, mpp_source = _usable(source, properties, resolution.mpp, resolution.source)
    n_pages = int(image.get("n-pages")) if image.get_typeof("n-pages") else 1
    pages = [f"it has {n_pages} pages, of which the first was converted"] if n_pages > 1 else []
    try:
        rgb = to_rgb8(image, path, lambda: _load(path))
    except pyvips.Error as error:  # in the first pass over 16-bit pixels
        raise _undecodable(path, vips_reason(error)) from error
    profile = rgb.image.get("icc-profile-data") if rgb.image.get_typeof("icc-profile-data") else None
    return OpenedSource(rgb.image, mpp, mpp_source, profile, LIBVIPS, [*resolution.notes, *pages, *rgb.notes])


def _load(path: Path) -> pyvips.Image:
    try:
        return pyvips.Image.new_from_file(str(path), access="sequential", fail_on="error")
    except pyvips.Error as error:
        raise UnreadableSlideError(
            path,
            f"libvips cannot open it ({vips_reason(error)}); it is no image of this kind, or damaged: fetch it again",
        ) from error


def _tiff_properties(path: Path) -> dict[str, str]:
    """The resolution that a TIFF states, under the keys of `trident.slides.metadata`."""
    try:
        with tifffile.TiffFile(path) as tiff:
            found = require_one_plane(path, tiff)
            page = tiff.pages.first
            if page.photometric == _YCBCR and page.compression not in _JPEG:  # libvips would take it for RGB
                raise UnreadableSlideError(
                    path, "its colours are YCbCr without JPEG compression; export it as an RGB TIFF first"
                )
            tags = page.tags
            resolution, unit = tags.get("XResolution"), tags.get("ResolutionUnit")
            over, under = resolution.value if resolution else (0, 1)
            if over and under:
                found[TIFF_RESOLUTION_KEY] = repr(over / under)
                found[TIFF_UNIT_KEY] = _UNITS.get(int(unit.value) if unit else _INCH, "")
            return found
    except PARSE_ERRORS as error:
        raise UnreadableSlideError(
            path, f"its TIFF directories do not parse ({one_line(error)}); fetch it again"
        ) from error


def _usable(
    source: SlideSource, properties: Mapping[str, str], mpp: float | None, mpp_source: str | None
) -> tuple[float, str]:
    """µm/px of level 0 and where it comes from; the resolution of a print is none."""
    if mpp is None or mpp_source is None:
        problem = "its µm/px is neither in the file nor in --mpp_csv"
    elif is_of_print(properties, mpp_source, mpp):
        problem = f"its TIFF tags say {mpp:g} µm/px, the resolution of a print and not of a slide"
    elif not math.isfinite(mpp):
        problem = f"its metadata says {mpp} µm/px"
    else:
        return mpp, mpp_source
    raise MissingMppError(source.path, f"{problem}; add a row `{source.rel_path},<µm/px>` to the CSV of --mpp_csv")


def _profile_of(slide: Slide) -> bytes | None:
    """The ICC profile of a slide that OpenSlide can open."""
    if slide.reader_type not in ("openslide", "cucim"):
        return None
    try:
        with openslide.OpenSlide(openable_file(slide.path)) as handle:
            profile = handle.color_profile
            return None if profile is None else bytes(profile.tobytes())
    except (openslide.OpenSlideError, OSError) as error:
        logger.warning("%s: its colour profile cannot be read (%s) and is left out", slide.path, one_line(error))
        return None


def reading_error(path: Path, error: pyvips.Error, found: OpenedSource) -> TridentError:
    """What a failed conversion says about the file that was being read."""
    failure = found.failure
    if isinstance(failure, TridentError):
        return failure
    reason = one_line(failure) if failure is not None else vips_reason(error)
    return _undecodable(path, reason)


def _undecodable(path: Path, reason: str) -> UnreadableSlideError:
    return UnreadableSlideError(path, f"a part of it does not decode ({reason}); fetch it again")


def vips_reason(error: pyvips.Error) -> str:
    """What libvips says, without the name of the operation that pyvips puts before it."""
    _, _, detail = str(error).partition("\n")
    return one_line(detail or error)
