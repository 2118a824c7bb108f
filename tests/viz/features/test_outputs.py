"""What a picture and its table may replace."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trident.errors import SettingsError
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
