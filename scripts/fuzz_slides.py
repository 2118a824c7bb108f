#!/usr/bin/env python3
"""Read many damaged slides, each in a process of its own with limits on memory and time, and count what happens.

    .venv/bin/python scripts/fuzz_slides.py --count 2000 --seed 1

Every mutant must be read or refused with an error of ours. A crash, a hang, a lack of memory and any other exception
are faults: they are listed, and the exit code is 1. `--only 17 --keep DIR` makes mutant 17 again and keeps its file.
The same seed gives the same mutants from the same sound slides.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from slide_mutants import mutate

ROOT = Path(__file__).resolve().parents[1]
GOOD = ("read", "refused when opened", "refused later")
FAULTS = ("crash", "hang", "out of memory", "unexpected error")

_SLIDE_SUFFIXES = (".svs", ".tiff", ".tif", ".dcm", ".png", ".jpg")
_GIVEN_MPP = 0.5
_REGION_PX = 224
_MAX_REGIONS = 48


@dataclass(frozen=True)
class Result:
    """What became of one mutant."""

    outcome: str
    stage: str
    """Where it ended: the last stage that was begun, or the first that was refused."""
    detail: str
    seconds: float
    peak_mib: int


@dataclass(frozen=True)
class Mutant:
    """One damaged slide."""

    number: int
    source: str
    """File name of the sound slide."""
    damage: str
    data: bytes

    @property
    def file_name(self) -> str:
        """A name with the suffix of the sound slide."""
        return f"{self.number}{Path(self.source).suffix}"


def sound_slides(folder: Path | None, drawn: Path) -> list[tuple[str, bytes]]:
    """(file name, bytes) of the slides that are damaged: those of a folder, and drawn ones."""
    _draw(drawn)
    paths = sorted(drawn.iterdir()) + (sorted(folder.iterdir()) if folder else [])
    return [(path.name, path.read_bytes()) for path in paths if path.suffix in _SLIDE_SUFFIXES]


def _draw(folder: Path) -> None:
    import numpy as np
    import openslide
    import tifffile
    from PIL import Image

    from trident.demo import draw_demo_slide

    draw_demo_slide(folder / "drawn.svs", seed=1, width_px=1024, height_px=768, mpp=0.5)
    with openslide.OpenSlide(folder / "drawn.svs") as slide:
        pixels = np.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    Image.fromarray(pixels[:400, :600]).save(folder / "drawn.png")
    Image.fromarray(pixels[:400, :600]).save(folder / "drawn.jpg")
    for name, is_big, compression in (
        ("big.tiff", True, "zlib"),
        ("deflate.tif", False, "zlib"),
        ("plain.tif", True, None),
    ):
        tifffile.imwrite(
            folder / name,
            pixels,
            bigtiff=is_big,
            compression=compression,
            tile=(256, 256),
            photometric="rgb",
            metadata=None,
        )


# What is done with a mutant, in the child.


def read_everything(path: Path, begin: Callable[[str], None]) -> Iterator[tuple[str, str | None]]:
    """Open and read a slide in every way of the pipeline: (stage, None or why it was refused)."""
    from trident.slides.registry import open_slide

    readers = [None] if path.suffix in (".png", ".jpg") else [None, "openslide", "image"]
    for reader in readers:
        label = reader or "default"
        begin(f"{label}: open")
        slide, why = _or_reason(path, lambda reader=reader: open_slide(path, reader_type=reader))
        if slide is not None and slide.mpp_or_none is None:
            slide, why = _or_reason(path, lambda reader=reader: open_slide(path, reader_type=reader, mpp=_GIVEN_MPP))
        yield f"{label}: open", why
        if slide is None:
            continue
        begin(f"{label}: thumbnail")
        yield f"{label}: thumbnail", _or_reason(path, lambda slide=slide: slide.thumbnail((512, 512)))[1]
        for stage, action in (("segmentation", _segment), ("regions", _regions), ("announced regions", _announced)):
            begin(f"{label} ({slide.reader_type}): {stage}")
            yield f"{label}: {stage}", _or_reason(path, lambda slide=slide, action=action: action(slide))[1]
        slide.close()


def _or_reason(path: Path, action: Callable[[], object]) -> tuple[object, str | None]:
    from trident.errors import TridentError

    try:
        return action(), None
    except TridentError as error:
        message = str(error)
        if "\n" in message or not message.startswith(str(path)):
            raise AssertionError(f"not one line that begins with the file: {message!r}") from error
        return None, message.removeprefix(f"{path}: ")


def _segment(slide: object) -> None:
    from trident.segmentation.contours import mask_to_polygons
    from trident.segmentation.otsu import OtsuSegmenter

    mask_to_polygons(OtsuSegmenter().segment(slide), cut_holes=True, slide_size=slide.dimensions)


def _regions(slide: object) -> None:
    from trident.errors import UnreadableSlideError

    failure = None
    for level, downsample in enumerate(slide.level_downsamples):
        for x, y in _corners(slide, level):
            try:
                slide.read_region((x, y), level, (_REGION_PX, _REGION_PX))
            except UnreadableSlideError as error:
                failure = error
        slide.read_region((int(-50 * downsample), int(-50 * downsample)), level, (64, 64))
    if failure is not None:
        raise failure


def _announced(slide: object) -> None:
    import numpy as np

    pixels = np.empty((_REGION_PX, _REGION_PX, 3), np.uint8)
    for level in range(len(slide.level_dimensions)):
        corners = np.array(_corners(slide, level), np.int64)
        regions = slide.announce_regions(level, _REGION_PX, corners)
        for index, corner in enumerate(corners.tolist() if regions is not None else ()):
            if not regions.read(index, pixels):
                slide.read_region(tuple(corner), level, (_REGION_PX, _REGION_PX))


def _corners(slide: object, level: int) -> list[tuple[int, int]]:
    """Corners of regions spread over the slide."""
    width_px, height_px = slide.dimensions
    step = max(1, round(_REGION_PX * slide.level_downsamples[level]), *(side // 7 for side in (width_px, height_px)))
    return [(x, y) for y in range(0, height_px, step) for x in range(0, width_px, step)][:_MAX_REGIONS]


# One process a mutant.


def examine(path: Path, memory_mib: int, time_s: float) -> Result:
    """Read a mutant in a forked process and say how that ended."""
    began = time.monotonic()
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as trace:
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _child(path, write_end, trace.fileno(), memory_mib, time_s)
        os.close(write_end)
        text, timed_out = _heard(read_end, began + time_s)
        if timed_out:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.close(read_end)
        _, status, usage = os.wait4(child, 0)
        trace.seek(0)
        frames = trace.read().decode("utf-8", "replace")
    seconds = round(time.monotonic() - began, 2)
    outcome, stage, detail = _judge([json.loads(line) for line in text.splitlines()], status, timed_out, frames)
    return Result(outcome, stage, detail, seconds, usage.ru_maxrss // 1024)


def _heard(read_end: int, deadline: float) -> tuple[bytes, bool]:
    """What the child wrote until it closed the pipe, and whether the deadline came first."""
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([read_end], [], [], left)[0]:
            block = os.read(read_end, 1 << 16)
            if not block:
                return text, False
            text += block
    return text, True


def _child(path: Path, report: int, trace: int, memory_mib: int, time_s: float) -> None:
    """Never returns."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    faulthandler.enable(trace)
    size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size_bytes + (memory_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))
    resource.setrlimit(resource.RLIMIT_CPU, (int(time_s) + 5, int(time_s) + 5))

    def say(**what: str | None) -> None:
        os.write(report, json.dumps(what).encode() + b"\n")

    try:
        for stage, why in read_everything(path, lambda stage: say(begun=stage)):
            say(stage=stage, why=why)
    except MemoryError:
        say(fault="out of memory", why=_where(sys.exc_info()[1]))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a fault that is reported
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        # OpenCV has a class of its own for it.
        fault = "out of memory" if "OutOfMemory" in text or "Insufficient memory" in text else "unexpected error"
        say(fault=fault, why=f"{text} at {_where(error)}")
    os._exit(0)


def _where(error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    ours = [frame for frame in frames if "/trident/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def _judge(said: list[dict[str, str | None]], status: int, timed_out: bool, frames: str) -> tuple[str, str, str]:
    """(outcome, stage, detail)."""
    begun = next((str(line["begun"]) for line in reversed(said) if "begun" in line), "start")
    fault = next((line for line in said if "fault" in line), None)
    if fault is not None:
        return str(fault["fault"]), begun, str(fault["why"])
    if timed_out:
        return "hang", begun, "it ran past the time limit"
    if os.WIFSIGNALED(status):
        return "crash", begun, f"{signal.Signals(os.WTERMSIG(status)).name} in {_native_call(frames)}"
    refused = [line for line in said if line.get("why") is not None and str(line["stage"]).startswith("default")]
    if refused:
        outcome = "refused when opened" if str(refused[0]["stage"]).endswith("open") else "refused later"
        return outcome, str(refused[0]["stage"]), str(refused[0]["why"])
    return ("read", begun, "") if said else ("unexpected error", begun, f"status {status}, and not a word")


def _native_call(frames: str) -> str:
    """The library's function that crashed, and our line that called it, from what faulthandler wrote."""
    calls = [line.strip() for line in frames.splitlines() if line.strip().startswith("File")]
    ours = next((call for call in calls if "/trident/" in call), None)
    return " under ".join(_short(call) for call in dict.fromkeys([*calls[:1], *([ours] if ours else [])])) or "no frame"


def _short(call: str) -> str:
    parts = call.split('"')
    return f"{Path(parts[1]).name}{parts[2].replace(', line ', ':')}" if len(parts) > 2 else call


def mutants(sources: Sequence[tuple[str, bytes]], numbers: Iterable[int], seed: int) -> Iterator[Mutant]:
    """The mutants of these numbers; each depends on the sound slides, the seed and its own number alone."""
    for number in numbers:
        name, data = sources[number % len(sources)]
        damage, mutant = mutate(data, Random(f"{seed}:{number}"))
        yield Mutant(number, name, damage, mutant)


def warm_up() -> None:
    """Import here what every child needs, so that a fork costs milliseconds. No slide is opened."""
    import cv2
    import openslide  # noqa: F401
    import tifffile  # noqa: F401

    import trident.segmentation.contours
    import trident.segmentation.otsu
    import trident.slides.cucim
    import trident.slides.image
    import trident.slides.openslide  # noqa: F401
    from trident.slides.eligibility import cucim_is_importable
    from trident.slides.jpeg_tiles import jpeg_decoder

    cv2.setNumThreads(1)  # its threads do not survive a fork
    cucim_is_importable()
    jpeg_decoder()
    logging.disable(logging.CRITICAL)


def table(results: Sequence[tuple[Mutant, Result]]) -> str:
    """Outcomes by kind of damage, as a Markdown table."""
    outcomes = (*GOOD, *FAULTS)
    counts = Counter((mutant.damage, result.outcome) for mutant, result in results)
    rows = [f"| damage | mutants | {' | '.join(outcomes)} |", "|---" * (len(outcomes) + 2) + "|"]
    for damage in sorted({damage for damage, _ in counts}):
        cells = [counts[damage, outcome] for outcome in outcomes]
        rows.append(f"| {damage} | {sum(cells)} | {' | '.join(map(str, cells))} |")
    totals = [sum(result.outcome == outcome for _, result in results) for outcome in outcomes]
    rows.append(f"| all | {len(results)} | {' | '.join(map(str, totals))} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants; the others are left out")
    parser.add_argument("--slides", type=Path, help="folder of sound slides to damage too (small ones)")
    parser.add_argument("--keep", type=Path, help="folder for the mutants that end in a fault (with --only: all)")
    parser.add_argument("--json", type=Path, help="file for every result")
    parser.add_argument("--memory_mib", type=int, default=1536, help="memory that a process may take")
    parser.add_argument("--time_s", type=float, default=30.0, help="time that a process may take")
    given = parser.parse_args()
    began = time.monotonic()
    results: list[tuple[Mutant, Result]] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        drawn = Path(scratch, "drawn")
        drawn.mkdir()
        sources = sound_slides(given.slides, drawn)
        warm_up()
        for mutant in mutants(sources, given.only or range(given.count), given.seed):
            path = Path(scratch, mutant.file_name)
            path.write_bytes(mutant.data)
            result = examine(path, given.memory_mib, given.time_s)
            path.unlink()
            results.append((replace(mutant, data=b""), result))
            if given.keep and (given.only or result.outcome in FAULTS):
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / mutant.file_name).write_bytes(mutant.data)
            if given.only or result.outcome in FAULTS:
                what = f"{mutant.number} {mutant.source} [{mutant.damage}]"
                print(f"{what}: {result.outcome} in {result.stage}: {result.detail}", flush=True)
    if given.json:
        facts = [{**asdict(mutant), **asdict(result), "data": None} for mutant, result in results]
        given.json.write_text(json.dumps(facts, indent=0))
    print(table(results))
    peak = max(result.peak_mib for _, result in results)
    slowest = max(result.seconds for _, result in results)
    print(f"\nlargest process {peak} MiB, slowest {slowest} s;", end=" ")
    print(f"{time.monotonic() - began:.0f} s in all, seed {given.seed}")
    return int(any(result.outcome in FAULTS for _, result in results))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
