"""`trident info`: what it prints for people and for scripts, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trident.cli import main
from trident.commands.info import printable
from trident.demo.svs import write_svs
from trident.exit_codes import FINISHED_WITH_FAILURES, OK, USAGE

Info = Callable[..., tuple[int, str, str]]


@pytest.fixture
def info(quiet_process: None, capsys: pytest.CaptureFixture[str]) -> Info:
    """Function (*arguments): exit code, stdout and stderr of `trident info`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["info", *map(str, arguments)])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "drawn.svs"
    noise = np.random.default_rng(1).integers(0, 256, (600, 1000, 3), dtype=np.uint8)
    write_svs(path, noise, mpp=0.5, magnification=40)
    return path


def test_text(info: Info, slide: Path) -> None:
    code, out, err = info(slide, "--reader_type", "openslide")
    assert (code, err) == (OK, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == str(slide)
    labelled = {line[:15].strip(): line[15:] for line in lines[1:9]}
    note = labelled.pop("note")
    assert labelled == {
        "format": f"aperio, {slide.stat().st_size:,} bytes",
        "reader": "openslide (asked for with --reader_type)",
        "size": "1000 x 600 px, 0.5 x 0.3 mm",
        "µm/px": "0.5 (openslide.mpp-x)",
        "magnification": "20x by its µm/px; objective power: 40x (openslide.objective-power)",
        "other images": "thumbnail 1000 x 600 px",
        "processable": "yes",
    }
    assert note.startswith("its metadata says objective power 40x")
    tables = [line.split() for line in lines[9:]]
    assert ["0", "1000", "600", "1", "256", "x", "256", "JPEG"] in tables
    assert ["1", "250", "150", "4", "256", "x", "256", "JPEG"] in tables
    assert ["openslide.mpp-x", "0.5", "0.5", "yes"] in tables
    assert ["aperio.MPP", "0.5", "0.5", "no"] in tables


def test_json(info: Info, slide: Path) -> None:
    code, out, err = info("--json", slide, "--mpp", "0.25", "--custom_mpp_keys", "aperio.AppMag", "absent")
    assert (code, err) == (OK, "")
    (found,) = json.loads(out)
    assert (found["path"], found["name"], found["format"]) == (str(slide), "drawn", "aperio")
    assert found["levels"][1] == {
        "level": 1,
        "width_px": 250,
        "height_px": 150,
        "downsample": 4.0,
        "tile_width_px": 256,
        "tile_height_px": 256,
        "compression": "JPEG",
    }
    assert (found["mpp"]["value"], found["mpp"]["source"]) == (0.25, "given")
    candidates = {one["key"]: (one["mpp"], one["used"]) for one in found["mpp"]["candidates"]}
    assert candidates == {
        "openslide.mpp-x": (0.5, False),
        "aperio.MPP": (0.5, False),
        "aperio.AppMag": (40.0, False),
        "openslide.comment": (None, False),
    }
    assert found["magnification"] == {
        "from_mpp": 40,
        "objective_power": 40.0,
        "objective_key": "openslide.objective-power",
    }
    assert found["associated_images"] == [{"name": "thumbnail", "width_px": 1000, "height_px": 600}]
    assert [note for note in found["notes"] if note.startswith("the given 0.25 µm/px is used")]
    assert (found["processable"], found["problems"]) == (True, [])


def test_what_keeps_a_slide_from_being_processed(info: Info, shared_slides: Path) -> None:
    path = shared_slides / "TCGA-CR-7395-no-mpp.svs"
    code, out, _ = info(path)
    assert code == OK
    assert "processable    no\n" in out
    assert "give it in the `mpp` column of --custom_list_of_wsis" in out
    (found,) = json.loads(info("--json", path)[1])
    assert found["processable"] is False
    assert found["mpp"]["value"] is None
    (found,) = json.loads(info("--json", path, "--mpp", 0.5)[1])
    assert found["processable"] is True


def test_where_no_key_is_there_the_keys_are_named(info: Info, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    code, out, _ = info(tmp_path / "a.png")
    assert code == OK
    assert "unknown: none of ome.PhysicalSizeX, openslide.mpp-x, " in out
    assert "used\n" not in out  # no table of keys


def test_one_bad_slide_costs_no_other(info: Info, slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"")
    code, out, err = info(bad, slide, tmp_path / "gone.svs")
    assert code == FINISHED_WITH_FAILURES
    assert err.splitlines() == [
        f"error: {bad}: the file is empty (0 bytes); fetch it again",
        f"error: {tmp_path / 'gone.svs'}: no such file; check the path",
    ]
    assert f"{slide}\n  format" in out
    code, out, err = info("--json", bad, slide)
    assert code == FINISHED_WITH_FAILURES
    first, second = json.loads(out)
    assert first == {"path": str(bad), "error": f"{bad}: the file is empty (0 bytes); fetch it again"}
    assert second["name"] == "drawn"


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"\0" * 5000, b"II*\0\x08\0\0\0\xff\xff\0\0", "cut", "folder"]
)
def test_bad_files_are_one_line(info: Info, slide: Path, tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "bad.svs"
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(slide.read_bytes()[:900] if isinstance(content, str) else content)
    code, out, err = info(path)
    assert (code, out) == (FINISHED_WITH_FAILURES, "")
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1


def test_hostile_names_and_values_cannot_steer_a_terminal(info: Info, tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31m red\nsecond line.png"
    facts = PngInfo()
    facts.add_text("mine\x1b[2J", "0.5\x1b[2J\nand more")
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path, pnginfo=facts)
    code, out, err = info(path, "--custom_mpp_keys", "mine\x1b[2J")
    assert (code, err) == (OK, "")
    assert "\x1b" not in out
    assert out.splitlines()[0].endswith("?[31m red second line.png")
    path.unlink()
    code, _, err = info(path)
    assert (code, err.count("\n"), "\x1b" in err) == (FINISHED_WITH_FAILURES, 1, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: SLIDE"),
        (["a.svs", "--mpp", "0"], "--mpp 0: give a positive number"),
        (["a.svs", "--mpp", "nan"], "--mpp nan"),
        (["a.svs", "--mpp", "wide"], "--mpp wide"),
        (["a.svs", "--reader_type", "magic"], "--reader_type magic: choose one of openslide"),
        (["a.svs", "--jsno"], "did you mean --json?"),
    ],
)
def test_wrong_options(info: Info, arguments: list[str], words: str) -> None:
    code, out, err = info(*arguments)
    assert (code, out) == (USAGE, "")
    assert words in err
    assert err.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import contextlib, io, sys\n"
        "from trident.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:\n"
        "    main(['info', '--help'])\n"
        "print('--custom_mpp_keys' in shown.getvalue())\n"
        "print(*sorted({'torch', 'cucim', 'tifffile', 'cv2', 'openslide'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


@pytest.mark.parametrize(
    ("text", "max_length", "expected"),
    [
        ("plain µm", None, "plain µm"),
        (" two\r\nlines\t", None, "two lines"),
        ("bell\x07 escape\x1b[0m", None, "bell? escape?[0m"),
        ("half a byte \udcff", None, "half a byte ?"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
    ],
)
def test_printable(text: str, max_length: Any, expected: str) -> None:
    assert printable(text, max_length) == expected
