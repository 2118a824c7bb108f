"""Many slides: what is done is skipped, what is bad is named, and nobody else's file is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trident.export import slides
from trident.export.formats import FORMATS, Exported, Format
from trident.export.journal import JOURNAL_NAME
from trident.export.slides import Outcome, export_slides

Put = Callable[..., Path]


def _export(files: list[tuple[str, Path]], output: Path, *, overwrite: bool = False) -> Outcome:
    return export_slides(files, output, "pt", encoder="enc", overwrite=overwrite)


def _values(shift: float) -> np.ndarray:
    return np.arange(12, dtype=np.float32).reshape(4, 3) + shift


@pytest.fixture
def files(tmp_path: Path, put_features: Put) -> list[tuple[str, Path]]:
    return [(name, put_features(tmp_path / "job", name, _values(at))) for at, name in enumerate(["a", "b", "c"])]


def test_done_ones_are_skipped_and_changed_ones_made_again(
    files: list[tuple[str, Path]], tmp_path: Path, put_features: Put
) -> None:
    out = tmp_path / "out"
    assert _export(files[:2], out) == Outcome(written=2)
    before = (out / "a.pt").stat().st_ino
    put_features(tmp_path / "job", "b", _values(50))
    assert _export(files, out) == Outcome(written=2, replaced=1, skipped=1)
    assert (out / "a.pt").stat().st_ino == before
    np.testing.assert_array_equal(torch.load(out / "b.pt"), _values(50))
    assert _export(files, out, overwrite=True) == Outcome(written=3, replaced=3)
    assert sorted(path.name for path in out.iterdir()) == [JOURNAL_NAME, "a.pt", "b.pt", "c.pt"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_that_cannot_be_written_is_told_as_such(
    files: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where root runs the tests: a missing folder refuses files to everybody, in the same way."""
    if FORMATS[name].packages:
        pytest.importorskip(FORMATS[name].packages[0])
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    outcome = export_slides(files, tmp_path / "none", name, encoder="enc")
    assert (outcome.written, len(outcome.problems)) == (0, len(files))
    assert all("cannot be written: No such file or directory" in problem for problem in outcome.problems)


def test_bad_files_are_named_and_the_others_go_on(files: list[tuple[str, Path]], tmp_path: Path) -> None:
    files[0][1].write_bytes(files[0][1].read_bytes()[:3000])
    files[1][1].write_bytes(b"")
    missing = ("d", tmp_path / "job" / "d.h5")
    long = ("n" * 253, files[2][1])
    outcome = _export([*files, missing, long], tmp_path / "out")
    assert outcome.written == 1
    assert [problem.partition(": ")[0] for problem in outcome.problems] == [
        *map(str, (files[0][1], files[1][1], missing[1])),
        str(tmp_path / "out" / f"{'n' * 253}.pt"),
    ]
    assert "shorten the slide's file name" in outcome.problems[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [JOURNAL_NAME, "c.pt"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_no_export_has_written_is_not_replaced(files: list[tuple[str, Path]], tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if kind == "file":
        (out / "a.pt").write_bytes(b"mine")
    else:
        (out / "a.pt").symlink_to(tmp_path / "elsewhere")
    outcome = _export(files, out)
    assert outcome.written == 2
    assert "no export of this program wrote it" in outcome.problems[0]
    assert _export(files, out, overwrite=True) == Outcome(written=3, replaced=3)
    assert not (tmp_path / "elsewhere").exists()
    assert not (out / "a.pt").is_symlink()


def test_a_write_that_fails_leaves_the_file_as_it_was(
    files: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _export(files, out)

    def fail(path: Path, exported: Exported) -> None:
        path.write_bytes(b"half a file")
        raise RuntimeError("[enforce fail at inline_container.cc]\n. PytorchStreamWriter failed writing file")

    monkeypatch.setattr(slides, "FORMATS", {"pt": Format(".pt", (), fail)})
    outcome = _export(files[:1], out, overwrite=True)
    assert "a.pt: cannot be written ([enforce fail" in outcome.problems[0]
    assert "\n" not in outcome.problems[0]
    monkeypatch.setattr(slides, "FORMATS", FORMATS)
    assert _export(files, out) == Outcome(skipped=3)
    assert len(list(out.iterdir())) == 4
