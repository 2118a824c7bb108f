"""Slides in SDPC (SqRay), read with the decoder that the package opensdpc brings along. Imported when one is opened.

Only the package's compiled decoder is called, through ctypes. Its Python class opens each file three times and collects
garbage after every region.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides.base import RGBImage
from trident.slides.diagnosis import one_line, require_file
from trident.slides.metadata import is_positive_finite
from trident.slides.pyramid_reader import Box, Facts, PyramidSlide

_MAGIC = b"SQ"
_MAX_LEVELS = 32
_LAYER_NUMBER = re.compile(r"=\s*(\d+)")


class Decoder(Protocol):
    """One opened SDPC file."""

    level_sizes: list[tuple[int, int]]
    scale: float
    """Side of a level as a share of the one before."""
    mpp: float
    rate: int
    """Objective power."""

    def read_bgr(self, level: int, box: Box) -> RGBImage | None:
        """uint8 (height, width, 3), blue first; None where the decoder fails."""


class SdpcSlide(PyramidSlide):
    """A slide in SDPC.

    Args:
        path: the slide file.
        mpp: the user's own µm/px of level 0; it wins over the metadata.
        custom_mpp_keys: metadata keys that may hold µm/px.
        name: slide name; by default the file name without its extension.

    Raises:
        UnreadableSlideError: not an SDPC file, or damaged.
        NotAvailableError: the decoder is not installed, or does not load.
        MissingMppError: `mpp` is given and not a positive finite number.
    """

    reader_type: ClassVar[str] = "sdpc"

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        custom_mpp_keys: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        path = Path(path)
        require_file(path)
        with path.open("rb") as file:
            # The decoder believes everything after these two bytes.
            if file.read(len(_MAGIC)) != _MAGIC:
                raise UnreadableSlideError(path, "it is not an SDPC file, or damaged; fetch it again")
        decoder = open_decoder(path)
        sizes, scale = decoder.level_sizes, decoder.scale
        if not sizes or not 0 < scale < 1 or min(min(size) for size in sizes) < 1:
            raise UnreadableSlideError(path, f"its levels ({sizes}, scale {scale:g}) make no sense; fetch it again")
        properties = {"sdpc.rate": str(decoder.rate), "sdpc.scale": f"{scale:g}"}
        if is_positive_finite(decoder.mpp):
            properties["sdpc.mpp"] = f"{decoder.mpp:.9g}"
        facts = Facts(sizes, [(1 / scale) ** level for level in range(len(sizes))], properties)
        super().__init__(path, decoder, facts, mpp=mpp, custom_mpp_keys=custom_mpp_keys, name=name)

    def _read_box(self, handle: Any, level: int, box: Box) -> RGBImage:
        pixels = handle.read_bgr(level, box)
        if pixels is None:
            raise UnreadableSlideError(
                self.path,
                f"the {box.width} x {box.height} px region at ({box.left}, {box.top}) of level {level} does not "
                "decode; fetch the file again or leave the slide out",
            )
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def open_decoder(path: Path) -> Decoder:
    """Open a file with opensdpc's decoder.

    Raises:
        NotAvailableError: it is not installed, or does not load.
        UnreadableSlideError: it does not open the file.
    """
    try:
        package = importlib.import_module("opensdpc.OpenSdpc")
    except OSError as error:
        spec = importlib.util.find_spec("opensdpc")
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        folder = Path(places[0] if places else "opensdpc") / "LINUX"
        raise NotAvailableError(
            f"{path}: opensdpc's decoder does not load ({one_line(error)}); install libnuma1 and set "
            f"LD_LIBRARY_PATH={folder}:{folder / 'ffmpeg'}:{folder / 'jpeg'} before the start"
        ) from error
    except ImportError as error:
        raise NotAvailableError(
            f"{path}: reading SDPC needs opensdpc ({one_line(error)}); pip install --no-deps opensdpc "
            "(without --no-deps it replaces OpenCV), or convert the slide to a pyramidal TIFF elsewhere"
        ) from error
    return _OpenSdpcFile(path, package.so)


class _OpenSdpcFile:
    """A file opened by opensdpc's library; closed when nothing refers to it any more. See `Decoder`.

    Regions are decoded one at a time: nothing says that the decoder may be called from several threads at once.
    """

    def __init__(self, path: Path, library: Any) -> None:
        self._library, self._lock = library, threading.Lock()
        # The library keeps this pointer and opens the file anew for each region.
        self._file_name = ctypes.create_string_buffer(os.fsencode(path))
        self._file = library.SqOpenSdpc(self._file_name)
        if not self._file:
            raise UnreadableSlideError(path, "it does not open as an SDPC file; fetch it again")
        weakref.finalize(self, library.SqCloseSdpc, self._file)
        head = self._file.contents.picHead.contents
        self.scale, self.mpp, self.rate = float(head.scale), float(head.ruler), int(head.rate)
        self.level_sizes = [self._level_size(level) for level in range(min(int(head.hierarchy), _MAX_LEVELS))]

    def _level_size(self, level: int) -> tuple[int, int]:
        """(width, height): the tiles' total less what the last ones have beyond the slide; (0, 0) where unknown."""
        text = ctypes.cast(self._library.GetLayerInfo(self._file, level), ctypes.c_char_p).value or b""
        numbers = [int(number) for number in _LAYER_NUMBER.findall(text.decode("utf-8", "replace"))]
        if len(numbers) < 4:
            return 0, 0
        width_px, height_px, beyond_x_px, beyond_y_px = numbers[:4]
        return width_px - beyond_x_px, height_px - beyond_y_px

    def read_bgr(self, level: int, box: Box) -> RGBImage | None:
        pixels = ctypes.POINTER(ctypes.c_uint8)()
        with self._lock:
            self._library.SqGetRoiRgbOfSpecifyLayer(
                self._file, ctypes.byref(pixels), box.width, box.height, box.left, box.top, level
            )
            if not pixels:
                return None
            try:
                return np.ctypeslib.as_array(pixels, (box.height, box.width, 3)).copy()
            finally:
                self._library.Dispose(pixels)
