"""Which files may be handed to cuCIM at all, judged from their TIFF tags before cuCIM sees them.

cuCIM brings the whole process down on some files that it does not support (a Deflate-compressed TIFF, for one), so
trying and catching is no way to find out. Imported only when a slide is opened.
"""

from __future__ import annotations

import importlib
import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import tifffile
from numpy.typing import NDArray

from trident.errors import UnreadableSlideError
from trident.slides.limits import lists_are_exact, require_plausible_tiff

logger = logging.getLogger(__name__)
# A file that does not parse is reported by the reader that opens it, once; tifffile would log an error of its own.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

JPEG = 7
_CODECS = (JPEG, 33003, 33005, 34712)
"""TIFF compression tags: JPEG, Aperio's JPEG 2000 (YCbCr, RGB), JPEG 2000."""
_STRIP_CODECS = (1, 5, *_CODECS)
"""Those and none and LZW. With a predictor and Deflate, LZMA, LERC or Zstandard, cuCIM reads through a null pointer."""
_EXTENSIONS = (".svs", ".tif", ".tiff")
_RGB, _YCBCR = 2, 6
# tifffile parses damaged directories without a promise of one error class.
PARSE_ERRORS = (
    OSError,
    tifffile.TiffFileError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
)
_RESTART_INTERVAL = b"\xff\xdd"


class IneligibleError(Exception):
    """Why cuCIM may not read a file; a reason to use OpenSlide, not something that a user meets."""


@dataclass(frozen=True)
class TiledPage:
    """One pyramid level of a tiled TIFF, and where its compressed tiles lie in the file."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    tile_size: tuple[int, int]
    compression: int
    offsets: NDArray[np.int64]
    """First byte of each tile, row by row."""
    byte_counts: NDArray[np.int64]
    has_restart_interval: bool
    """Whether the shared JPEG tables announce restart markers."""
    jpeg_tables: bytes = b""
    """Tables that all JPEG tiles share; empty where each carries its own."""
    is_ycbcr: bool = True
    """Whether JPEG tiles hold YCbCr; otherwise RGB."""

    @property
    def tiles_across(self) -> int:
        """Tiles in one row."""
        return -(-self.size[0] // self.tile_size[0])


def import_cucim() -> ModuleType:
    """The cuCIM module.

    It looks for NVIDIA's cuFile and, where torch has brought that along to a machine without a GPU, leaves a
    `cufile.log` in the current directory; nobody reads it, so it is not written.
    """
    os.environ.setdefault("CUFILE_LOGFILE_PATH", os.devnull)
    return importlib.import_module("cucim")


def cucim_is_importable() -> bool:
    """Whether cuCIM is installed and loads here. Its import opens a CUDA context on every visible GPU."""
    try:
        import_cucim()
    except (ImportError, OSError) as error:
        logger.debug("cuCIM is not used: %s", error)
        return False
    return True


def reason_against_cucim(path: Path) -> str | None:
    """Why cuCIM may not read this file, or None where its tags allow it. Never raises for a bad file."""
    try:
        tiled_pages(path)
    except IneligibleError as reason:
        return str(reason)
    return None


def tiled_pages(path: Path) -> list[TiledPage]:
    """The tiled pages of a TIFF that cuCIM may read, in file order.

    Raises:
        IneligibleError: not a TIFF of tiled 8-bit RGB pages compressed with JPEG or JPEG 2000.
    """
    if path.suffix.lower() not in _EXTENSIONS:
        raise IneligibleError(f"cuCIM reads {', '.join(_EXTENSIONS)} files, not {path.suffix or 'this kind'}")
    if not _is_utf8(path):
        raise IneligibleError("cuCIM takes no file name that is not UTF-8")
    try:
        require_plausible_tiff(path)  # tifffile follows directories in a loop for ever
        with tifffile.TiffFile(path) as tiff:
            whole = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            for page in whole:
                _require_safe_codec(page)
            pages = [_tiled_page(page) for page in whole if page.is_tiled]
        if not lists_are_exact(path):
            raise IneligibleError("one of its images lists more or fewer tiles or strips than it consists of")
    except UnreadableSlideError as error:
        raise IneligibleError("its TIFF directories claim what cannot be") from error
    except PARSE_ERRORS as error:
        raise IneligibleError(f"its TIFF directories do not parse ({' '.join(str(error).split())})") from error
    if not pages:
        raise IneligibleError("it has no tiled page")
    return pages


def _is_utf8(path: Path) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in str(path))


def _require_safe_codec(page: tifffile.TiffPage) -> None:
    """Refuse a page on which cuCIM crashes: opening a file, it looks at labels and thumbnails (stripped pages) too."""
    compression = int(page.compression)
    if compression not in (_CODECS if page.is_tiled else _STRIP_CODECS):
        kind, safe = ("page", "JPEG and JPEG 2000") if page.is_tiled else ("label or thumbnail", "JPEG, LZW and none")
        what = f"its {page.imagewidth} x {page.imagelength} px {kind}"
        raise IneligibleError(f"{what} has compression {compression}, and cuCIM is safe there only with {safe}")


def _tiled_page(page: tifffile.TiffPage) -> TiledPage:
    """Facts about one page, checked against what cuCIM decodes."""
    compression = int(page.compression)
    what = f"its {page.imagewidth} x {page.imagelength} px page"
    if (page.samplesperpixel, page.bitspersample, page.planarconfig) != (3, 8, 1):
        raise IneligibleError(f"{what} is not 8-bit RGB")
    if page.photometric not in (_RGB, _YCBCR):
        raise IneligibleError(f"{what} has photometric interpretation {page.photometric}")
    tiled = TiledPage(
        size=(page.imagewidth, page.imagelength),
        tile_size=(page.tilewidth, page.tilelength),
        compression=compression,
        offsets=np.asarray(page.dataoffsets, dtype=np.int64),
        byte_counts=np.asarray(page.databytecounts, dtype=np.int64),
        has_restart_interval=_RESTART_INTERVAL in (page.jpegtables or b""),
        jpeg_tables=page.jpegtables or b"",
        is_ycbcr=page.photometric == _YCBCR,
    )
    tiles = tiled.tiles_across * -(-page.imagelength // page.tilelength)
    if tiled.offsets.shape != (tiles,) or tiled.byte_counts.shape != (tiles,):
        raise IneligibleError(f"{what} lists {len(tiled.offsets)} tiles where it needs {tiles}")
    return tiled
