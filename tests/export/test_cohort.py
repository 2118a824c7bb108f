"""Slide embeddings of a cohort as Parquet, read back with pyarrow and pandas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trident.errors import StoreError
from trident.export import cohort
from trident.export.cohort import export_cohort
from trident.export.journal import JOURNAL_NAME
from trident.export.slides import Outcome
from trident.store.h5 import write_coords, write_slide_features

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `export`)")


def _put(folder: Path, name: str, vector: np.ndarray, n_patches: int = 3) -> tuple[str, Path]:
    path = folder / f"{len(list(folder.iterdir()))}.h5"
    coords = np.zeros((n_patches, 2), np.int64)
    write_slide_features(path, vector, coords, {}, name=name, savetodir="", encoder="mean-enc", recipe=None)
    return name, path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def test_reads_back_equal_over_several_row_groups(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "_GROUP_ROWS", 3)
    names = ["a", "Ünï <b>&\"x'", "two\nlines", "no\udcffutf8", "z", "", "=1+1"]
    vectors = np.random.default_rng(0).normal(size=(len(names), 5)).astype(np.float32)
    counts = [3, 0, 1, 2, 9, 0, 4]
    files = [_put(folder, *row) for row in zip(names, vectors, counts, strict=True)]
    target = tmp_path / "out" / "slides.parquet"
    assert export_cohort(files, target, encoder="mean-enc") == Outcome(written=7)

    table = pq.read_table(target)
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[5]"
    assert table.schema.metadata[b"encoder"] == b"mean-enc"
    assert table["slide"].to_pylist() == [name.encode("utf-8", "backslashreplace").decode() for name in names]
    assert table["n_patches"].to_pylist() == counts
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), vectors)
    assert np.stack(table.to_pandas()["features"]).shape == (7, 5)
    assert pq.ParquetFile(target).num_row_groups == 3


def test_done_unless_something_changed(folder: Path, tmp_path: Path) -> None:
    files = [_put(folder, name, np.ones(4, np.float32)) for name in "ab"]
    target = tmp_path / "slides.parquet"
    export_cohort(files, target, encoder="e")
    before = target.stat().st_ino
    assert export_cohort(files, target, encoder="e") == Outcome(skipped=2)
    assert target.stat().st_ino == before
    files.append(_put(folder, "c", np.ones(4, np.float32)))
    assert export_cohort(files, target, encoder="e") == Outcome(written=3, replaced=3)
    assert export_cohort(files, target, encoder="e", overwrite=True) == Outcome(written=3, replaced=3)
    target.write_bytes(b"somebody's")
    (tmp_path / JOURNAL_NAME).unlink()
    with pytest.raises(StoreError, match="no export of this program wrote it"):
        export_cohort(files, target, encoder="e")
    assert target.read_bytes() == b"somebody's"


def test_bad_ones_are_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    files = [_put(folder, name, np.full(4, at, np.float32)) for at, name in enumerate("abc")]
    files.append(_put(folder, "short", np.ones(3, np.float32)))
    empty, no_features = folder / "empty.h5", folder / "coords.h5"
    empty.touch()
    write_coords(no_features, np.zeros((1, 2), int), {}, None)
    files += [("empty", empty), ("gone", folder / "gone.h5"), ("coords", no_features)]
    target = tmp_path / "slides.parquet"
    outcome = export_cohort(files, target, encoder="e")
    assert (outcome.written, len(outcome.problems)) == (3, 4)
    assert {Path(problem.partition(": ")[0]) for problem in outcome.problems} == {path for _, path in files[3:]}
    assert pq.read_table(target)["slide"].to_pylist() == ["a", "b", "c"]
    assert export_cohort(files, target, encoder="e").skipped == 3


def test_nothing_usable(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none of 1 embeddings can be read"):
        export_cohort([("gone", folder / "gone.h5")], tmp_path / "slides.parquet", encoder="e")
    assert not (tmp_path / "slides.parquet").exists()
