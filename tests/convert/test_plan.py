"""Which files are converted: the folder's, with µm/px from a CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.convert.plan import find_files
from trident.errors import DiscoveryError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_the_csv_gives_some_files_their_mpp(inputs: Path, options: Callable[..., Any]) -> None:
    _touch(inputs, "b.png", "a.svs", "notes.txt", "deep/c.svs", "deep/d.svs")
    found = find_files(options({"b.png": 0.5, "deep/d.svs": 0.25}))
    assert [(one.rel_path, one.mpp) for one in found] == [("a.svs", None), ("b.png", 0.5), ("deep/d.svs", 0.25)]
    nested = find_files(options({"b.png": 0.5}, search_nested=True))
    assert [one.rel_path for one in nested] == ["a.svs", "b.png", "deep/c.svs", "deep/d.svs"]
    only = find_files(options({"b.png": 0.5}, wsi_ext=(".png",)))
    assert [one.rel_path for one in only] == ["b.png"]


def test_all_files_may_lie_in_folders_that_only_the_csv_names(inputs: Path, options: Callable[..., Any]) -> None:
    _touch(inputs, "deep/d.svs")
    assert [one.rel_path for one in find_files(options({"deep/d.svs": 0.25}))] == ["deep/d.svs"]


@pytest.mark.parametrize(
    ("csv", "says"),
    [
        ("wsi,mpp\na.svs,nan\n", "line 2: mpp 'nan' is not a positive number"),
        ("wsi,mpp\na.svs,NaN\n", "line 2: mpp 'NaN' is not a positive number"),
        ("wsi,mpp\na.svs,-0.25\n", "line 2: mpp '-0.25' is not a positive number"),
        ("wsi,mpp\na.svs,0\n", "mpp '0' is not a positive number"),
        ("wsi,mpp\na.svs,inf\n", "mpp 'inf' is not a positive number"),
        ("wsi,mpp\na.svs,\n", "no row gives a µm/px; fill in the column `mpp`"),
        ("wsi\na.svs\n", "no row gives a µm/px; fill in the column `mpp`"),
        ("wsi,mpp\n../secret.svs,0.25\n", "../secret.svs is not inside the slide folder"),
        ("wsi,mpp\n/etc/passwd,0.25\n", "/etc/passwd is not inside the slide folder"),
        ("wsi,mpp\nb.svs,0.25\n", "b.svs does not exist under"),
        ("wsi,mpp\na.svs,0.25\na.svs,0.5\n", "a.svs is on line 2 already"),
        ("file,mpp\na.svs,0.25\n", "no column `wsi`"),
        ("", "no column `wsi` (it is empty)"),
        ("wsi,mpp\n", "names no slide"),
    ],
)
def test_bad_csv(csv: str, says: str, tmp_path: Path, inputs: Path, options: Callable[..., Any]) -> None:
    _touch(inputs, "a.svs")
    (tmp_path / "list.csv").write_text(csv)
    with pytest.raises(DiscoveryError) as caught:
        find_files(options(mpp_csv=tmp_path / "list.csv"))
    assert says in str(caught.value)
    assert "list.csv" in str(caught.value)
    assert "--custom_list_of_wsis" not in str(caught.value)
    assert "--wsi_dir" not in str(caught.value)


def test_bad_folders(tmp_path: Path, inputs: Path, options: Callable[..., Any]) -> None:
    with pytest.raises(DiscoveryError, match="does not exist; check --input_dir"):
        find_files(options(input_dir=tmp_path / "none"))
    with pytest.raises(DiscoveryError, match="no slide found"):
        find_files(options())
    with pytest.raises(DiscoveryError, match=r"cannot be read .*check --mpp_csv"):
        find_files(options(mpp_csv=tmp_path / "none.csv"))
    _touch(inputs, "a.svs", "a.png")
    with pytest.raises(DiscoveryError, match=r"a\.png"):
        find_files(options())


def test_a_file_of_the_csv_may_clash_with_one_of_the_folder(inputs: Path, options: Callable[..., Any]) -> None:
    _touch(inputs, "a.svs", "deep/a.svs")
    with pytest.raises(DiscoveryError, match=r"a\.svs, deep/a\.svs would all become a\.tiff"):
        find_files(options({"deep/a.svs": 0.25}))
