"""Which features are meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trident.errors import SettingsError, StoreError
from trident.export import sources
from trident.export.sources import choose_features, choose_grid

TWO = np.ones((2, 3))


@pytest.fixture
def job(tmp_path: Path, put_features: Callable[..., Path]) -> Path:
    """Two encoders on one grid, one of them on a second grid too."""
    put_features(tmp_path, "slide-a", TWO)
    put_features(tmp_path, "slide-b", TWO)
    put_features(tmp_path, "slide-a", TWO, encoder="timm/resnet18")
    put_features(tmp_path, "slide-b", TWO, grid="10x_128px_0px_overlap")
    (tmp_path / "20x_128px_0px_overlap" / "features_begun").mkdir()
    (tmp_path / "20x_128px_0px_overlap" / "features_begun" / ".a.tmp.h5").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "grid", "encoder", "slides"),
    [
        ({"grid": "10x_128px_0px_overlap"}, "10x_128px_0px_overlap", "enc", ["slide-b"]),
        ({"encoder": "timm/resnet18"}, "20x_128px_0px_overlap", "timm_resnet18", ["slide-a"]),
        ({"encoder": "timm_resnet18"}, "20x_128px_0px_overlap", "timm_resnet18", ["slide-a"]),
        ({"grid": "20x_128px_0px_overlap", "encoder": "enc"}, "20x_128px_0px_overlap", "enc", ["slide-a", "slide-b"]),
    ],
)
def test_the_only_fitting_one_is_chosen(
    job: Path, options: dict[str, Any], grid: str, encoder: str, slides: list[str]
) -> None:
    found = choose_features(job, "patch", **options)
    assert (found.grid, found.encoder, found.slides()) == (grid, encoder, slides)
    assert found.file(slides[0]).is_file()


def test_a_nested_grid_is_found_and_is_not_passed_over_for_a_flat_one(
    tmp_path: Path, put_features: Callable[..., Path]
) -> None:
    from trident.store.atomic import write_json

    put_features(tmp_path, "slide-a", TWO, grid="deep/two words")
    write_json(tmp_path / ".trident/jobs/1.json", {"settings": {"coords_dir": "deep/two words"}, "slides": []})
    assert choose_features(tmp_path, "patch").grid == "deep/two words"
    assert choose_grid(tmp_path, None, "slide-a") == ("deep/two words", "slide-a")
    put_features(tmp_path, "slide-a", TWO, grid="flat")
    features = "--grid flat --patch_encoder enc; --grid 'deep/two words' --patch_encoder enc"
    with pytest.raises(SettingsError, match=f"several patch features; .*: {features}$"):
        choose_features(tmp_path, "patch")
    with pytest.raises(SettingsError, match=r"several grids .*: --grid flat, --grid 'deep/two words'$"):
        choose_grid(tmp_path, None, "slide-a")
    for grid in ("flat", "deep/two words"):
        assert choose_features(tmp_path, "patch", grid=grid).grid == grid


def test_an_absolute_grid(job: Path, tmp_path: Path, put_features: Callable[..., Path]) -> None:
    elsewhere = tmp_path / "else" / "where"
    put_features(tmp_path, "slide-c", TWO, grid=str(elsewhere))
    assert choose_features(job, "patch", grid=str(elsewhere)).slides() == ["slide-c"]


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("patch", {}, SettingsError, "--grid 10x_128px_0px_overlap --patch_encoder enc; --grid 20x_128px_0px_overlap"),
        ("patch", {"encoder": "enc"}, SettingsError, "several patch features"),
        ("patch", {"encoder": "../enc"}, StoreError, "no patch features of ../enc (there: --grid 10x"),
        ("patch", {"grid": "nowhere"}, StoreError, "on grid nowhere"),
        ("slide", {}, StoreError, "no slide features (there: none)"),
    ],
)
def test_what_cannot_be_chosen(
    job: Path, kind: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        choose_features(job, kind, **options)
    assert message in str(caught.value)
    assert "begun" not in str(caught.value)


def test_no_job_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(StoreError, match="no such job directory"):
            choose_features(path, "patch")
        with pytest.raises(StoreError, match="no such job directory"):
            choose_grid(path, None, "a")


@pytest.mark.parametrize("asked", ["slide-a", "slide-a.svs", "/some/where/slide-a.svs", "slide-a.ome.tif"])
def test_a_slide_is_named_by_its_name_or_file(job: Path, asked: str) -> None:
    assert choose_features(job, "patch", encoder="timm/resnet18").slide(asked) == "slide-a"


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("slide-c", "did you mean slide-a"),
        ("entirely else", "without `.h5`"),
        ("", "without `.h5`"),
        ("../features_enc/slide-b", "did you mean"),
    ],
)
def test_no_such_slide(job: Path, asked: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_features(job, "patch", encoder="timm/resnet18").slide(asked)
    assert hint in str(caught.value)


def test_coordinates_that_cannot_be_looked_at_are_told(job: Path, caplog: pytest.LogCaptureFixture) -> None:
    beside = job / "10x_128px_0px_overlap" / "patches"
    if beside.is_dir():
        beside.rename(job / "moved")
    beside.symlink_to(beside)
    assert choose_grid(job, None, "slide-a") == ("20x_128px_0px_overlap", "slide-a")
    (told,) = caplog.messages
    assert told.startswith(f"{beside}/slide-a_patches.h5: left out, because it cannot be looked at (")
    for name in ("n" * 300, "nul\0"):
        with pytest.raises(StoreError, match="no coordinates of a slide"):
            choose_grid(job, None, name)


def test_a_job_directory_that_cannot_be_listed(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(job_dir: Path, newest: str | None) -> list[str]:
        raise PermissionError(13, "Permission denied", str(job_dir))

    monkeypatch.setattr(sources, "find_grids", refusing)
    with pytest.raises(StoreError, match="cannot be listed: Permission denied"):
        choose_features(job, "patch")
    with pytest.raises(StoreError, match="cannot be listed: Permission denied"):
        choose_grid(job, None, "slide-a")


def test_grids_by_coordinates(job: Path) -> None:
    assert choose_grid(job, None, "slide-a") == ("20x_128px_0px_overlap", "slide-a")
    assert choose_grid(job, "10x_128px_0px_overlap", "slide-b") == ("10x_128px_0px_overlap", "slide-b")
    with pytest.raises(SettingsError, match="several grids have slide 'slide-b'"):
        choose_grid(job, None, "slide-b")
    with pytest.raises(StoreError, match="no coordinates of a slide 'c' on any grid"):
        choose_grid(job, None, "c")
