"""trident/store/timings.py: shares against arithmetic by hand, and hints that fit them."""

from __future__ import annotations

import pytest

from trident.store.timings import describe, shares, summed


def test_sums_phase_by_phase() -> None:
    assert summed([{"decode": 1.0, "total": 2.0}, {"total": 0.5}, {}]) == {"decode": 1.0, "total": 2.5}


def test_states_that_know_reading_and_decoding_together_only() -> None:
    old, new = {"wait": 4.0, "read": 4.0, "total": 4.0}, {"wait": 4.0, "read": 1.0, "decode": 3.0, "total": 4.0}
    assert shares(old) == {"decode": 1.0}
    assert summed([old, new]) == {"wait": 8.0, "read": 1.0, "decode": 7.0, "total": 8.0}


def test_waiting_is_divided_as_the_readers_were_busy() -> None:
    found = shares({"total": 10.0, "wait": 8.0, "read": 12.0, "transform": 4.0, "encode": 1.0, "write": 0.5})
    assert found == pytest.approx({"decode": 0.6, "resize": 0.2, "encode": 0.1, "write": 0.05})
    assert list(found) == ["decode", "resize", "encode", "write"]


@pytest.mark.parametrize("timings", [{}, {"total": 0.0}, {"read": 3.0}, {"total": 5.0}])
def test_nothing_known(timings: dict[str, float]) -> None:
    assert shares(timings) == {}
    assert describe(timings) is None


def test_parts_that_are_more_than_the_whole_are_the_whole() -> None:
    assert shares({"total": 1.0, "encode": 3.0, "wait": 1.0, "read": 1.0}) == {"encode": 0.75, "decode": 0.25}


@pytest.mark.parametrize(
    ("timings", "listed", "hint"),
    [
        ({"wait": 7.1, "read": 9.0, "encode": 0.9}, "71 % decode, 9 % encode", "--max_workers"),
        ({"wait": 8.0, "read": 1.0, "transform": 3.0}, "60 % resize, 20 % decode", "resizing"),
        (
            {"wait": 8.0, "read": 5.0, "decode": 2.0, "transform": 1.0},
            "50 % read, 20 % decode, 10 % resize",
            "--wsi_cache",
        ),
        (
            {"wait": 6.0, "read": 1.0, "transform": 1.0, "encode": 4.0},
            "40 % encode, 30 % decode, 30 % resize",
            "pixels",
        ),
        ({"wait": 1.0, "read": 1.0, "encode": 8.0}, "80 % encode, 10 % decode", "--precision bfloat16"),
        ({"encode": 1.0, "others": 8.0}, "80 % other encoders, 10 % encode", "the other encoders"),
        ({"write": 6.0, "encode": 0.1}, "60 % write", "--job_dir"),
        ({"load": 9.0, "encode": 1.0}, "90 % load, 10 % encode", "more slides in one run"),
        ({"open": 5.1}, "51 % open", "local disk"),
        ({"encode": 5.0, "wait": 5.0, "read": 1.0}, "50 % decode, 50 % encode", None),
    ],
)
def test_line(timings: dict[str, float], listed: str, hint: str | None) -> None:
    line = describe({"total": 10.0, **timings})
    assert line is not None
    found, _, advice = line.partition(": ")
    assert found == listed
    if hint is None:
        assert advice == ""
    else:
        assert hint in advice
