"""Whether a container that is given these folders finds at each path what this host finds there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trident.executors.container_paths import Given, given_file, given_folders


def _lookup(path: Path, given: list[Given], links: int = 0) -> Path | None:
    """Where on this host a container ends that looks up a path, step by step; None: there is nothing."""
    here = Path("/")
    names = list(path.parts[1:])
    while names:
        name = names.pop(0)
        here = here.parent if name == ".." else here / name
        over = [one for one in given if one.path == here or one.path in here.parents]
        if not over:
            if not any(here in one.path.parents for one in given):
                return None
            continue
        deepest = max(over, key=lambda one: len(one.path.parts))
        on_host = deepest.source / here.relative_to(deepest.path)
        if deepest.path != here and on_host.is_symlink():
            target = on_host.readlink()
            return None if links > 50 else _lookup((here.parent / target).joinpath(*names), given, links + 1)
        if not names:
            return Path(os.path.realpath(on_host)) if on_host.exists() else None
    return None


def _made(tmp_path: Path, files: tuple[str, ...], links: dict[str, str]) -> None:
    for name in (*files, *links):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for name in files:
        (tmp_path / name).write_text(name)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target.replace("$TMP", str(tmp_path)))


@pytest.mark.parametrize(
    ("root", "known", "slides", "files", "links", "expected"),
    [
        ("wsis", [], ("a", "sub/b"), ("wsis/a", "wsis/sub/b"), {}, {"wsis": "wsis"}),
        ("el/link", [], ("a",), ("real/wsis/a",), {"el/link": "../real/wsis"}, {"el/link": "real/wsis"}),
        (
            *("el/link", [], ("b",), ("real/archive/b",)),
            {"el/link": "../real/wsis", "real/wsis/b": "../archive/b"},
            {"el/link": "real/wsis", "el/archive": "real/archive"},
        ),
        (
            *("el/wsis", [], ("b",), ("real/archive/b",)),
            {"el": "real", "real/wsis/b": "../archive/b"},
            {"el/wsis": "real/wsis", "el/archive": "real/archive"},
        ),
        (
            *("el/link", [], ("a", "b"), ("far/b", "real/wsis/a")),
            {"el/link": "$TMP/real/wsis", "real/wsis/b": "$TMP/short/b", "short": "far"},
            {"el/link": "real/wsis", "short": "far"},
        ),
        (
            *("wsis", [], ("c", "sub/c"), ("far/deep/c",)),
            {"wsis/c": "sub/c", "wsis/sub": "../far/deep"},
            {"wsis": "wsis", "far/deep": "far/deep"},
        ),
        (
            *("wsis", [], ("c",), ("store/c",)),
            {"wsis/c": "../middle/c", "middle/c": "next/c", "middle/next": "../store"},
            {"wsis": "wsis", "middle": "middle", "store": "store"},
        ),
        (
            *("wsis", [], ("up/b",), ("top/x/b",)),
            {"wsis/up": "../top", "top/b": "x/b"},
            {"wsis": "wsis", "top": "top", "top/x": "top/x"},
        ),
        ("wsis/in", [], ("up/b",), ("wsis/b",), {"wsis/in/up": ".."}, {"wsis/in": "wsis/in", "wsis": "wsis"}),
        ("wsis", [], ("up/b",), ("wsis/b",), {"wsis/up": "."}, {"wsis": "wsis"}),
        (
            *("wsis", [], ("b", "c", "d"), ("wsis/a",)),
            {"wsis/b": "nothing/b", "wsis/c": "c", "wsis/d": "../nothing/d"},
            {"wsis": "wsis"},
        ),
        (
            *("job/wsis", ["job"], ("a", "b"), ("far/wsis/a", "far/archive/b", "job/out")),
            {"job/wsis": "../far/wsis", "far/wsis/b": "../archive/b"},
            {"far/wsis": "far/wsis", "far/archive": "far/archive"},
        ),
        ("job/wsis", ["job"], ("a",), ("job/wsis/a",), {}, {"job/wsis": "job/wsis"}),
    ],
    ids=[
        *("plain", "root is a link", "relative link in a linked root", "a folder above the root is a link"),
        *(
            "over another link outside",
            "a link over a link inside",
            "three links",
            "folder and file",
            "upwards",
            "itself",
        ),
        *("leads to nothing", "linked root in a folder that is given", "plain root in a folder that is given"),
    ],
)
def test_a_container_finds_what_this_host_finds(
    root: str,
    known: list[str],
    slides: tuple[str, ...],
    files: tuple[str, ...],
    links: dict[str, str],
    expected: dict[str, str],
    tmp_path: Path,
) -> None:
    _made(tmp_path, files, links)
    top, base = tmp_path / root, Path(os.path.realpath(tmp_path))
    given = list(given_folders(top, [Path(slide).parts for slide in slides], [tmp_path / name for name in known]))
    found = {str(one.path.relative_to(tmp_path)): str(one.source.resolve().relative_to(base)) for one in given}
    assert found == expected
    given += [Given(tmp_path / name, tmp_path / name) for name in known]
    for slide in slides:
        here = Path(os.path.realpath(top / slide)) if (top / slide).exists() else None
        assert _lookup(top / slide, given) == here, slide


def test_each_folder_is_told_for_each_way_and_none_twice_in_one(tmp_path: Path) -> None:
    _made(tmp_path, ("far/a", "far/b"), {"wsis/a": "../far/a", "wsis/b": "../far/b"})
    found = [str(one.path.relative_to(tmp_path)) for one in given_folders(tmp_path / "wsis", [("a",), ("b",)])]
    assert found == ["wsis", "far", "far"]


def test_the_top_folder_is_told() -> None:
    assert list(given_folders(Path("/"), [])) == [Given(Path("/"), Path("/"))]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    _made(tmp_path, (), {"wsis/a": "../other/a", "other/a": "../wsis/a"})
    assert {one.path.name for one in given_folders(tmp_path / "wsis", [("a",)])} == {"wsis", "other"}


@pytest.mark.parametrize(
    ("named", "path", "source"),
    [
        ("models/a.bin", "models/a.bin", "models/a.bin"),
        ("registry/../models/a.bin", "models/a.bin", "models/a.bin"),
        ("link/../models/a.bin", "models/a.bin", "deep/models/a.bin"),
        ("link/a.bin", "link/a.bin", "deep/x/a.bin"),
    ],
)
def test_a_file_by_itself(named: str, path: str, source: str, tmp_path: Path) -> None:
    _made(tmp_path, ("models/a.bin", "deep/models/a.bin", "deep/x/a.bin", "registry/r.json"), {"link": "deep/x"})
    found = given_file(tmp_path / named)
    assert (tmp_path / named).samefile(found.source)
    assert found == Given(tmp_path / path, (tmp_path / (path if named == "link/a.bin" else source)))
