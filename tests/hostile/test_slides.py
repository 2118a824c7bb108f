"""Damaged slides through every way of reading, and the fuzzer's own judgement."""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT = 120

Reading = Iterator[tuple[str, str | None]]


def run_fuzzer(folder: Path, *arguments: object) -> tuple[subprocess.CompletedProcess[str], list[dict[str, object]]]:
    report = folder / "report.json"
    command = [sys.executable, str(ROOT / "scripts" / "fuzz_slides.py"), "--json", str(report), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, env=environment)
    return done, json.loads(report.read_text())


def test_damaged_slides_are_read_or_refused(tmp_path: Path) -> None:
    done, results = run_fuzzer(tmp_path, "--count", COUNT, "--seed", 11, "--time_s", 90)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = Counter(str(result["outcome"]) for result in results)
    assert sum(outcomes.values()) == COUNT
    assert set(outcomes) <= {"read", "refused when opened", "refused later"}
    assert min(outcomes.values()) > 5, outcomes  # damage of all grades, or the run shows little
    assert f"| all | {COUNT} |" in done.stdout


def test_damaged_real_slides_are_read_or_refused(tmp_path: Path, shared_slides: Path) -> None:
    done, results = run_fuzzer(tmp_path, "--count", 30, "--seed", 12, "--time_s", 90, "--slides", shared_slides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"CMU-1-Small-Region.svs", "boxes_0.dcm"} <= {result["source"] for result in results}


def test_mutants_depend_on_the_seed_and_their_number_alone(script: ModuleType, drawn: Path) -> None:
    sources = script.sound_slides(None, drawn)
    first = list(script.mutants(sources, range(40), 5))
    again = list(script.mutants(sources, [7, 31], 5))
    assert again == [first[7], first[31]]
    assert [mutant.data for mutant in script.mutants(sources, range(40), 6)] != [mutant.data for mutant in first]
    sound = dict(sources)
    assert all(mutant.data != sound[mutant.source] for mutant in first)


@pytest.mark.parametrize("name", ["drawn.svs", "big.tiff", "deflate.tif"])
def test_every_kind_of_damage_happens_to_a_tiff(script: ModuleType, drawn: Path, name: str) -> None:
    slide_mutants = sys.modules["slide_mutants"]
    data = (drawn / name).read_bytes()
    kinds = {slide_mutants.mutate(data, Random(seed))[0] for seed in range(400)}
    assert kinds == set(slide_mutants.KINDS)


def segfault(path: Path, begin: Callable[[str], None]) -> Reading:
    begin("crashing")
    yield "default: open", None
    faulthandler._sigsegv()


def hang(path: Path, begin: Callable[[str], None]) -> Reading:
    begin("hanging")
    yield "default: open", None
    time.sleep(600)


def eat(path: Path, begin: Callable[[str], None]) -> Reading:
    begin("eating")
    yield "default: open", None
    bytearray(1 << 32)


def stumble(path: Path, begin: Callable[[str], None]) -> Reading:
    begin("stumbling")
    yield "default: open", None
    raise KeyError("unforeseen")


def refuse(path: Path, begin: Callable[[str], None]) -> Reading:
    yield "default: open", "it is damaged"


def read(path: Path, begin: Callable[[str], None]) -> Reading:
    begin("reading")
    yield "default: open", None


@pytest.mark.parametrize(
    ("reading", "outcome", "words"),
    [
        (segfault, "crash", "SIGSEGV"),
        (hang, "hang", "time limit"),
        (eat, "out of memory", "test_slides.py"),
        (stumble, "unexpected error", "KeyError"),
        (refuse, "refused when opened", "it is damaged"),
        (read, "read", ""),
    ],
)
def test_the_fuzzer_tells_how_a_process_ended(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reading: Callable[..., Reading],
    outcome: str,
    words: str,
) -> None:
    monkeypatch.setattr(script, "read_everything", reading)
    result = script.examine(tmp_path / "a.svs", 512, 2.0 if reading is hang else 600.0)
    assert result.outcome == outcome
    assert words in result.detail
