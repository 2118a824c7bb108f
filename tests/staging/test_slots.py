"""What a slot says about itself, whatever stands in its record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trident.staging.files import SourceFile
from trident.staging.slots import Slot, SlotRecord, all_slots, is_fresh

RECORD = SlotRecord("ab12", "/slow/a.svs", "a.svs", True, 3, (SourceFile("a.svs", 3, 17),))


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path, 3)


def filled(slot: Slot, record: SlotRecord = RECORD) -> Slot:
    slot.announce(SlotRecord(record.key, record.source, record.name, complete=False))
    slot.incoming.mkdir()
    (slot.incoming / "a.svs").write_bytes(b"abc")
    slot.complete(record)
    return slot


def test_an_empty_slot(slot: Slot) -> None:
    assert slot.read() is None
    slot.clear()  # nothing to remove


def test_a_record_goes_round(slot: Slot) -> None:
    odd = SlotRecord("ab12", "/slow/" + os.fsdecode(b"\xff\n.svs"), os.fsdecode(b"\xff\n.svs"), True, 3)
    for record in (RECORD, odd):
        assert filled(slot, record).read() == record
        slot.clear()
        assert not slot.folder.exists()


def test_half_a_copy_is_not_complete(slot: Slot) -> None:
    slot.announce(SlotRecord("ab12", "/slow/a.svs", "a.svs", complete=False))
    found = slot.read()
    assert found is not None
    assert not found.complete


GOOD = json.loads(json.dumps(RECORD.__dict__, default=lambda value: value.__dict__))
DAMAGED = {
    "empty": b"",
    "cut off": json.dumps(GOOD).encode()[:-5],
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "null": b"null",
    "without a key": json.dumps({key: value for key, value in GOOD.items() if key != "key"}).encode(),
    "another field": json.dumps({**GOOD, "more": 1}).encode(),
    "a path as name": json.dumps({**GOOD, "name": "../../a.svs"}).encode(),
    "a number as name": json.dumps({**GOOD, "name": 3}).encode(),
    "no name": json.dumps({**GOOD, "name": ".."}).encode(),
    "witnesses of another kind": json.dumps({**GOOD, "witnesses": [1]}).encode(),
    "a witness without a name": json.dumps(
        {**GOOD, "witnesses": [{**GOOD["witnesses"][0], "rel_path": None}]}
    ).encode(),
    "a witness of no size": json.dumps({**GOOD, "witnesses": [{**GOOD["witnesses"][0], "size_bytes": "3"}]}).encode(),
    "complete is a word": json.dumps({**GOOD, "complete": "yes"}).encode(),
    "too large": json.dumps({**GOOD, "source": "x" * (1 << 20)}).encode(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_means_empty(slot: Slot, content: bytes) -> None:
    filled(slot)
    (slot.folder / "slot.json").write_bytes(content)
    assert slot.read() is None


def test_a_damaged_copy_is_noticed(slot: Slot) -> None:
    assert filled(slot).holds(RECORD)
    (slot.slide_dir / "a.svs").write_bytes(b"ab")
    assert not slot.holds(RECORD)
    (slot.slide_dir / "a.svs").unlink()
    assert not slot.holds(RECORD)


def test_clearing_stays_inside(slot: Slot, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("x")
    filled(slot)
    (slot.folder / "link").symlink_to(outside)
    (slot.folder / "file").touch()
    slot.clear_content()
    assert slot.read() == RECORD
    assert [path.name for path in slot.folder.iterdir()] == ["slot.json"]
    (slot.folder / "link").symlink_to(outside)
    slot.clear()
    assert (outside / "mine").read_text() == "x"


def test_listing(tmp_path: Path) -> None:
    for name in ("0000", "0007", "0001.lock", "notes", "12"):
        (tmp_path / name).mkdir()
    (tmp_path / "0002").symlink_to(tmp_path)  # somebody else's idea: what it leads to is not ours
    assert [slot.index for slot in all_slots(tmp_path, 0)] == [0, 7]
    assert [slot.index for slot in all_slots(tmp_path, 4)] == [0, 1, 3, 7]
    assert len(all_slots(tmp_path, 10**9)) < 20


def test_freshness(tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"abc")
    status = slide.stat()
    record = SlotRecord("k", str(slide), "a.svs", True, 3, (SourceFile("a.svs", 3, status.st_mtime_ns),))
    assert is_fresh(record)
    slide.write_bytes(b"abcd")
    assert not is_fresh(record)
    slide.unlink()
    with pytest.raises(FileNotFoundError):
        is_fresh(record)
