"""Which patch grids a job directory has, wherever `--coords_dir` has put them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.viz.report import grids
from trident.viz.report.grids import find_grids, lies_in
from trident.viz.report.write import write_report

FLAT = "20x_256px_0px_overlap"


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    for name in (f"{FLAT}/patches", "thumbnails", "runs/patches", ".hidden/patches", "empty"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture
def note(job_dir: Path) -> Callable[..., None]:
    """Function (what): notes a grid as a run does: in a job file, or in the state of a slide."""

    def note_it(*, coords_dir: str | None = None, output: object = None, was_in: object = job_dir) -> None:
        if coords_dir is not None:
            folder = job_dir / ".trident/jobs"
            folder.mkdir(parents=True, exist_ok=True)
            content = {"settings": {"job_dir": str(was_in), "coords_dir": coords_dir}, "slides": [{"name": "é" * 99}]}
            (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(content, indent=1))
        if output is not None:
            folder = job_dir / "wsi_states"
            folder.mkdir(exist_ok=True)
            tasks = {"coords": {"outputs": {"coords": {"path": output}}}}
            (folder / f"s{len(list(folder.iterdir()))}.json").write_text(json.dumps({"tasks": tasks}))

    return note_it


@pytest.mark.parametrize(
    ("noted", "made", "expected"),
    [
        ({}, "deep/nested", None),
        ({"coords_dir": "deep/nested"}, "deep/nested", "deep/nested"),
        ({"coords_dir": "./deep//nested/"}, "deep/nested", "deep/nested"),
        ({"coords_dir": "deep/nested"}, "deep/other", None),
        ({"coords_dir": "../beside"}, "../beside", "../beside"),
        ({"coords_dir": "."}, ".", None),
        ({"coords_dir": FLAT}, "deep/nested", None),
        ({"coords_dir": "HERE/deep/nested"}, "deep/nested", "deep/nested"),
        ({"coords_dir": "/old/out/deep/nested", "was_in": "/old/out"}, "deep/nested", "deep/nested"),
        ({"coords_dir": "BESIDE/grid"}, "../grid", "BESIDE/grid"),
        ({"output": "HERE/deep/nested/patches/a_patches.h5"}, "deep/nested", "deep/nested"),
        ({"output": "/old/out/deep/nested/patches/a_patches.h5"}, "deep/nested", "deep/nested"),
        ({"output": f"/old/out/{FLAT}/patches/a_patches.h5"}, "deep/nested", None),
        ({"output": "HERE/contours_geojson/a.geojson"}, "deep/nested", None),
        ({"output": "../../out/deep/nested/patches/a_patches.h5"}, "deep/nested", None),
        ({"output": 7}, "deep/nested", None),
        ({"output": "/nul\0/x/y"}, "deep/nested", None),
        ({"output": f"/{'n' * 5000}/x/y/z"}, "deep/nested", None),
    ],
)
def test_grids_that_are_named_somewhere(
    noted: dict[str, Any], made: str, expected: str | None, job_dir: Path, note: Callable[..., None]
) -> None:
    def placed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.replace("HERE", str(job_dir)).replace("BESIDE", str(job_dir.parent))

    (job_dir / made / "patches").mkdir(parents=True)
    note(**{key: placed(value) for key, value in noted.items()})
    assert find_grids(job_dir, None) == [FLAT, *([placed(expected)] if expected else [])]


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (None, [FLAT, "deep/nested"]),
        ("deep/nested", ["deep/nested", FLAT]),
        ("deep/nested/", ["deep/nested", FLAT]),
        ("to/come", ["to/come", FLAT, "deep/nested"]),
        ("/elsewhere/grid", ["/elsewhere/grid", FLAT, "deep/nested"]),
    ],
)
def test_that_of_the_newest_job_comes_first(
    newest: str | None, expected: list[str], job_dir: Path, note: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_dir / "deep/nested/features_enc").mkdir(parents=True)
    note(coords_dir="deep/nested")
    assert find_grids(job_dir, newest) == expected
    monkeypatch.chdir(job_dir.parent)
    assert find_grids(Path("out"), newest) == expected


@pytest.fixture(params=["a link to itself", "no permission"])
def unreadable(request: pytest.FixtureRequest, job_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid folder that cannot be looked into."""
    folder = job_dir / "deep/nested"
    if request.param == "a link to itself":
        folder.parent.mkdir()
        folder.symlink_to(folder)
        return folder
    (folder / "patches").mkdir(parents=True)
    known = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return known(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return folder


@pytest.mark.parametrize("newest", [None, "deep/nested", "to/come"])
def test_a_folder_that_cannot_be_looked_into_is_left_out_and_told_once(
    newest: str | None,
    unreadable: Path,
    job_dir: Path,
    note: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for coords_dir in ("deep/nested", "deep/nested", str(unreadable)):
        note(coords_dir=coords_dir, output=f"{unreadable}/patches/a_patches.h5")
    assert find_grids(job_dir, newest) == [*(["to/come"] if newest == "to/come" else []), FLAT]
    (told,) = caplog.messages
    assert told.startswith(f"{unreadable}: left out, because it cannot be looked at (")
    page = write_report(job_dir, job_dir.parent / "report.html")
    assert FLAT in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"settings": [', b'{"settings": 7}', b"[" * 100_000, b'"settings"'])
def test_damaged_records_do_no_harm(damage: bytes, job_dir: Path, note: Callable[..., None]) -> None:
    note(coords_dir="deep/nested", output="x")
    for folder in (".trident/jobs", "wsi_states"):
        (job_dir / folder / "0damaged.json").write_bytes(damage)
    (job_dir / "deep/nested/patches").mkdir(parents=True)
    assert find_grids(job_dir, None) == [FLAT, "deep/nested"]


def test_of_many_records_few_are_read(
    job_dir: Path, note: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_dir / "deep/nested/patches").mkdir(parents=True)
    note(coords_dir="deep/nested", output=f"{job_dir}/deep/nested/patches/a_patches.h5")
    for folder, suffix in ((".trident/jobs", "0.json"), ("wsi_states", "s0.json")):
        for number in range(500):
            (job_dir / folder / f"{number}.json").write_bytes((job_dir / folder / suffix).read_bytes())
    read: list[Path] = []
    for name in ("_settings_of_job", "load_object"):
        known = getattr(grids, name)
        monkeypatch.setattr(grids, name, lambda path, known=known: read.append(path) or known(path))
    assert find_grids(job_dir, None) == [FLAT, "deep/nested"]
    assert len(read) == grids._MAX_JOBS + grids._MAX_STATES


@pytest.mark.parametrize(
    ("path", "grid", "inside"),
    [
        ("/out/a/b/patches/x.h5", "a/b", True),
        ("/out/a/b/patches/x.h5", "b", True),
        ("/out/a/b/patches/x.h5", "/out/a/b", True),
        ("/out/a/b/patches/x.h5", "c/b", False),
        ("/out/ab/patches/x.h5", "b", False),
        ("x.h5", "b", False),
    ],
)
def test_lies_in(path: str, grid: str, inside: bool) -> None:
    assert lies_in(path, grid) is inside
