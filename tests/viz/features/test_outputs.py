"""What a picture and its table may replace."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trident.errors import SettingsError, StoreError
from trident.viz.features.outputs import check_output, save_both

Prepare = Callable[[Path], object]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture and its table, written before."""
    save_both(tmp_path / "v.png", Image.new("RGB", (4, 4)), ["x", "ü"], [[1, "a,b"]])
    return tmp_path / "v.png"


def test_the_files(picture: Path) -> None:
    assert picture.with_suffix(".csv").read_text(encoding="utf-8") == 'x,ü\n1,"a,b"\n'
    with Image.open(picture) as image:
        assert (image.format, image.size) == ("PNG", (4, 4))
    first = picture.read_bytes()
    save_both(picture, Image.new("RGB", (4, 4)), ["x", "ü"], [[1, "a,b"]])
    assert picture.read_bytes() == first


def test_of_a_table_that_utf_8_cannot_say(tmp_path: Path) -> None:
    save_both(tmp_path / "v.png", Image.new("RGB", (4, 4)), ["slide"], [["a\udcff"]])
    assert (tmp_path / "v.csv").read_bytes() == b"slide\na\\udcff\n"
    check_output(tmp_path / "v.png", named=True)


class _Full(Image.Image):
    """An image for which the disk has no room."""

    def save(self, *_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill_after_the_table(picture: Path, _monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    return _Full()


def _put_a_folder_at_the_picture(picture: Path, _monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    picture.unlink(missing_ok=True)
    picture.mkdir()
    return Image.new("RGB", (4, 4))


def _fill_before_the_table(picture: Path, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    return Image.new("RGB", (4, 4))


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("prepare", [_fill_after_the_table, _put_a_folder_at_the_picture, _fill_before_the_table])
def test_a_picture_that_cannot_be_written_leaves_no_table(
    prepare: Callable[[Path, pytest.MonkeyPatch], Image.Image],
    was_there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = tmp_path / "v.png"
    if was_there:
        save_both(picture, Image.new("RGB", (4, 4)), ["x"], [[1]])
    image = prepare(picture, monkeypatch)
    before = {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreError, match=r"cannot be written: .*\(neither v\.png nor its table was written\)$"):
        save_both(picture, image, ["x"], [[2]])
    assert {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_that_cannot_be_written_is_told_with_what_was(tmp_path: Path) -> None:
    (tmp_path / "v.csv").mkdir()
    says = r"v\.csv: cannot be written: .*move it away \(v\.png was written, its table was not\)$"
    with pytest.raises(StoreError, match=says):
        save_both(tmp_path / "v.png", Image.new("RGB", (4, 4)), ["x"], [[1]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.csv", "v.png"]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda picture: None,
        lambda picture: [one.unlink() for one in (picture, picture.with_suffix(".csv"))],
        lambda picture: picture.with_suffix(".csv").unlink(),
        lambda picture: [Image.new("L", (9, 9)).save(picture), picture.with_suffix(".csv").unlink()],
    ],
    ids=["written before", "nothing there", "only the picture", "a photo"],
)
def test_what_may_be_replaced(prepare: Prepare, picture: Path) -> None:
    prepare(picture)
    check_output(picture, named=True)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda picture: picture.with_suffix(".csv").write_text("notes"),
        lambda picture: picture.unlink(),
        lambda picture: Image.new("L", (9, 9)).save(picture),
        lambda picture: picture.write_bytes(picture.read_bytes()[:20]),
        lambda picture: [picture.with_suffix(".csv").unlink(), picture.with_suffix(".csv").mkdir()],
        lambda picture: [picture.with_suffix(".csv").unlink(), picture.with_suffix(".csv").symlink_to("gone")],
        lambda picture: [
            picture.with_suffix(".csv").rename(picture.with_suffix(".txt")),
            picture.with_suffix(".csv").symlink_to(picture.with_suffix(".txt")),
        ],
    ],
    ids=["edited", "no picture", "a photo", "a damaged picture", "a folder", "a dangling link", "a link"],
)
def test_a_table_of_somebody_else_stays(prepare: Prepare, picture: Path) -> None:
    prepare(picture)
    with pytest.raises(SettingsError, match=r"v\.csv: no table that belongs to v\.png"):
        check_output(picture, named=True)
    check_output(picture, named=False)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("where", ["v.csv", "v.png", "link.csv", "hard.csv"])
def test_what_is_read_is_never_replaced(where: str, named: bool, picture: Path) -> None:
    source = picture.with_name(where)
    if where == "link.csv":
        source.symlink_to("v.csv")
    elif where == "hard.csv":
        os.link(picture.with_suffix(".csv"), source)
    with pytest.raises(SettingsError, match="this file holds the --scores"):
        check_output(picture, named=named, source=source)
