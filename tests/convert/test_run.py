"""Many files in processes of their own: what one that fails costs, and what a crash leaves."""

from __future__ import annotations

import csv
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from trident.convert import run as run_module
from trident.convert.plan import find_files
from trident.convert.run import Outcome, convert_all
from trident.convert.stage import ConvertLayout, ConvertStage
from trident.convert.summary import write_tables
from trident.convert.worker import request, stage_of
from trident.exit_codes import INTERRUPTED
from trident.store.atomic import remove_orphans
from trident.store.locks import OutputLock, lock_path


def _stages(options: Any) -> list[ConvertStage]:
    return [ConvertStage(options, source) for source in find_files(options)]


@pytest.fixture
def in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Function (code): what the processes that convert do before anything else."""

    def put(code: str) -> None:
        folder = tmp_path / "in_the_way"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    return put


def test_one_bad_file_costs_no_other(inputs: Path, options: Any, drawn_slides: Any) -> None:
    drawn_slides(inputs, "a.svs", "c.svs")
    (inputs / "b.svs").write_text("text")
    (inputs / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    chosen = options()
    told: list[tuple[int, int]] = []
    outcomes = convert_all(_stages(chosen), num_workers=2, report=lambda done, total: told.append((done, total)))
    assert [outcome.status for outcome in outcomes] == ["converted", "error", "converted", "error"]
    assert "it is a text file" in outcomes[1].message
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    write_tables(ConvertLayout(chosen.job_dir), outcomes)
    with (chosen.job_dir / "convert_summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["wsi"], row["status"], row["mpp"], row["levels"]) for row in rows] == [
        ("a.svs", "converted", "0.25", "3"),
        ("b.svs", "error", "", ""),
        ("c.svs", "converted", "0.25", "3"),
        ("d.png", "error", "", ""),
    ]
    assert (chosen.job_dir / "converted.csv").read_text() == "wsi\na.tiff\nc.tiff\n"
    (inputs / "b.svs").unlink()
    again = convert_all(_stages(chosen)[:2], num_workers=1)
    assert [outcome.status for outcome in again] == ["skipped", "skipped"]


def test_two_runs_at_once_both_end_well(inputs: Path, options: Any, drawn_slides: Any) -> None:
    drawn_slides(inputs, "a.svs", "b.svs")
    chosen = options()
    told: list[tuple[int, int]] = []
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(convert_all, _stages(chosen), 1, lambda done, total: told.append((done, total)))
            for _ in range(2)
        ]
        one, other = (run.result() for run in runs)
    for pair in zip(one, other, strict=True):
        assert sorted(outcome.status for outcome in pair) == ["converted", "skipped"]
    assert sorted(told) == sorted([(1, 2), (2, 2)] * 2)


def test_a_file_of_another_run_is_waited_for(inputs: Path, options: Any, drawn_slides: Any) -> None:
    drawn_slides(inputs, "a.svs", "b.svs")
    stages = _stages(options())
    taken, finished = threading.Event(), threading.Event()

    def write() -> None:
        with OutputLock(stages[0].output):
            taken.set()
            assert finished.wait(600)

    other = threading.Thread(target=write)
    other.start()
    assert taken.wait(600)
    done: list[tuple[int, int]] = []

    def report(n_ended: int, total: int) -> None:
        done.append((n_ended, total))
        finished.set()  # the one file that is free has ended: now the other run lets go of the first

    outcomes = convert_all(stages, num_workers=1, report=report)
    other.join()
    assert [outcome.status for outcome in outcomes] == ["converted", "converted"]
    assert done == [(1, 2), (2, 2)]


def test_a_lock_of_nobody_is_told(inputs: Path, options: Any, drawn_slides: Any) -> None:
    drawn_slides(inputs, "a.svs")
    (stage,) = _stages(options())
    stage.output.parent.mkdir(parents=True, exist_ok=True)
    lock_path(stage.output).write_text('{"pid": 1, "hostname": "elsewhere"}')
    (outcome,) = convert_all([stage], num_workers=1)
    assert (outcome.status, outcome.is_held) == ("error", True)
    assert "is writing it" in outcome.message


def test_what_another_run_has_made_since_is_listed(inputs: Path, options: Any, drawn_slides: Any) -> None:
    drawn_slides(inputs, "a.svs", "b.svs")
    stages = _stages(options())
    (made,) = convert_all(stages[:1], num_workers=1)
    assert made.status == "converted"
    write_tables(ConvertLayout(options().job_dir), [Outcome(stage, "error", "held", is_held=True) for stage in stages])
    assert (options().job_dir / "converted.csv").read_text() == "wsi\na.tiff\n"


def test_a_process_that_is_killed_costs_only_its_file(
    inputs: Path, options: Any, drawn_slides: Any, in_the_way: Any
) -> None:
    drawn_slides(inputs, "a.svs")
    in_the_way("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (outcome,) = convert_all(_stages(options()), num_workers=1)
    assert outcome.status == "error"
    assert f"was ended by signal {signal.SIGSEGV.value}" in outcome.message
    assert "a.svs" in outcome.message


def test_a_process_that_does_not_end_when_asked_is_killed(
    inputs: Path, options: Any, drawn_slides: Any, in_the_way: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_slides(inputs, "a.svs")
    begun = tmp_path / "begun"
    in_the_way(
        "import pathlib, signal, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(run_module, "_GRACE_S", 0.1)
    (stage,) = _stages(options())
    crew = run_module._Crew(1)
    with ThreadPoolExecutor(1) as pool:
        conversion = pool.submit(crew.convert, stage)
        while not begun.exists():
            assert not conversion.done()
            time.sleep(0.01)
        crew.stop()
        outcome = conversion.result(60)
    assert f"was ended by signal {signal.SIGKILL.value}" in outcome.message


def test_a_package_of_the_same_name_in_the_current_folder_is_not_taken(
    tmp_path: Path, inputs: Path, options: Any, drawn_slides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trident").mkdir()
    (tmp_path / "trident" / "__init__.py").write_text("raise SystemExit('another package')")
    drawn_slides(inputs, "a.svs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (outcome,) = convert_all(_stages(options()), num_workers=1)
    assert outcome.status == "converted"


def test_a_request_survives_its_way(inputs: Path, options: Any, drawn_slides: Any) -> None:
    drawn_slides(inputs, "a.svs")
    chosen = options({"a.svs": 0.3}, quality=77, wsi_ext=(".svs",))
    (stage,) = [ConvertStage(chosen, source, "run") for source in find_files(chosen)]
    copy = stage_of(request(stage))
    assert (copy.options, copy.source, copy.output) == (stage.options, stage.source, stage.output)
    assert copy.context.overwrite_run == "run"


@pytest.fixture
def working(
    inputs: Path,
    options: Any,
    drawn_slides: Any,
    held_conversions: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> Any:
    """A process in the middle of a conversion, where it waits; its stage; and the file without which it goes on.

    Ended by SIGABRT it says where each of its threads is.
    """
    folder, held = held_conversions
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    drawn_slides(inputs, "a.svs")
    (stage,) = _stages(options())
    process = subprocess.Popen(
        [sys.executable, "-c", run_module._PROGRAM],
        env={**run_module._Crew(1)._environment, "PYTHONFAULTHANDLER": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(request(stage) + "\n")
        process.stdin.flush()
        wait_until(lambda: held.stat().st_size, process)
        assert len(list(stage.output.parent.glob(".a.*.tmp.tiff"))) == 1
        yield process, stage, held
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()


@pytest.mark.parametrize("how", ["terminate", "terminate, told to another thread", "driver gone"])
def test_an_interrupted_conversion_leaves_nothing(working: Any, how: str) -> None:
    process, stage, _ = working
    if how == "terminate":
        process.terminate()
    elif how == "driver gone":
        process.stdin.close()
    else:  # the system may choose any thread for a signal, but only the main one runs the handler
        thread = max(int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir())
        assert ctypes.CDLL(None).tgkill(process.pid, thread, signal.SIGTERM) == 0
    try:
        assert process.wait(60) == INTERRUPTED
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        raise
    assert not [path.name for path in stage.output.parent.glob("*") if path.name.startswith(("a.", ".a."))]


def test_a_killed_conversion_leaves_no_half_file_and_is_taken_up_again(working: Any) -> None:
    process, stage, held = working
    os.kill(process.pid, signal.SIGKILL)
    process.wait(600)
    assert not stage.output.exists()
    assert lock_path(stage.output).exists()
    assert remove_orphans(stage.output.parent)
    held.unlink()
    (outcome,) = convert_all([stage], num_workers=1)
    assert outcome == Outcome(stage, "converted", outcome.message)
    assert not lock_path(stage.output).exists()
    assert stage.status().done
