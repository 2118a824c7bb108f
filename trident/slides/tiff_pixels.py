"""Which plain TIFFs have pixels that OpenSlide reads as they are meant, judged from the tags of the first page.

OpenSlide has libtiff turn every tile into 8-bit RGBA. For grey, palette, RGB, YCbCr and CMYK of up to 8 bits that is
right, and of 16 bits it takes the upper 8, however many the camera had. Of more channels than colours, values with a
sign, grey with alpha or of 16 bits, and tiles to be turned it makes something else, without an error. Imported only
when a slide is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import tifffile

from trident.errors import UnreadableSlideError
from trident.slides.diagnosis import convert_command, one_line
from trident.slides.eligibility import PARSE_ERRORS
from trident.slides.limits import require_plausible_tiff, unmarked_pages
from trident.slides.ome import ome_facts

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_GREY = (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
_MOST_SAMPLES = {_WHITE_IS_ZERO: 2, _BLACK_IS_ZERO: 2, _RGB: 4, _PALETTE: 1, _CMYK: 5, _YCBCR: 3}
"""PhotometricInterpretation -> samples of a pixel, the last of which may be alpha."""
_UNSIGNED = (1, 4)
"""SampleFormat: whole numbers without sign, or not said."""
_FEW_BITS = (1, 2, 4)
_SEPARATE_PLANES = 2
_UPRIGHT, _ORIENTATIONS = 1, range(1, 9)
_JPEG = (6, 7)


@dataclass(frozen=True)
class PagePixels:
    """The tags of one page that say how its pixels are meant."""

    photometric: int
    samples: int
    bits: int
    sample_format: int
    orientation: int
    is_planar: bool
    is_tiled: bool
    compression: int

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> PagePixels:
        """Those of a page.

        Raises:
            PARSE_ERRORS: a tag makes no sense.
        """
        tag = page.tags.get("Orientation")
        orientation = tag.value if tag is not None and tag.value in _ORIENTATIONS else _UPRIGHT
        return cls(
            photometric=int(page.photometric),
            samples=int(page.samplesperpixel),
            bits=int(page.bitspersample),
            sample_format=int(page.sampleformat or 1),
            orientation=int(orientation),
            is_planar=int(page.planarconfig) == _SEPARATE_PLANES and int(page.samplesperpixel) > 1,
            is_tiled=bool(page.is_tiled),
            compression=int(page.compression),
        )

    @property
    def is_rgb8(self) -> bool:
        """Whether OpenSlide reads it as 8-bit RGB without turning or scaling anything."""
        return (
            self.photometric in (_RGB, _YCBCR)
            and self.samples in (3, 4)
            and self.bits == 8
            and self.sample_format in _UNSIGNED
            and self.orientation == _UPRIGHT
        )

    def reason_against_anything(self) -> str | None:
        """Why no reader here, libvips included, shows these pixels as they are meant; None where one does."""
        if self.photometric not in _MOST_SAMPLES:
            return f"its colours are of a kind (PhotometricInterpretation {self.photometric}) that is not read here"
        if self.samples > _MOST_SAMPLES[self.photometric]:
            return (
                f"it has {self.samples} channels that are not marked as colours (PhotometricInterpretation "
                f"{self.photometric})"
            )
        if self.sample_format not in _UNSIGNED:
            return "its values have a sign or are floating point"
        if self.bits not in (8, 16, *(_FEW_BITS if self.samples == 1 else ())):
            return f"its values have {self.bits} bits"
        return None

    def reason_against_libvips(self) -> str | None:
        """Why libvips does not read these pixels, where others might."""
        if self.photometric == _YCBCR and self.compression not in _JPEG:  # it would take them for RGB
            return "its colours are YCbCr without JPEG compression"
        if self.is_planar and self.is_tiled:
            return "its tiles hold each channel by itself (PlanarConfiguration 2)"
        return None

    def reason_against_openslide(self) -> str | None:
        """Why OpenSlide gives other pixels than the file means, where libvips might give the right ones."""
        if self.photometric in _GREY and (self.samples > 1 or self.bits > 8):  # the rows of tiles at the edges shift
            return f"its grey has {'alpha' if self.samples > 1 else '16 bits'}, of which OpenSlide makes other pixels"
        if self.orientation != _UPRIGHT:
            return f"its Orientation tag ({self.orientation}) has OpenSlide turn each tile by itself"
        return None


def pixels_of(path: Path) -> PagePixels:
    """The pixels of the first page of a TIFF.

    Raises:
        UnreadableSlideError: it does not parse, or claims impossible sizes.
    """
    require_plausible_tiff(path)  # tifffile follows directories in a loop for ever
    try:
        with tifffile.TiffFile(path) as tiff:
            return PagePixels.of(tiff.pages.first)
    except PARSE_ERRORS as error:
        raise unparsable(path, error) from error


def first_page(path: Path) -> PagePixels | None:
    """See `pixels_of`; None where it does not parse."""
    with suppress(*PARSE_ERRORS, UnreadableSlideError):
        return pixels_of(path)
    return None


def unparsable(path: Path, error: BaseException) -> UnreadableSlideError:
    """What to say of a TIFF whose tags make no sense."""
    return UnreadableSlideError(path, f"its TIFF directories do not parse ({one_line(error)}); fetch it again")


@dataclass(frozen=True)
class TiffLook:
    """What a plain TIFF says besides what OpenSlide tells."""

    properties: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def look_at_plain_tiff(path: Path) -> TiffLook:
    """Look at the tags of a TIFF that OpenSlide has opened as `generic-tiff`.

    Raises:
        UnreadableSlideError: OpenSlide would give other pixels than the file means; the message has the command that
            converts it where that helps.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pixels = PagePixels.of(tiff.pages.first)
            ome = ome_facts(tiff)
    except PARSE_ERRORS as error:
        return TiffLook(notes=(_not_checked(error),))
    if ome.more_channels:
        raise UnreadableSlideError(
            path,
            f"it has several planes ({ome.more_channels}) for its channels; write those to be shown as an RGB TIFF",
        )
    require_known_pixels(path, pixels)
    reason = pixels.reason_against_openslide()
    if reason is not None:
        obstacle = pixels.reason_against_libvips()
        if obstacle is not None:
            reason += f", and {obstacle}, which libvips does not read"
        raise UnreadableSlideError(path, f"{reason}; {way_to_rgb(path, pixels)}")
    notes = []
    if pixels.bits > 8:
        # No command: the file may be a copy that does not stay, and the note does.
        remedy = "`trident convert` scales it" if _is_convertible(pixels) else _write_it_as_rgb(pixels)
        notes.append(f"of its {pixels.bits} bits OpenSlide takes the upper 8; where that is too dark, {remedy}")
    if pixels.photometric == _CMYK:
        notes.append("its CMYK is turned into RGB without a colour profile; `trident convert` uses one")
    if ome.more_planes:
        notes.append(f"it has several planes ({', '.join(ome.more_planes)}), of which the first is read")
    else:
        notes += note_of_pages(path)
    return TiffLook(ome.properties, tuple(notes))


def look_at_image_tiff(path: Path) -> tuple[str, ...]:
    """Notes on a TIFF that Pillow has opened as an 8-bit image.

    Raises:
        UnreadableSlideError: Pillow would give other pixels than the file means.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pixels = PagePixels.of(tiff.pages.first)
    except PARSE_ERRORS as error:
        return (_not_checked(error),)
    if pixels.sample_format not in _UNSIGNED:
        require_known_pixels(path, pixels)
    reason = None
    if pixels.bits > 8:
        reason = f"its values have {pixels.bits} bits, of which this reader would take the upper 8"
    elif pixels.orientation != _UPRIGHT:
        reason = f"this reader would turn it by its Orientation tag ({pixels.orientation})"
    if reason is not None:
        raise UnreadableSlideError(path, f"{reason}; {way_to_rgb(path, pixels)}")
    return note_of_pages(path)


def note_of_pages(path: Path) -> tuple[str, ...]:
    """A note where a TIFF has pages that are not levels of its first; it may hold a stack."""
    more = unmarked_pages(path)
    if not more:
        return ()
    pages = f"{more} more page{'s' if more > 1 else ''}"
    return (f"it has {pages} not marked as levels (focal planes, other images?); the first page is read",)


def way_to_rgb(path: Path, pixels: PagePixels) -> str:
    """What to do with a TIFF that a reader does not read as it is meant: convert it, where that helps."""
    if _is_convertible(pixels):
        return f"run `{convert_command(path)}`"
    return _write_it_as_rgb(pixels)


def _is_convertible(pixels: PagePixels) -> bool:
    return pixels.reason_against_anything() is None and pixels.reason_against_libvips() is None


def _not_checked(error: BaseException) -> str:
    return f"its tags do not all parse ({one_line(error)}); look at its thumbnail"


def require_known_pixels(path: Path, pixels: PagePixels) -> None:
    """Refuse pixels that no reader here shows as they are meant.

    Raises:
        UnreadableSlideError: see `PagePixels.reason_against_anything`.
    """
    reason = pixels.reason_against_anything()
    if reason is not None:
        raise UnreadableSlideError(path, f"{reason}; {_write_it_as_rgb(pixels)}")


def require_libvips_reads(path: Path, pixels: PagePixels) -> None:
    """Refuse pixels that libvips does not read, or reads as something else.

    Raises:
        UnreadableSlideError: see `PagePixels.reason_against_libvips`.
    """
    reason = pixels.reason_against_libvips()
    if reason is not None:
        raise UnreadableSlideError(path, f"{reason}, which libvips does not read; {_write_it_as_rgb(pixels)}")


def _write_it_as_rgb(pixels: PagePixels) -> str:
    if pixels.samples > 1 and pixels.photometric in _GREY:
        return "write those to be shown as an 8-bit RGB TIFF first"
    return "export it as an 8-bit RGB TIFF first"
