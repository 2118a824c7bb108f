from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trident.errors import NotAvailableError, UnreadableSlideError
from trident.slides.pyramid_reader import Box
from trident.slides.registry import open_slide
from trident.slides.sdpc import SdpcSlide, open_decoder


def test_metadata(tmp_path: Path, write_sdpc: Any, scene_levels: dict[int, np.ndarray]) -> None:
    with open_slide(write_sdpc(tmp_path / "a.sdpc", scene_levels)) as slide:
        assert slide.reader_type == "sdpc"
        assert (slide.mpp, slide.mpp_source, slide.magnification) == (0.25, "sdpc.mpp", 40)
        assert slide.properties["sdpc.rate"] == "40"
        with pytest.raises(UnreadableSlideError, match=r"13 x 5 px region at \(1, 2\) of level 0 does not decode"):
            slide.read_region((1, 2), 0, (13, 5))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"S", "not an SDPC"), (b"\x89PNG rubbish", "not an SDPC"), (None, "no such")],
)
def test_what_is_no_sdpc_never_reaches_the_decoder(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sdpc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=words):
        SdpcSlide(path)


def test_without_the_decoder_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensdpc", None)
    path = tmp_path / "a.sdpc"
    path.write_bytes(b"SQ" + bytes(5000))
    with pytest.raises(NotAvailableError, match="pip install --no-deps opensdpc") as caught:
        open_slide(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_decoder_that_does_not_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "opensdpc"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "OpenSdpc.py").write_text("import ctypes\nso = ctypes.CDLL('/nowhere/libDecodeSdpc.so')\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "opensdpc"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "a.sdpc"
    path.write_bytes(b"SQ" + bytes(5000))
    with pytest.raises(NotAvailableError, match=r"LD_LIBRARY_PATH=\S+/opensdpc/LINUX:\S+/ffmpeg:\S+/jpeg") as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


class Library:
    """The entry points of opensdpc's library that are called, with its calling conventions."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.closed, self.n_disposed, self.fails = image, 0, 0, False
        self.text = ctypes.create_string_buffer(b"w=600|h=500|bw=100|bh=70|")

    def SqOpenSdpc(self, name: Any) -> Any:
        head = SimpleNamespace(scale=0.25, ruler=0.5, rate=20, hierarchy=1)
        is_there = Path(name.value.decode()).exists()
        return SimpleNamespace(contents=SimpleNamespace(picHead=SimpleNamespace(contents=head))) if is_there else None

    def GetLayerInfo(self, file: Any, level: int) -> Any:
        return ctypes.cast(self.text, ctypes.POINTER(ctypes.c_char))

    def SqGetRoiRgbOfSpecifyLayer(
        self, file: Any, out: Any, width: int, height: int, x: int, y: int, level: int
    ) -> int:
        if self.fails:
            return -1
        self.part = np.ascontiguousarray(self.image[y : y + height, x : x + width, ::-1])
        pointer = self.part.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        ctypes.pointer(pointer)[0] = pointer
        out._obj.contents = pointer.contents
        return 0

    def Dispose(self, pixels: Any) -> None:
        self.n_disposed += 1
        self.part[:] = 0

    def SqCloseSdpc(self, file: Any) -> None:
        self.closed += 1


def test_the_decoder_is_called_as_it_wants_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: np.ndarray
) -> None:
    library = Library(scene)
    monkeypatch.setitem(sys.modules, "opensdpc", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "opensdpc.OpenSdpc", SimpleNamespace(so=library))
    path = tmp_path / "größe.sdpc"
    path.write_bytes(b"SQ" + bytes(5000))
    decoder = open_decoder(path)
    assert decoder.level_sizes == [(500, 430)]
    assert (decoder.scale, decoder.mpp, decoder.rate) == (0.25, 0.5, 20)
    pixels = decoder.read_bgr(0, Box(7, 9, 30, 20))
    assert np.array_equal(pixels, scene[9:29, 7:37, ::-1])
    assert library.n_disposed == 1
    library.fails = True
    assert decoder.read_bgr(0, Box(7, 9, 30, 20)) is None
    assert library.n_disposed == 1
    del decoder
    assert library.closed == 1
    path.unlink()
    with pytest.raises(UnreadableSlideError, match="does not open"):
        open_decoder(path)
