"""Arithmetic of time, against durations that were made up from known rates."""

from __future__ import annotations

import pytest

from trident.plan.rates import StageRate, fitted, missing_rates, seconds_of_pass, wall_seconds


@pytest.mark.parametrize(
    ("units", "seconds", "expected"),
    [
        ([1, 2, 4], [5, 7, 11], (3, 2)),  # 3 s a slide and 2 s a unit
        ([10, 20], [1, 2], (0, 0.1)),
        ([5, 5, 5], [10, 20, 30], (0, 4)),  # sizes that are alike tell nothing apart
        ([7], [14], (0, 2)),
        ([0, 0], [3, 5], (4, 0)),
        ([1, 2, 3], [6, 5, 4], (5, 0)),  # larger slides were quicker: size says nothing
        ([1, 2], [0.5, 2], (0, 2.5 / 3)),  # the line would begin below zero
    ],
)
def test_fitted(units: list[float], seconds: list[float], expected: tuple[float, float]) -> None:
    assert fitted(units, seconds) == pytest.approx(expected)


@pytest.mark.parametrize(("units", "seconds"), [([], []), ([1], []), ([1], [1, 2])])
def test_nothing_can_be_fitted_to_nothing(units: list[float], seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="durations"):
        fitted(units, seconds)


def test_a_pass_reads_once_and_encodes_with_each() -> None:
    one = StageRate("patches", slide_s=1.0, unit_s=0.01, own_unit_s=0.02)
    other = StageRate("patches", slide_s=1.5, unit_s=0.012, own_unit_s=0.005)
    assert one.seconds(100) == pytest.approx(1 + 1 + 2)
    assert seconds_of_pass([one], 100) == pytest.approx(one.seconds(100))
    assert seconds_of_pass([one, other], 100) == pytest.approx(1.5 + 1.2 + 2.0 + 0.5)
    assert seconds_of_pass([], 100) == 0.0


@pytest.mark.parametrize(("slides", "slots", "expected"), [(10, 2, 55), (10, 1, 105), (1, 8, 105), (0, 4, 105)])
def test_wall_seconds(slides: int, slots: int, expected: float) -> None:
    assert wall_seconds(100, slides, slots, load_s=5) == expected


def test_missing_rates() -> None:
    assert missing_rates(["a", "b"], {"a": StageRate("patches", 0, 0)}) == ["b"]
