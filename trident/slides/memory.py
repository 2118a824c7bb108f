"""A lack of memory, told of the slide that it struck. Light: the registry imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trident.errors import SlideMemoryError

_OPENCV_NUMBER = "(-4:"
"""How OpenCV's own error for it is numbered, `cv2.Error.StsNoMem`. (Its `code` is that of the latest error of all.)"""


@contextmanager
def shortage_told(path: Path, action: str) -> Iterator[None]:
    """Tell a lack of memory inside the block as an error of the slide; any other error passes.

    Args:
        path: the slide, for the message.
        action: what was being done: "open it".

    Raises:
        SlideMemoryError: in place of a library's own error.
    """
    try:
        yield
    except Exception as error:
        if not _is_shortage(error):
            raise
        raise SlideMemoryError(
            path,
            f"the memory that is left is not enough to {action}; run fewer slides at a time or end other programs, "
            "and if that does not help, fetch it again: damaged sizes can claim any amount",
        ) from error


def _is_shortage(error: Exception) -> bool:
    # By its module: importing OpenCV to name its class would cost more than everything that opens a slide.
    is_opencv = type(error).__module__ == "cv2" and _OPENCV_NUMBER in str(error)
    return is_opencv or isinstance(error, MemoryError)
