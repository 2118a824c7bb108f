"""Only a folder of our own making is used, and it is nobody else's business."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trident.errors import SettingsError
from trident.slides.discovery import find_slides
from trident.staging.folder import MARK, cache_root, prepare_root


def test_a_missing_folder_is_made_and_found_again(tmp_path: Path) -> None:
    root = prepare_root(tmp_path / "a" / "b")
    assert root == cache_root(tmp_path / "a" / "b")
    assert (root / MARK).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    (root / "slots" / "0000").mkdir()
    assert prepare_root(tmp_path / "a" / "b") == root
    assert (root / "slots" / "0000").is_dir()


def test_nobody_else_may_look_inside(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        root = prepare_root(tmp_path)
    finally:
        os.umask(before)
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    root.chmod(0o755)
    prepare_root(tmp_path)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_slides_in_the_cache_are_not_discovered(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    root = prepare_root(tmp_path / "cache")
    (root / "slots" / "0000").mkdir()
    (root / "slots" / "0000" / "b.svs").write_bytes(b"x")
    assert [slide.name for slide in find_slides(tmp_path, search_nested=True)] == ["a"]


def killed_before_the_mark(root: Path) -> None:
    root.mkdir()


def killed_within_the_mark(root: Path) -> None:
    root.mkdir()
    (root / MARK).touch()


@pytest.mark.parametrize("leave", [killed_before_the_mark, killed_within_the_mark])
def test_a_folder_that_was_being_made(tmp_path: Path, leave: object) -> None:
    leave(cache_root(tmp_path))  # type: ignore[operator]
    assert (prepare_root(tmp_path) / MARK).stat().st_size > 0


def foreign_folder(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").write_text("mine")


def a_file(root: Path) -> None:
    root.write_text("mine")


def a_link(root: Path) -> None:
    (root.parent / "target").mkdir()
    (root.parent / "target" / "thesis.tex").write_text("mine")
    root.symlink_to(root.parent / "target")


def state_of(folder: Path) -> dict[Path, tuple[int, int, int, int]]:
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (s.st_mode, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for path, s in found.items()}


@pytest.mark.parametrize("put", [foreign_folder, a_file, a_link])
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path: Path, put: object) -> None:
    root = cache_root(tmp_path)
    put(root)  # type: ignore[operator]
    before = state_of(tmp_path)
    with pytest.raises(SettingsError, match=r"--wsi_cache: .*move it away or name another folder"):
        prepare_root(tmp_path)
    assert state_of(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    cache_root(tmp_path).mkdir()
    os.chown(cache_root(tmp_path), 12345, -1)
    with pytest.raises(SettingsError, match="not a folder of this user's"):
        prepare_root(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match=r"--wsi_cache .*file.*: it cannot be used \(.*\); name a folder"):
            prepare_root(folder)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user reaches (pytest's own are closed) and nobody but root may write to."""
    with tempfile.TemporaryDirectory(prefix="trident-test-") as name:
        Path(name).chmod(0o555)
        yield Path(name)


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root may write everywhere: it becomes nobody for a moment."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_folder_that_may_not_be_written(public_folder: Path, not_root: None) -> None:
    for folder in (public_folder, public_folder / "below"):
        with pytest.raises(SettingsError) as caught:
            prepare_root(folder)
        assert str(caught.value).startswith(
            f"--wsi_cache {folder}: it cannot be used (Permission denied); name a folder"
        )
    assert list(public_folder.iterdir()) == []
