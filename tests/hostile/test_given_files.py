"""Checkpoints, registries of weights, settings and lists of slides as somebody hostile might give them."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trident.encoders import weights
from trident.encoders.checkpoint import load_checkpoint
from trident.encoders.patch.registry import spec
from trident.errors import DiscoveryError, TridentError, WeightsError
from trident.settings import load_settings
from trident.slides.slide_list import listed_slides

OneLine = Callable[[pytest.ExceptionInfo[TridentError], Path], str]

DEEP = "[" * 100_000
LONG_NUMBER = "9" * 5000
GENERATED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def torch_zip(path: Path, old: bytes, new: bytes) -> None:
    """A checkpoint of four numbers in torch's format, its pickle changed."""
    import torch

    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            assert not name.endswith("data.pkl") or old in data
            archive.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)


def tar_that_climbs(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            member = tarfile.TarInfo(f"../../climbed-{name}")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"abcd"))


def safetensors(path: Path, header: bytes, claimed: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if claimed is None else claimed) + header)


HUGE = b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}'


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pt", lambda path: torch_zip(path, b"K\x04", b"\x8a\x05\x00\x00\x00\x00\x40")),  # 2**38 numbers
        ("a.pt", lambda path: torch_zip(path, b"FloatStorage", b"GhostStorage")),
        ("a.pt", tar_that_climbs),
        ("a.safetensors", lambda path: safetensors(path, HUGE)),
        ("a.safetensors", lambda path: safetensors(path, b"{}", 1 << 60)),
        ("a.safetensors", lambda path: safetensors(path, b"[" * 50_000)),
    ],
)
def test_hostile_checkpoints(tmp_path: Path, name: str, write: Callable[[Path], None], one_line: OneLine) -> None:
    path = tmp_path / "in" / "side" / name
    path.parent.mkdir(parents=True)
    write(path)
    with pytest.raises(WeightsError) as error:
        load_checkpoint(path)
    one_line(error, path)
    assert not list(tmp_path.glob("**/climbed*"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        DEEP,
        "[]",
        '{"evil": {}}',
        '{"patch": []}',
        '{"patch": {"uni_v1": 5}}',
        '{"patch": {"uni_v1": "a\\u0000b.pt"}}',
        '{"patch": {"uni_v1": "\\ud800.pt"}}',
        '{"patch": {"uni_v1": "~nobody-of-that-name/x.pt"}}',
        '{"patch": {"uni_v1": "%s.pt"}}' % ("a" * 5000),
        '{"patch": {"uni_v1": "/etc/passwd"}}',
        '{"patch": {"uni_v1": "/dev/zero"}}',
        '{"patch": {"uni_v1": ?}}'.replace("?", LONG_NUMBER),
    ],
)
def test_hostile_registries_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, one_line: OneLine
) -> None:
    path = tmp_path / "local_ckpts.json"
    path.write_text(content)
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", str(path))
    with pytest.raises(WeightsError) as error:
        weights.locate(spec("uni_v1"))
    one_line(error, path)


@pytest.mark.parametrize(
    "content",
    [
        b"x = 1",
        b"[trident]\nsegmenter = \xff",
        b"[trident]\nmag = 20\nmag = 10",
        b"[trident]\nmag = nan",
        b"[trident]\nmag = 1e400",
        b"[trident]\npatch_size = -5",
        b"[trident]\npatch_size = " + LONG_NUMBER.encode(),
        b"[trident]\n__class__ = 1",
        b"[trident]\nsegmenter = otsu; rm -rf /",
        b"[DEFAULT]\nsegmenter = zzz\n[trident]\n",
    ],
)
def test_hostile_luigi_cfg(
    tmp_path: Path, clean_settings: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = tmp_path / "luigi.cfg"
    path.write_bytes(content)
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(path))
    with pytest.raises(TridentError) as error:
        load_settings(job_dir="/tmp/j")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("../outside.svs,", "not inside the slide folder"),
        ("sub/../../outside.svs,", "not inside the slide folder"),
        ("/etc/passwd,", "not inside the slide folder"),
        (".,", "not inside the slide folder"),
        ("a.svs\0b,", "does not exist|line contains NUL"),
        ("%s.svs," % ("x" * 5000), "does not exist"),
        ("a.svs,nan", "not a positive number"),
        ("a.svs,-0.25", "not a positive number"),
        ("a.svs,inf", "not a positive number"),
        ("a.svs,1e400", "not a positive number"),
        ("a.svs,0", "not a positive number"),
        ("a.svs,0x1p3", "not a positive number"),
        ('"a.svs\nb",', "does not exist"),
        ('"%s"' % ("x" * 200_000), "field larger than field limit|does not exist"),
    ],
)
def test_hostile_lists_of_slides(tmp_path: Path, row: str, words: str, one_line: OneLine) -> None:
    root = tmp_path / "wsis"
    root.mkdir()
    (root / "a.svs").touch()
    (tmp_path / "outside.svs").touch()
    path = tmp_path / "list.csv"
    path.write_text(f"wsi,mpp\n{row}\n")
    with pytest.raises(DiscoveryError, match=words) as error:
        listed_slides(path, root, None)
    one_line(error, path)


@GENERATED
@given(text=st.text(max_size=60), mpp=st.floats() | st.text(max_size=6))
def test_any_row_names_a_slide_of_the_folder_or_is_refused(tmp_path: Path, text: str, mpp: object) -> None:
    root = tmp_path / "wsis"
    root.mkdir(exist_ok=True)
    (root / "a.svs").touch()
    path = tmp_path / "list.csv"
    path.write_text(f"wsi,mpp\n{text},{mpp}\n", encoding="utf-8", errors="surrogateescape")
    try:
        rows = listed_slides(path, root, None)
    except DiscoveryError as error:
        assert len(str(error)) < 100_000
        return
    for row in rows:
        assert root in row.path.parents
        assert row.mpp is None or 0 < row.mpp < float("inf")
