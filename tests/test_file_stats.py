"""Questions to a file system, asked one after the other or, where it is slow, together."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from trident import file_stats
from trident.file_stats import ask_all, stat_all


def test_each_path_gets_its_answer_in_order(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}").write_bytes(b"x" * number)
    (tmp_path / "link").symlink_to(tmp_path / "7")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    names = [*map(str, range(50)), "link", "broken", "missing", "7/inside", "a" * 300, "nul\0"]
    answers = stat_all(str(tmp_path / name) for name in names)
    assert [answer.st_size for answer in answers[:51] if isinstance(answer, os.stat_result)] == [*range(50), 7]
    assert [getattr(answer, "errno", None) for answer in answers[51:]] == [
        *(errno.ENOENT, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG),
        None,
    ]
    assert isinstance(answers[-1], ValueError)
    assert stat_all([]) == []


@pytest.mark.parametrize(("limit_s", "threads"), [(1e9, 1), (0.0, 9)])
def test_only_slow_answers_are_waited_for_together(
    limit_s: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_stats, "_SLOW_S", limit_s)
    asked_by: set[int] = set()
    all_are_here = threading.Barrier(8)

    def question(item: int) -> int:
        asked_by.add(threading.get_ident())
        if threading.current_thread() is not threading.main_thread():
            all_are_here.wait(timeout=600)  # breaks where fewer than eight ask at once
        return item * item

    assert ask_all(question, range(4 + 32), 8) == [number * number for number in range(4 + 32)]
    assert len(asked_by) == threads


@pytest.mark.parametrize("bad", [0, 250])
def test_an_exception_goes_through(bad: int) -> None:
    def question(item: int) -> int:
        time.sleep(0.001)
        if item == bad:
            raise RuntimeError("no")
        return item

    with pytest.raises(RuntimeError, match="no"):
        ask_all(question, range(300))
