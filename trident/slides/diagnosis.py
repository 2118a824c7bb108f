"""Why a file does not open as a slide, in words that tell a user what to do about it."""

from __future__ import annotations

import os
import shlex
import struct
from collections.abc import Sequence
from pathlib import Path

from trident.errors import UnreadableSlideError

_HEAD_BYTES = 2048
_MAX_DIRECTORIES = 1000
_CLASSIC_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
_BIG_TIFF = {b"II+\0": "<", b"MM\0+": ">"}
_TIFF_EXTENSIONS = (".tif", ".tiff")
_TO_PYRAMID = "convert it to a pyramidal TIFF with its scanner's software"
_LIBVIPS_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000, 50001})
"""TIFF compression tags that `trident convert` reads: none, CCITT, LZW, JPEG, Deflate, PackBits, Zstandard, WebP. Not
JPEG 2000: libvips as the extra `convert` installs it lacks it."""
LIBVIPS_IMAGES = (
    *((0, magic) for magic in (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\xb6\xa6\xf2\x08", b"\x08\xf2\xa6\xb6")),
    (8, b"WEBP"),
    (4, b"ftypavif"),
)
"""(offset, bytes) of images besides TIFF that `trident convert` reads: PNG, JPEG, GIF, libvips' own, WebP, AVIF."""
_PLAIN_IMAGES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}


def one_line(error: BaseException | str) -> str:
    """The text of an error on one line; libraries put line breaks and trailing blanks into theirs."""
    return " ".join(str(error).split()) or type(error).__name__


def require_file(path: Path) -> None:
    """Check the plain things before an image library is asked.

    Raises:
        UnreadableSlideError: missing, a directory, empty, or not permitted to read.
    """
    if path.is_dir():
        raise UnreadableSlideError(path, "it is a directory, not a slide file; take it out of the list of slides")
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        target = " (a link to a file that is gone)" if path.is_symlink() else ""
        raise UnreadableSlideError(path, f"no such file{target}; check the path") from error
    except OSError as error:
        raise UnreadableSlideError(path, f"it cannot be read ({error.strerror}); check its permissions") from error
    if size_bytes == 0:
        raise UnreadableSlideError(path, "the file is empty (0 bytes); fetch it again")


def explain_unopenable(path: Path, reason: BaseException | str | None = None) -> str:
    """One line on why an existing, non-empty file did not open as a slide, judged by its first bytes.

    Args:
        path: the file.
        reason: the library's own error, where it says more than "unsupported format".
    """
    size_bytes = path.stat().st_size
    head = first_bytes(path)
    if _tiff_is_cut_off(path, head, size_bytes):
        return f"the file is cut off ({size_bytes:,} bytes, a TIFF directory lies beyond its end); fetch it again"
    if reason is not None:
        return f"OpenSlide cannot open it ({one_line(reason)}); if the file is sound, {_way_out(path, head)}"
    for magic, kind in _PLAIN_IMAGES.items():
        if head.startswith(magic):
            return f"it is a plain {kind} image, not a slide; name it so, or use --reader_type image"
    if _is_tiff(head):
        return _explain_tiff(path, head)
    return _explain_other(path, head, size_bytes)


def _explain_tiff(path: Path, head: bytes) -> str:
    from trident.slides.tiff_pixels import first_page, way_to_rgb

    page = first_page(path)
    if page is not None:
        meant = page.reason_against_anything()
        if meant is not None:
            return f"{meant}; {way_to_rgb(path, page)}"
        if page.bits > 8 or page.reason_against_openslide() is not None:  # nor does the `image` reader
            return f"it is a TIFF file, but not of a kind that OpenSlide reads, or damaged; {_way_out(path, head)}"
    return (
        "it is a TIFF file, but not of a kind that OpenSlide reads, or damaged; "
        f"use --reader_type image if it is small, else {_way_out(path, head)}"
    )


def _explain_other(path: Path, head: bytes, size_bytes: int) -> str:
    if _is_text(head):
        return "it is a text file, not a slide (a failed download?); fetch it again"
    kind = _plain_image_format(path)
    if kind is not None:
        return f"it is a {kind} image, not a slide; use --reader_type image and give its µm/px, or save it as PNG"
    known = f"not a slide format that OpenSlide knows, or damaged ({size_bytes:,} bytes)"
    return f"{known}; fetch it again or, if it is sound, {way_to_pyramid(path)}"


def first_bytes(path: Path) -> bytes:
    """What tells the kind of a file."""
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def starts_as(head: bytes, kinds: Sequence[tuple[int, bytes]]) -> bool:
    """Whether a file's first bytes are of one of these kinds: (offset, bytes)."""
    return any(head[at : at + len(magic)] == magic for at, magic in kinds)


def way_to_pyramid(path: Path) -> str:
    """What makes a pyramidal TIFF of a sound image: the conversion, where its libvips reads it."""
    return _way_out(path, first_bytes(path))


def _way_out(path: Path, head: bytes) -> str:
    """What to do with a sound file that OpenSlide does not read."""
    if starts_as(head, LIBVIPS_IMAGES):
        return f"run `{convert_command(path)}`"
    if not _is_tiff(head):
        return _TO_PYRAMID
    from trident.slides.tiff_pixels import first_page, way_to_rgb

    page = first_page(path)
    if page is None or page.compression not in _LIBVIPS_COMPRESSIONS:
        shown = page.compression if page and page.compression else "its own"
        return f"save it with another compression than {shown}, which libvips does not read either"
    renamed = "" if path.suffix.lower() in _TIFF_EXTENSIONS else "name it .tif and "
    return renamed + way_to_rgb(path, page)


def convert_command(path: Path) -> str:
    """The command that makes pyramidal TIFFs of a file and its neighbours; the CSV has the columns `wsi` and `mpp`."""
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - Path.resolve() would follow links
    target = folder.with_name(f"{folder.name}_tiff") if folder.name else folder / "tmp"
    return (
        f"trident convert --input_dir {shlex.quote(str(folder))} --job_dir {shlex.quote(str(target))} "
        "--mpp_csv mpp.csv --downscale_by 1 --num_workers 1"
    )


def _is_tiff(head: bytes) -> bool:
    return head[:4] in _CLASSIC_TIFF or head[:4] in _BIG_TIFF


def _plain_image_format(path: Path) -> str | None:
    """The format of an image that the `image` reader may open, by its header."""
    from trident.slides.pillow import BadImageError, opened_image

    try:
        with opened_image(path) as image:
            return image.format
    except BadImageError:
        return None


def _tiff_is_cut_off(path: Path, head: bytes, size_bytes: int) -> bool:
    """Whether this is a TIFF one of whose chained directories lies where the file has already ended."""
    if head[:4] in _CLASSIC_TIFF:
        order, first_at, offset_format, count_format, entry_bytes = _CLASSIC_TIFF[head[:4]], 4, "I", "H", 12
    elif head[:4] in _BIG_TIFF:
        order, first_at, offset_format, count_format, entry_bytes = _BIG_TIFF[head[:4]], 8, "Q", "Q", 20
    else:
        return False
    count_bytes, offset_bytes = struct.calcsize(count_format), struct.calcsize(offset_format)
    if size_bytes < first_at + offset_bytes:
        return True
    (directory,) = struct.unpack_from(order + offset_format, head, first_at)
    with path.open("rb") as file:
        for _ in range(_MAX_DIRECTORIES):
            if directory == 0:
                return False
            if directory + count_bytes > size_bytes:
                return True
            file.seek(directory)
            count_field = file.read(count_bytes)
            next_at = directory + count_bytes + entry_bytes * struct.unpack(order + count_format, count_field)[0]
            if next_at + offset_bytes > size_bytes:
                return True
            file.seek(next_at)
            (directory,) = struct.unpack(order + offset_format, file.read(offset_bytes))
    return False


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character cut in two at the end of what was read is no objection
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
