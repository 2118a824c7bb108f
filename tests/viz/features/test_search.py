"""The nearest patches of a cohort, against a plain computation over all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from trident.errors import SettingsError
from trident.viz.features.search import Match, Patch, Query, find_queries, find_similar

Put = Callable[..., Path]
Files = list[tuple[str, Path]]


@pytest.fixture
def cohort(tmp_path: Path, put_features: Put) -> tuple[Files, dict[str, np.ndarray]]:
    """Four slides, one of them without patches."""
    random = np.random.default_rng(5)
    values = {
        name: random.normal(size=(count, 12)).astype(np.float32) + 0.5
        for name, count in {"a": 40, "b": 7, "empty": 0, "z": 25}.items()
    }
    return [(name, put_features(tmp_path, name, one)) for name, one in values.items()], values


def _nearest(
    values: dict[str, np.ndarray], query: tuple[str, int], count: int, left_out: str = ""
) -> list[tuple[str, int, float]]:
    """All cosines, sorted."""
    direction = values[query[0]][query[1]].astype(np.float64)
    cosines = [
        (name, row, float(one @ direction / np.linalg.norm(one) / np.linalg.norm(direction)))
        for name, rows in values.items()
        if name != left_out
        for row, one in enumerate(rows.astype(np.float64))
        if (name, row) != query
    ]
    return sorted(cosines, key=lambda found: -found[2])[:count]


def _plain(matches: list[Match]) -> list[tuple[str, int]]:
    return [(match.patch.slide, match.patch.index) for match in matches]


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_against_a_plain_computation(
    cohort: tuple[Files, dict[str, np.ndarray]], tmp_path: Path, count: int, chunk_rows: int | None
) -> None:
    files, values = cohort
    if chunk_rows:  # many small blocks of one file
        with h5py.File(files[0][1], "r+") as file:
            del file["features"]
            file.create_dataset("features", data=values["a"], chunks=(chunk_rows, 12))
    queries = find_queries(files[0][1], "a", [0, 39]) + find_queries(files[1][1], "b", [3])
    found = find_similar(files, queries, count)
    assert (found.n_patches, found.problems) == (72, [])
    for query, matches in zip([("a", 0), ("a", 39), ("b", 3)], found.matches, strict=True):
        expected = _nearest(values, query, count)
        assert _plain(matches) == [one[:2] for one in expected]
        np.testing.assert_allclose([match.cosine for match in matches], [one[2] for one in expected], atol=1e-12)
    first = found.matches[0][0].patch
    assert (first.x, first.y) == (first.index % 8 * 128, first.index // 8 * 128)


def test_blocks_change_nothing(cohort: tuple[Files, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from trident.store.h5_read import read_feature_blocks
    from trident.viz.features import search

    files, values = cohort
    for _, path in files[:1]:
        with h5py.File(path, "r+") as file:
            del file["features"]
            file.create_dataset("features", data=values["a"], chunks=(1, 12))
    queries = find_queries(files[0][1], "a", [5])
    whole = find_similar(files, queries, 8)
    monkeypatch.setattr(search, "read_feature_blocks", partial(read_feature_blocks, block_bytes=4 * 12 * 6))
    assert _plain(find_similar(files, queries, 8).matches[0]) == _plain(whole.matches[0])


def test_other_slides_only(cohort: tuple[Files, dict[str, np.ndarray]]) -> None:
    files, values = cohort
    queries = find_queries(files[0][1], "a", [2])
    found = find_similar(files, queries, 6, accept=lambda slide, query: slide != query.patch.slide)
    assert _plain(found.matches[0]) == [one[:2] for one in _nearest(values, ("a", 2), 6, left_out="a")]
    assert found.n_patches == 32


def test_equal_patches_come_in_the_order_of_slides_and_rows(tmp_path: Path, put_features: Put) -> None:
    files = [(name, put_features(tmp_path, name, np.tile([1, 2], (300, 1)))) for name in ("b", "a")]
    found = find_similar(files, find_queries(files[0][1], "b", [1]), 400)
    assert _plain(found.matches[0]) == [("b", row) for row in range(300) if row != 1] + [
        ("a", row) for row in range(101)
    ]
    np.testing.assert_allclose([match.cosine for match in found.matches[0]], 1)


def test_patches_without_a_direction_match_nothing(tmp_path: Path, put_features: Put) -> None:
    rows = [[1, 0], [0, 0], [np.nan, 1], [np.inf, 1], [-1, 0], [1, 1]]
    path = put_features(tmp_path, "a", rows)
    found = find_similar([("a", path)], find_queries(path, "a", [0]), 10)
    assert [(match.patch.index, round(match.cosine, 6)) for match in found.matches[0]] == [(5, 0.707107), (4, -1.0)]
    for index in (1, 2, 3):
        with pytest.raises(SettingsError, match="without a direction"):
            find_queries(path, "a", [index])


def test_bad_files_are_named_and_the_others_searched(
    cohort: tuple[Files, dict[str, np.ndarray]], tmp_path: Path, put_features: Put
) -> None:
    files, values = cohort
    queries = find_queries(files[0][1], "a", [0])
    cut = put_features(tmp_path, "cut", np.ones((500, 12)))
    cut.write_bytes(cut.read_bytes()[:9000])
    other = put_features(tmp_path, "other", np.ones((3, 5)))
    done: list[int] = []
    bad = [("cut", cut), ("gone", tmp_path / "gone.h5"), ("other", other)]
    found = find_similar([*bad, *files], queries, 5, progress=done.append)
    assert _plain(found.matches[0]) == [one[:2] for one in _nearest(values, ("a", 0), 5)]
    assert [problem.partition(": ")[0] for problem in found.problems] == [str(path) for _, path in bad]
    assert "5 values and those of the query 12" in found.problems[2]
    assert done == [1, 2, 3, 4, 5, 6, 7]


def test_damage_in_the_middle_of_a_file_takes_back_what_came_from_it(
    cohort: tuple[Files, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trident.errors import StoreError
    from trident.store.h5_read import read_feature_blocks
    from trident.viz.features import search

    files, values = cohort
    queries = find_queries(files[1][1], "b", [0])

    def breaks(path: Path):  # type: ignore[no-untyped-def]
        yield from read_feature_blocks(path)
        if path == files[0][1]:
            raise StoreError(f"{path}: damaged")

    monkeypatch.setattr(search, "read_feature_blocks", breaks)
    found = find_similar(files, queries, 5)
    assert _plain(found.matches[0]) == [one[:2] for one in _nearest(values, ("b", 0), 5, left_out="a")]
    assert found.n_patches == 32


@pytest.mark.parametrize(
    ("indices", "places", "expected"),
    [
        ([3, 0, 3], [], [3, 0, 3]),
        ([], [(128, 0), (0, 128)], [1, 8]),
        ([], [(200, 127), (255, 0)], [1, 1]),
        ([2], [(0, 0)], [2, 0]),
    ],
)
def test_queries(
    cohort: tuple[Files, dict[str, np.ndarray]],
    indices: list[int],
    places: list[tuple[int, int]],
    expected: list[int],
) -> None:
    files, values = cohort
    found = find_queries(files[0][1], "a", indices, places)
    assert [query.patch for query in found] == [Patch("a", row, row % 8 * 128, row // 8 * 128) for row in expected]
    for query, row in zip(found, expected, strict=True):
        np.testing.assert_allclose(query.features, values["a"][row] / np.linalg.norm(values["a"][row]), rtol=1e-6)


@pytest.mark.parametrize(
    ("slide", "indices", "places", "message"),
    [
        ("a", [40], [], "--index 40: slide a has rows 0 to 39"),
        ("a", [-1], [], "--index -1: slide a has rows 0 to 39"),
        ("empty", [0], [], "--index 0: slide empty has no patches"),
        ("a", [], [(5000, 0)], "--patch 5000 0: slide a has no patch there"),
        ("a", [], [(-1, 0)], "has no patch there"),
    ],
)
def test_no_such_patch(
    cohort: tuple[Files, dict[str, np.ndarray]],
    slide: str,
    indices: list[int],
    places: list[tuple[int, int]],
    message: str,
) -> None:
    path = dict(cohort[0])[slide]
    with pytest.raises(SettingsError) as caught:
        find_queries(path, slide, indices, places)
    assert message in str(caught.value)


def test_a_point_in_several_patches(tmp_path: Path, put_features: Put) -> None:
    path = put_features(tmp_path, "a", np.eye(2), coords=[[0, 0], [64, 0]])
    assert [query.patch.index for query in find_queries(path, "a", [], [(64, 0)])] == [1]
    with pytest.raises(SettingsError, match="2 overlapping patches there"):
        find_queries(path, "a", [], [(100, 0)])


def test_a_query_need_not_be_in_the_cohort() -> None:
    query = Query(Patch("elsewhere", 0, 0, 0), np.array([1.0, 0.0]))
    assert find_similar([], [query], 3).matches == [[]]
