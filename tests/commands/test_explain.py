"""`trident explain`: what it tells of a slide's stages, with and without options, and of slides that are gone."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from trident.cli import main
from trident.exit_codes import OK, USAGE
from trident.store.locks import OutputLock
from trident.store.recipes import RECIPE_KEY, sha256_of

ENCODERS = ("--patch_encoder", "stain-stats", "--slide_encoder", "mean-stain-stats")
OPTIONS = ("--task", "all", "--segmenter", "otsu", "--patch_size", "128", "--gpus", "-1", *ENCODERS)
KEYS = ["segmentation", "coords", "patch_features:stain-stats", "slide_features:mean-stain-stats"]
GRID = "20x_128px_0px_overlap"
TISSUE = "contours_geojson/a.geojson"
FEATURES = f"{GRID}/features_stain-stats/a.h5"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_slides: Callable[..., Path]) -> Path:
    """A finished job over one slide, as a run would leave it, and a slide that failed."""
    from trident.job import create_job
    from trident.settings import load_settings
    from trident.stages.base import run_stage
    from trident.stages.plan import JobStages
    from trident.stages.tracking import record_failure, record_result, record_start

    root = tmp_path_factory.mktemp("made")
    drawn_slides(root / "wsis", "a.svs")
    (root / "wsis" / "bad.svs").touch()
    options: dict[str, Any] = {"segmenter": "otsu", "patch_size": 128, "patch_encoder": "stain-stats", "task": "all"}
    options |= {"slide_encoder": "mean-stain-stats", "wsi_dir": root / "wsis", "job_dir": root / "job", "gpus": "-1"}
    stages = JobStages(create_job(load_settings(**options)))
    for stage in stages.all_of("a"):
        record_start(stage)
        record_result(stage, run_stage(stage))
    failing = stages.all_of("bad")[0]
    for _ in range(7):
        record_start(failing)
        record_failure(failing, ValueError("it is empty"))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose records still name the slides of the original; the current folder."""
    shutil.copytree(made / "job", tmp_path / "job")
    shutil.copytree(made / "wsis", tmp_path / "wsis")
    for path in (tmp_path / "job/wsi_states").glob("*.json"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


@pytest.fixture
def explain(quiet_process: None, capsys: pytest.CaptureFixture[str], root: Path) -> Callable[..., Any]:
    """Function (*arguments): exit code, what was printed (read as JSON with `--json`), and stderr."""

    def run(*arguments: object, job_dir: Path | None = None) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as end:
            main(["explain", *map(str, arguments), "--job_dir", str(job_dir or root / "job")])
        shown = capsys.readouterr()
        out = json.loads(shown.out) if "--json" in arguments and shown.out else shown.out
        return int(end.value.code or 0), out, shown.err

    return run


def _would(found: dict[str, Any]) -> dict[str, str]:
    return {stage["stage"]: stage["would"] for stage in found["stages"]}


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(one): (one.stat().st_size, one.stat().st_mtime_ns) for one in folder.rglob("*")}


@pytest.mark.parametrize("named", ["a", "a.svs", "wsis/a.svs", "/elsewhere/a.svs"])
def test_a_finished_slide(named: str, explain: Any, root: Path) -> None:
    before = _tree(root)
    code, found, err = explain(root / named if named.startswith("wsis") else named, "--json")
    assert (code, err, _tree(root)) == (OK, "", before)
    assert (found["slide"], found["path"], found["file_exists"]) == ("a", str(root / "wsis/a.svs"), True)
    assert _would(found) == dict.fromkeys(KEYS, "skip")
    tissue, coords, features, embedding = found["stages"]
    assert tissue["recipe"]["settings"]["segmenter"] == "otsu"
    assert {"trident_version", "host", "made_at", "reader"} <= tissue["recipe"]["facts"].keys()
    assert coords["inputs"][0] == {
        "input": "slide_bytes",
        "recorded": str((root / "wsis/a.svs").stat().st_size),
        "now": str((root / "wsis/a.svs").stat().st_size),
        "matches": True,
    }
    assert [one["matches"] for stage in found["stages"] for one in stage["inputs"]] == [True] * 6
    with h5py.File(root / "job" / FEATURES) as file:
        assert features["recipe"] == json.loads(file.attrs[RECIPE_KEY])
    assert features["record"]["attempts"][-1]["result"] == "completed"
    assert embedding["output"] == str(root / "job" / GRID / "slide_features_mean-stain-stats/a.h5")
    assert not any(stage["lock"] for stage in found["stages"])


def test_text(explain: Any, root: Path) -> None:
    code, out, _ = explain("a")
    lines = out.splitlines()
    assert code == OK
    assert lines[0] == f"a: {root / 'wsis/a.svs'}, {(root / 'wsis/a.svs').stat().st_size:,} bytes"
    assert (
        f"coords ({GRID}): would skip: made from what is there now; the same settings would not run it again" in lines
    )
    assert sum(line.startswith("  recorded: completed: ") for line in lines) == 4
    assert sum(line.endswith(", as it is now") for line in lines) == 6


def test_an_edited_outline_makes_what_follows_stale(explain: Any, root: Path) -> None:
    path = root / "job" / TISSUE
    content = json.loads(path.read_text())
    del content["features"][1:]
    path.write_text(json.dumps(content))
    _, found, _ = explain("a", "--json")
    assert list(_would(found).values()) == ["skip", "run", "skip", "skip"]
    coords = found["stages"][1]
    assert coords["why"] == "made from another tissue than there is now"
    (tissue,) = [one for one in coords["inputs"] if one["input"] == "tissue"]
    assert tissue["matches"] is False
    assert tissue["recorded"] != tissue["now"] != sha256_of(path)  # of what it says, not of its bytes
    assert "  made from tissue: " in explain("a")[1]
    _, asked, _ = explain("a", *OPTIONS, "--json")
    assert list(_would(asked).values()) == ["skip", "run", "skip", "skip"]
    for answer in (found, asked):
        caveats = [stage["why"].endswith("; made anew if coords turns out different") for stage in answer["stages"]]
        assert caveats == [False, False, True, True]


def test_outputs_that_are_gone_damaged_or_foreign(explain: Any, root: Path) -> None:
    job = root / "job"
    (job / FEATURES).unlink()
    (job / GRID / "patches/a_patches.h5").write_bytes(b"no HDF5")
    content = json.loads((job / TISSUE).read_text())
    del content[RECIPE_KEY]
    (job / TISSUE).write_text(json.dumps(content))
    _, found, _ = explain("a", "--json")
    tissue, coords, features, embedding = found["stages"]
    assert (tissue["would"], tissue["why"]) == ("skip", "made by another program, and accepted as it is")
    assert (coords["would"], "a_patches.h5" in coords["damage"]) == ("run", True)
    assert (features["would"], features["why"], features["exists"]) == ("run", "its output is gone", False)
    assert (embedding["would"], embedding["inputs"][0]["matches"]) == ("skip", None)
    assert "damaged: " in explain("a")[1]
    for options in ((), ("--wsi_dir", root / "wsis", *OPTIONS)):
        _, text, _ = explain("a", *options)
        assert "coords (20x_128px_0px_overlap): would run: " in text
        assert "--overwrite" not in text, "it is made again without that"


def test_a_damaged_outline_stops_with_and_without_options(explain: Any, root: Path) -> None:
    """Somebody may have drawn it: a run leaves it alone."""
    (root / "job" / TISSUE).write_bytes((root / "job" / TISSUE).read_bytes()[:200])
    for options in ((), ("--wsi_dir", root / "wsis", *OPTIONS)):
        code, found, _ = explain("a", *options, "--json")
        assert code == OK
        assert (found["stages"][0]["stage"], found["stages"][0]["would"]) == ("segmentation", "stop")
        assert "is not GeoJSON" in found["stages"][0]["why"]


def test_a_copied_job_directory_is_not_mixed_with_the_original(explain: Any, root: Path) -> None:
    shutil.copytree(root / "job", root / "copy")
    code, found, _ = explain("a", "--json", job_dir=root / "copy")
    assert code == OK
    assert [stage["stage"] for stage in found["stages"]] == KEYS
    assert all(stage["output"].startswith(str(root / "copy")) for stage in found["stages"])
    assert {stage["record"]["status"] for stage in found["stages"]} == {"completed"}


def test_options_are_compared_with_what_was_made(explain: Any, root: Path) -> None:
    _, same, _ = explain("a", *OPTIONS, "--json")
    assert _would(same) == dict.fromkeys(KEYS, "skip")
    assert {stage["why"] for stage in same["stages"]} == {"exists with the same settings"}
    _, other, _ = explain("a", *OPTIONS, "--min_tissue_proportion", "0.5", "--json")
    assert list(_would(other).values()) == ["skip", "stop", "skip", "skip"]
    assert "min_tissue_proportion: 0.0 -> 0.5" in other["stages"][1]["why"]
    _, anew, _ = explain("a", *OPTIONS, "--overwrite", "--json")
    assert set(_would(anew).values()) == {"run"}
    _, less, _ = explain("a", "--task", "seg", "--segmenter", "otsu", "--json")
    assert list(_would(less).values()) == ["skip", *["not known"] * 3]
    _, grid, _ = explain("a", *OPTIONS, "--patch_size", "64", "--json")
    assert [(one["stage"], one["grid"], one["would"]) for one in grid["stages"] if one["would"] == "run"] == [
        (key, "20x_64px_0px_overlap", "run") for key in KEYS[1:]
    ]


def test_a_job_directory_may_be_named_by_a_way_round(explain: Any, root: Path) -> None:
    (root / "round").mkdir()
    for options in ((), OPTIONS):
        _, found, _ = explain("a", *options, "--json", job_dir=root / "round/../job")
        assert _would(found) == dict.fromkeys(KEYS, "skip")


@pytest.mark.parametrize("with_folder", [True, False])
def test_a_slide_that_is_gone(with_folder: bool, explain: Any, root: Path) -> None:
    slide = root / "wsis/a.svs"
    slide.unlink()
    folder = ["--wsi_dir", root / "wsis"] if with_folder else []
    code, found, _ = explain(slide, "--json", *folder)
    assert (code, found["path"], found["file_exists"]) == (OK, str(slide), False)
    assert _would(found) == dict.fromkeys(KEYS, "skip")
    assert "slide file cannot be compared: gone" in found["stages"][0]["why"]
    _, asked, _ = explain("a", *OPTIONS, *folder, "--json")
    assert _would(asked) == dict.fromkeys(KEYS, "skip")
    (root / "job" / FEATURES).unlink()
    for options in ((), (*OPTIONS, *folder)):
        _, found, _ = explain("a", *options, "--json")
        features = found["stages"][2]
        assert features["would"] == "stop"
        assert features["why"].endswith(f", and the slide {slide} is gone")
    assert f"a: {slide}, which is gone" in explain("a")[1]


def test_outputs_without_any_record(explain: Any, root: Path) -> None:
    """As another program leaves them, or after somebody removed the states."""
    shutil.rmtree(root / "job/wsi_states")
    _, found, _ = explain("a", "--json")
    assert found["path"] is None
    assert _would(found) == dict.fromkeys(KEYS, "skip")
    assert explain(root / "wsis/a.svs", "--json")[1]["path"] == str(root / "wsis/a.svs")


def test_a_failed_slide_shows_its_last_attempts(explain: Any) -> None:
    _, found, _ = explain("bad.svs", "--json")
    (tissue,) = found["stages"]
    assert (tissue["would"], tissue["why"]) == ("run", "its last attempt failed")
    assert (tissue["record"]["attempts_in_all"], len(tissue["record"]["attempts"])) == (7, 5)
    assert {one["error"] for one in tissue["record"]["attempts"]} == {"ValueError: it is empty"}
    assert "error" in explain("bad")[1]


def test_locks(explain: Any, root: Path) -> None:
    with OutputLock(root / "job" / FEATURES):
        _, found, _ = explain("a", "--json")
        lock = found["stages"][2]["lock"]
        assert (lock["in_use"], lock["state"]) == (True, "alive")
        assert f"process {os.getpid()} on " in lock["holder"]
        assert "): in use\n" in explain("a")[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "locked by an unknown process (its lock is unreadable): may be in use (unknown)"),
        ({"hostname": "HERE", "pid": "MINE"}, ": may be in use (alive)"),
        (
            {"hostname": "elsewhere", "pid": 7},
            "locked by process 7 on elsewhere (since an unknown time): may be in use",
        ),
        ({"hostname": "HERE", "pid": 2**22 + 5}, ": left behind (dead)"),
    ],
)
def test_a_lock_of_another_tool_is_left_behind_only_where_its_process_is_dead(
    content: dict[str, Any], words: str, explain: Any, root: Path
) -> None:
    """As a run sees it, which waits for any other."""
    here = {"HERE": socket.gethostname(), "MINE": os.getpid()}
    lock = {key: here.get(str(value), value) for key, value in content.items()}
    (root / "job" / f"{FEATURES}.lock").write_text(json.dumps(lock))
    assert words in explain("a")[1]


def test_a_moved_slide_has_two_records_and_the_path_decides(explain: Any, root: Path) -> None:
    (state,) = (root / "job/wsi_states").glob("a__*.json")
    content = json.loads(state.read_text())
    content["slide"]["abs_path"] = "/old/a.svs"
    content["updated_at"] = "2001-01-01T00:00:00+00:00"
    state.with_name("a__0123456789ab.json").write_text(json.dumps(content))
    assert explain("a", "--json")[1]["path"] == str(root / "wsis/a.svs")
    assert explain("/old/a.svs", "--json")[1]["path"] == "/old/a.svs"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: SLIDE"),
        (["nobody"], "no trace of a slide 'nobody' here; name it as its outputs are"),
        (["bat.svs"], "did you mean bad?"),
        (["../../etc/passwd"], "no trace of a slide 'passwd'"),
        (["nul\0byte"], "no trace of a slide"),
        (["a", "--patch_encoder", "uni_v3"], "did you mean 'uni_v2'"),
        (["a", "--jsno"], "did you mean --json?"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, explain: Any) -> None:
    code, out, err = explain(*arguments)
    assert (code, out) == (USAGE, "")
    assert words in err
    assert err.count("\n") == 1


def test_not_a_job_directory(explain: Any, root: Path) -> None:
    code, _, err = explain("a", job_dir=root / "nowhere")
    assert (code, "no such job directory; check --job_dir" in err) == (USAGE, True)
    (root / "empty").mkdir()
    assert explain("a", job_dir=root / "empty")[0] == USAGE


def test_a_folder_that_cannot_be_looked_into_is_told_in_one_line(
    explain: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trident.viz.report import stages

    def refuse(folder: Path, suffix: str) -> frozenset[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(stages, "_slides", refuse)
    code, out, err = explain("a")
    assert (code, out, err.count("\n")) == (USAGE, "", 1)
    assert "contours_geojson: cannot be read: Permission denied" in err


def test_strange_records_do_no_harm(explain: Any, root: Path) -> None:
    (state,) = (root / "job/wsi_states").glob("a__*.json")
    content = json.loads(state.read_text())
    content["slide"]["abs_path"] = ["not", "a", "path"]
    content["summary"]["notes"] = ["\x1b[2J cleared"]
    content["tasks"]["coords"] |= {"outputs": {"coords": {"path": 7}}, "timings": "none", "message": {"no": "text"}}
    state.write_text(json.dumps(content))
    code, out, _ = explain("a")
    assert (code, "\x1b" in out) == (OK, False)
    assert "note: ?[2J cleared" in out
