"""Files of a job directory, and files that users give, as somebody hostile might have left them."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trident.encoders import weights
from trident.encoders.checkpoint import load_checkpoint
from trident.encoders.patch.registry import spec
from trident.errors import DiscoveryError, StoreError, TridentError, WeightsError
from trident.job import load_job
from trident.settings import load_settings
from trident.slides.slide_list import listed_slides
from trident.store import geojson, h5, h5_read
from trident.store.dead_locks import clear_dead_locks
from trident.store.layout import JobLayout
from trident.store.lock_holder import read_lock
from trident.store.recipes import Recipe
from trident.store.states import SlideInfo, SlideStateFile, read_states, state_path

DEEP = "[" * 100_000
LONG_NUMBER = "9" * 5000
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


def one_line(error: pytest.ExceptionInfo[TridentError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# HDF5


def with_link(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["coords"] = np.zeros((3, 2), np.int64)
    file["coords"] = h5py.ExternalLink("other.h5", "coords")


def with_raw_data_elsewhere(file: h5py.File) -> None:
    other = Path(file.filename).with_name("secret")
    other.write_bytes(b"\0" * 1600)
    file.create_dataset("coords", shape=(100, 2), dtype="i8", external=[(str(other), 0, 1600)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3, 2), dtype="i8")
    layout[:] = h5py.VirtualSource("other.h5", "coords", shape=(3, 2))
    file.create_virtual_dataset("coords", layout)


def in_a_loop(file: h5py.File) -> None:
    file["coords"] = h5py.SoftLink("/a")
    file["a"] = h5py.SoftLink("/coords")


def claiming(**chunks: object) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset("coords", shape=(10**12, 2), dtype="i8", **chunks)


def holding(values: object) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("coords", values)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (claiming(chunks=(1024, 2)), "claim 16000000000000 bytes"),
        (claiming(chunks=(1 << 20, 2), compression="gzip"), "claim 16000000000000 bytes"),
        (with_link, "lie in another file"),
        (with_raw_data_elsewhere, "lie in another file"),
        (virtual, "lie in another file"),
        (in_a_loop, "damaged"),
        (lambda file: file.create_group("coords"), "no dataset 'coords'"),
        (holding(5), r"shape \(N, 2\)"),
        (holding(h5py.Empty("i8")), r"shape \(N, 2\)"),
        (holding(np.full((3, 2), np.nan)), "not two whole numbers"),
        (holding(np.full((3, 2), np.inf)), "not two whole numbers"),
        (holding(np.full((3, 2), 0.5)), "not two whole numbers"),
        (holding(np.full((3, 2), 2**64 - 1, np.uint64)), "larger than any slide"),
        (holding(np.full((3, 2), -(2**62))), "larger than any slide"),
        (holding(np.zeros((3, 2), np.complex128)), "whole numbers"),
        (holding(np.zeros((3, 2), [("x", "i8")])), "whole numbers"),
        (holding(np.array([[b"1", b"2"]])), "whole numbers"),
        (lambda file: file.create_dataset("coords", shape=(3, 2), dtype=h5py.vlen_dtype("i8")), "whole numbers"),
        (lambda file: file.create_dataset("coords", shape=(3, 2), dtype=h5py.ref_dtype), "whole numbers"),
    ],
)
def test_hostile_coordinates(tmp_path: Path, make: Callable[[h5py.File], None], words: str) -> None:
    path = tmp_path / "a_patches.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(StoreError, match=words) as error:
        h5_read.read_coords(path)
    one_line(error, path)


@pytest.mark.parametrize("text", ["[" * 60_000, "5", '{"recipe_version": 99}', b"\xff\xfe", LONG_NUMBER])
def test_hostile_recipes(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "a_patches.h5"
    with h5py.File(path, "w") as file:
        file.attrs["trident_recipe"] = text
    with pytest.raises(StoreError, match="recipe in this file cannot be used") as error:
        h5_read.read_recipe(path)
    one_line(error, path)


def test_damaged_hdf5_is_read_or_refused(tmp_path: Path) -> None:
    """In children: where HDF5 itself crashes, this says for which damage."""
    sound, damaged = tmp_path / "sound.h5", tmp_path / "damaged.h5"
    coords = np.arange(2000, dtype=np.int64).reshape(-1, 2)
    recipe = Recipe("coords", {}, {}, {})
    h5.write_coords(sound, coords, {"patch_size": 256, "name": "a"}, recipe)
    data = sound.read_bytes()
    ends = {"read": 0, "refused": 0}
    for seed in range(250):
        random, mutant = Random(seed), bytearray(data)
        for _ in range(random.choice((1, 4, 32))):
            mutant[random.randrange(random.choice((len(mutant), 3000)))] ^= 1 << random.randrange(8)
        damaged.write_bytes(mutant[: random.randrange(1, len(mutant))] if seed % 5 == 0 else mutant)
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            try:
                h5_read.read_coords(damaged)
                h5_read.read_header(damaged)
                os._exit(0)
            except StoreError as error:
                os._exit(1 if "\n" not in str(error) else 2)
            except BaseException:  # noqa: BLE001 - whatever it is, the exit code tells
                os._exit(3)
        _, status = os.waitpid(child, 0)
        assert status in (0, 1 << 8), f"seed {seed}: status {status}"
        ends["refused" if status else "read"] += 1
    assert min(ends.values()) > 20


# GeoJSON


def polygon(*rings: object) -> str:
    return json.dumps({"type": "Polygon", "coordinates": rings})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEEP, "recursion"),
        (DEEP + "]" * 100_000, "recursion"),
        ('{"type":"GeometryCollection","geometries":[' * 20 + "]}" * 20, "nested too deeply"),
        ('{"type":"Polygon","coordinates":[[[NaN,0],[1,1],[2,0]]]}', "not a coordinate"),
        ('{"type":"Polygon","coordinates":[[[1e999,0],[1,1],[2,0]]]}', "not a pixel"),
        (polygon([["?", 0], [1, 1], [2, 0]]).replace('"?"', LONG_NUMBER), "not GeoJSON"),
        (polygon([[1e9, 0], [0, 1], [1, 1]]), "not a pixel"),
        (polygon([["0", "0"], ["1", "1"], ["2", "0"]]), "a coordinate is a number"),
        (polygon([[True, 0], [1, 1], [2, 0]]), "a coordinate is a number"),
        (polygon([[0], [1], [2]]), "a point is"),
        (polygon([[0, 0], [1, 1]]), "only 2 different points"),
        ('{"type":{}}', "is not one of GeoJSON's"),
        ('{"type":"a\\nb"}', "is not one of GeoJSON's"),
        ('{"type":"FeatureCollection","features":{}}', "must be a list"),
        ("<html>", "not GeoJSON"),
        ("", "is empty"),
        ("null", "a Feature or geometry is due"),
        (polygon([[(i * 7919) % 10007, (i * 104729) % 10009] for i in range(3000)]), "crosses itself about"),
    ],
)
def test_hostile_outlines(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(StoreError, match=words) as error:
        geojson.read_tissue(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("rings", "area"),
    [
        ([[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]], 50),  # a bow tie
        ([SQUARE, [[20, 20], [80, 20], [80, 80], [20, 80], [20, 20]]], 6400),
        ([[[0, 0], [100, 0], [150, 0], [100, 0], [100, 100], [0, 100], [0, 0]]], 10_000),  # a spike
        ([[[0, 0], [100, 0], [100, 100], [50, 100], [50, 150], [50, 100], [0, 100]]], 10_000),
    ],
)
def test_crossing_outlines_are_made_valid(tmp_path: Path, rings: object, area: float) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(polygon(*rings))  # type: ignore[misc]
    found = geojson.read_tissue(path)
    assert all(part.is_valid for part in found)
    assert sum(part.area for part in found) == pytest.approx(area)


def test_a_long_outline_that_crosses_itself_once_is_kept(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    ring = (6000 + 5000 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).tolist()
    ring[100], ring[101] = ring[101], ring[100]
    path = tmp_path / "a.geojson"
    path.write_text(polygon(ring))
    assert sum(part.area for part in geojson.read_tissue(path)) == pytest.approx(np.pi * 5000**2, rel=1e-3)


def test_the_recipe_of_a_hostile_outline_file(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "trident_recipe": ' + "[" * 50_000 + ', "features": [\n]}')
    with pytest.raises(StoreError, match="not GeoJSON"):
        geojson.read_recipe(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["type", "coordinates", "features", "geometry", "geometries", "schema_version", "tasks", "attempts", "slide",
         "settings", "slides", "pid", "hostname", "created_at", "patch", "uni_v1"]) | st.text(max_size=4), inner),
    max_leaves=12,
)  # fmt: skip
GENERATED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@GENERATED
@given(value=JSON | st.builds(lambda kind, inner: {"type": kind, "coordinates": inner, "features": inner},
                              st.sampled_from(["Polygon", "MultiPolygon", "FeatureCollection"]), JSON))  # fmt: skip
def test_any_json_as_outlines_and_locks(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(value))
    try:
        assert all(part.is_valid for part in geojson.read_tissue(path))
    except StoreError as error:
        assert "\n" not in str(error)
    holder = read_lock(path)
    assert holder is not None and "\n" not in holder.describe()


# Locks, states, job files


HOST = json.dumps(os.uname().nodename)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        DEEP.encode(),
        b'{"pid": 0, "hostname": "h"}',
        b'{"pid": -1, "hostname": %s}' % HOST.encode(),
        b'{"pid": %s, "hostname": %s}' % (b"9" * 30, HOST.encode()),
        b'{"pid": %s, "hostname": "h"}' % LONG_NUMBER.encode(),
        b'{"pid": 1.5, "hostname": "h"}',
        b'{"pid": 9, "hostname": "a\\nb", "created_at": "x\\u001b[31m\\ny"}',
        b'{"pid": 9, "hostname": "h", "created_at": "0001-01-01T00:00:00+23:59"}',
        b'{"pid": 9, "hostname": "h", "created_at": "9999-12-31T23:59:59-23:59"}',
        b'{"pid": 1, "hostname": %s, "started_ticks": %s}' % (HOST.encode(), b"9" * 50),
        b'{"pid": 9, "hostname": "\\ud800"}',
        b" " * (1 << 20) + b"{}",
    ],
)
def test_hostile_locks_are_described_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5.lock"
    path.write_bytes(content)
    holder = read_lock(path)
    assert holder is not None
    assert "\n" not in holder.describe() and len(holder.describe()) <= 200


def test_a_lock_removes_nothing_but_itself(tmp_path: Path) -> None:
    """Whatever output it names, and wherever a link of its name leads."""
    outside = tmp_path / "outside.h5"
    outside.write_bytes(b"precious")
    job = tmp_path / "job"
    job.mkdir()
    (job / "a.h5.lock").write_text('{"pid": 999999999, "hostname": "elsewhere", "output": "../outside.h5"}')
    (job / "b.h5.lock").symlink_to(outside)
    asked: list[Path] = []
    os.utime(job / "a.h5.lock", (0, 0))

    def is_valid(path: Path) -> bool:
        asked.append(path)
        return True

    removed = clear_dead_locks(job, 1.0, is_valid)
    assert [path.name for path, _ in removed] == ["a.h5.lock"]
    assert all(path.parent == job for path in asked)
    assert outside.read_bytes() == b"precious"
    assert (job / "b.h5.lock").is_symlink()


def state_text(**changes: object) -> str:
    empty: dict[str, object] = {"slide": {}, "meta": {}, "tasks": {}, "summary": {}, "resume": {}}
    return json.dumps({"schema_version": 2, **empty, **changes})


@pytest.mark.parametrize(
    "content",
    [
        "",
        DEEP,
        "[]",
        state_text(schema_version="2"),
        state_text(tasks=[]),
        state_text(tasks={"coords": "x"}),
        state_text(tasks={"coords": {"attempts": "abc"}}),
        state_text(tasks={"coords": {"attempts": [{"attempt_id": {}}]}}),
        state_text(summary={"a": float("nan")}),
        state_text(summary={"a": 5}).replace("5", "1e999"),
        state_text(summary={"a": 5}).replace("5", LONG_NUMBER),
    ],
)
def test_a_hostile_state_file_is_put_aside(tmp_path: Path, content: str) -> None:
    layout, slide = JobLayout(tmp_path, "grid"), SlideInfo.of(Path("/wsis/a.svs"), "a")
    path = state_path(layout, slide)
    path.parent.mkdir()
    path.write_text(content)
    assert list(read_states(layout)) == []
    states = SlideStateFile.load_or_new(layout, slide)
    states.finish("coords", "completed", attempt_id=states.begin("coords"))
    assert states.read()["tasks"]["coords"]["status"] == "completed"
    assert path.with_name(path.name + ".damaged").read_text() == content


def job_text(**changes: object) -> str:
    return json.dumps({"settings": {"job_dir": "/tmp/x"}, "slides": [], "kinds": [], "nonce": "", **changes})


@pytest.mark.parametrize(
    "content",
    [
        "",
        DEEP,
        "[]",
        "5",
        '"x"',
        job_text(settings=[]),
        job_text(settings={"job_dir": "/tmp/x", "unknown": 1}),
        job_text(settings={"job_dir": "/tmp/x", "mag": "nan"}),
        job_text(slides=5),
        job_text(slides=["a"]),
        job_text(slides=[{"path": 5}]),
        job_text(slides=[{"path": "/a", "more": 1}]),
        job_text(kinds=5),
    ],
)
def test_hostile_job_files(tmp_path: Path, clean_settings: Path, content: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    with pytest.raises(StoreError, match="not a readable job file") as error:
        load_job(path)
    one_line(error, path)


# What users give


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
def test_hostile_checkpoints(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
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
def test_hostile_registries_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
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
def test_hostile_lists_of_slides(tmp_path: Path, row: str, words: str) -> None:
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
