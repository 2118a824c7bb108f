"""Options of a conversion: how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trident.convert.options import load_options
from trident.errors import NotAvailableError, SettingsError


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input_dir": None}, "--input_dir None: "),
        ({"job_dir": "{in}"}, "lies where --input_dir is searched"),
        ({"job_dir": "{in}/tiffs", "search_nested": True}, "lies where --input_dir is searched"),
        ({"downscale_by": 0}, "--downscale_by 0: "),
        ({"downscale_by": "1.5"}, "--downscale_by 1.5: "),
        ({"quality": 101}, "--quality 101: "),
        ({"quality": "high"}, "--quality high: "),
        ({"num_workers": 0}, "--num_workers 0: "),
        ({"qualty": 80}, "--qualty 80: extra inputs are not permitted"),
    ],
)
def test_refused(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")
    values = {"input_dir": tmp_path, "job_dir": tmp_path.parent / "elsewhere", **given}
    if isinstance(values["job_dir"], str):
        values["job_dir"] = values["job_dir"].replace("{in}", str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        load_options(**values)
    assert says in str(caught.value)


def test_both_directories_are_required() -> None:
    with pytest.raises(SettingsError, match="--input_dir is required; --job_dir is required"):
        load_options()


def test_texts_of_a_command_line_are_understood(tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")
    options = load_options(
        input_dir=str(tmp_path), job_dir="out", quality="70", bigtiff="true", wsi_ext=".png,.jpg", downscale_by="2"
    )
    assert (options.quality, options.bigtiff, options.downscale_by) == (70, True, 2)
    assert options.wsi_ext == (".png", ".jpg")
    assert options.job_dir == Path.cwd() / "out"


def test_paths_have_no_dots(tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="libvips is not installed: pip install -e '.[convert]'")
    options = load_options(input_dir=tmp_path / "x" / ".." / "in", job_dir=tmp_path / "x" / ".." / "out")
    assert (options.input_dir, options.job_dir) == (tmp_path / "in", tmp_path / "out")


def test_without_libvips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotAvailableError, match=r"pip install 'trident-luigi\[convert\]'"):
        load_options(input_dir=tmp_path, job_dir=tmp_path / "out")
