"""Opening images with Pillow: one place for which formats, how large, and what damage to them raises."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from trident.slides.diagnosis import one_line
from trident.slides.limits import SMALL_PX

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")
"""What images may be. Pillow's other formats hold an image whose size the header does not say, or run a program."""

_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""Pillow parses damaged headers without a promise of one error class."""


class BadImageError(Exception):
    """Why Pillow gives no pixels, in one line; whoever asked says of which file, and what to do."""


class NotAnImageError(BadImageError):
    """The file is of no format that is read here."""


class OversizedImageError(BadImageError):
    """The image claims more pixels than were allowed."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self.size = (width_px, height_px)
        super().__init__(f"it claims {width_px:,} x {height_px:,} px")


@contextmanager
def opened_image(path: Path, *, max_px: int = SMALL_PX) -> Iterator[Image.Image]:
    """An image with its header read; `load_pixels` decodes it.

    Pillow's own limit, a setting of the whole process that warns or raises at sizes that are allowed here, is lifted
    until the block ends, and `max_px` holds instead.

    Args:
        path: the file.
        max_px: most pixels that the image may claim.

    Raises:
        BadImageError: it does not open, or is larger.
    """
    with _pillow_limit_lifted():
        try:
            image = Image.open(path, formats=IMAGE_FORMATS)
        except UnidentifiedImageError as error:
            raise NotAnImageError("it is not an image that Pillow reads, or damaged") from error
        except _DAMAGE as error:
            raise BadImageError(f"the image does not open ({one_line(error)})") from error
        with image:
            if image.width * image.height > max_px:
                raise OversizedImageError(image.width, image.height)
            yield image


def load_pixels(image: Image.Image) -> None:
    """Decode an image of `opened_image`, inside its block.

    Raises:
        BadImageError: it does not decode.
        MemoryError: it does not fit into memory.
    """
    try:
        image.load()
    except _DAMAGE as error:
        raise BadImageError(f"the image does not decode ({one_line(error)})") from error


class _Lifting:
    """How many blocks at this moment want Pillow to have no limit, and the limit that it had before the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.before: int | None = None


_lifting = _Lifting()


@contextmanager
def _pillow_limit_lifted() -> Iterator[None]:
    with _lifting.lock:
        if _lifting.blocks == 0:
            _lifting.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _lifting.blocks += 1
    try:
        yield
    finally:
        with _lifting.lock:
            _lifting.blocks -= 1
            if _lifting.blocks == 0:
                Image.MAX_IMAGE_PIXELS = _lifting.before
