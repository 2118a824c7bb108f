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
from trident.convert.region_stream import RegionStream
from trident.errors import MissingMppError, TridentError, UnreadableSlideError
from trident.slides.base import Slide
from trident.slides.diagnosis import LIBVIPS_IMAGES, first_bytes, one_line, require_file, starts_as
from trident.slides.dicom import openable_file
from trident.slides.discovery import SlideSource
from trident.slides.eligibility import PARSE_ERRORS
from trident.slides.limits import require_plausible_tiff, require_size, unmarked_pages
from trident.slides.metadata import (
    GENERIC_TIFF,
    TIFF_RESOLUTION_DOWN_KEY,
    TIFF_RESOLUTION_KEY,
    TIFF_UNIT_KEY,
    is_of_print,
    resolve_resolution,
)
from trident.slides.ome import ome_facts
from trident.slides.registry import IMAGE_EXTENSIONS, has_own_reader, open_slide, slide_extension
from trident.slides.tiff_pixels import PagePixels, pixels_of, require_known_pixels, require_libvips_reads, unparsable

logger = logging.getLogger(__name__)

LIBVIPS = "libvips"
"""`reader` of a file whose pixels libvips reads itself."""

_TIFF_EXTENSIONS = (".tif", ".tiff", ".ome.tif", ".ome.tiff")
_MAYBE_IMAGES = ((0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51"), (0, b"P5"), (0, b"P6"), (4, b"ftyp"))
"""(offset, bytes) of images that only some builds of libvips read: JPEG 2000, PGM, PPM, HEIF."""
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
    with _opened_slide(source) as slide:
        if slide.properties.get(openslide.PROPERTY_NAME_VENDOR) == GENERIC_TIFF:
            _require_one_plane(source.path)
        notes = list(slide.notes)
        mpp, mpp_source = _usable(source, slide.properties, slide.mpp_or_none, slide.mpp_source)
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


def _opened_slide(source: SlideSource) -> Slide:
    try:
        return open_slide(source.path, mpp=source.mpp, name=source.name)
    except UnreadableSlideError as error:
        if "--reader_type" not in str(error):
            raise
        # That option is not one of the conversion.
        raise UnreadableSlideError(
            source.path,
            "it is an image of a kind, or under an extension, that neither the slide readers nor libvips take here; "
            "save it as PNG, or as a TIFF that is named .tif",
        ) from error


def is_read_by_libvips(path: Path) -> bool:
    """Whether libvips reads a file itself: plain images, and TIFFs that OpenSlide does not take for 8-bit RGB slides.

    Raises:
        UnreadableSlideError: missing, empty, or a TIFF that claims impossible sizes.
    """
    extension = slide_extension(path).lower()
    if extension in IMAGE_EXTENSIONS:
        return True
    if has_own_reader(path) or path.is_dir():
        return False
    require_file(path)
    require_plausible_tiff(path)
    vendor = openslide.OpenSlide.detect_format(path)
    if extension not in _TIFF_EXTENSIONS:
        return vendor is None and _is_libvips_image(path)
    return vendor is None or (vendor == GENERIC_TIFF and not (pixels_of(path).is_rgb8 and _opens(path)))


def _is_libvips_image(path: Path) -> bool:
    """Whether libvips reads a file under some other extension; judged by its first bytes, so no odd loader runs."""
    head = first_bytes(path)
    if starts_as(head, LIBVIPS_IMAGES):
        return True
    if not starts_as(head, _MAYBE_IMAGES):
        return False
    try:
        pyvips.Image.new_from_file(str(path), access="sequential")
    except (pyvips.Error, UnicodeEncodeError):
        return False
    return True


def _opens(path: Path) -> bool:
    """Whether OpenSlide opens a file whose format it has named; it lacks some compressions."""
    try:
        openslide.OpenSlide(path).close()
    except openslide.OpenSlideError:
        return False
    return True


def _open_image(source: SlideSource) -> OpenedSource:
    path = source.path
    require_file(path)
    is_tiff = slide_extension(path).lower() in _TIFF_EXTENSIONS
    properties: Mapping[str, str] = _tiff_properties(path) if is_tiff else {}
    image = _load(path)
    require_size(path, [(image.width, image.height)], size_bytes=path.stat().st_size)
    resolution = resolve_resolution(path, properties, source.mpp)
    mpp, mpp_source = _usable(source, properties, resolution.mpp, resolution.source)
    n_pages = int(image.get("n-pages")) if image.get_typeof("n-pages") else 1
    if is_tiff:  # levels of its pyramid are pages too
        n_pages = 1 + unmarked_pages(path)
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
    """The resolution that a TIFF states, under the keys of `trident.slides.metadata`.

    Raises:
        UnreadableSlideError: it does not parse, has several planes, or pixels that libvips does not read.
    """
    found = _require_one_plane(path)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            pixels = PagePixels.of(page)
            unit = page.tags.get("ResolutionUnit")
            for name, key in (("XResolution", TIFF_RESOLUTION_KEY), ("YResolution", TIFF_RESOLUTION_DOWN_KEY)):
                tag = page.tags.get(name)
                over, under = tag.value if tag else (0, 1)
                if over and under:
                    found[key] = repr(over / under)
                    found[TIFF_UNIT_KEY] = _UNITS.get(int(unit.value) if unit else _INCH, "")
    except PARSE_ERRORS as error:
        raise unparsable(path, error) from error
    require_known_pixels(path, pixels)
    require_libvips_reads(path, pixels)
    return found


def _require_one_plane(path: Path) -> dict[str, str]:
    """The properties that an OME-TIFF states in its XML.

    Raises:
        UnreadableSlideError: it does not parse, or has several channels, depths or times, of which one would be taken.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            ome = ome_facts(tiff)
    except PARSE_ERRORS as error:
        raise unparsable(path, error) from error
    more = [planes for planes in (ome.more_channels, *ome.more_planes) if planes]
    if more:
        raise UnreadableSlideError(
            path, f"it has several planes ({', '.join(more)}); export the one to be converted as an RGB TIFF"
        )
    return dict(ome.properties)


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
