"""`trident plan`: what it says about a run, that the run then does it, and that nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.cli import main
from trident.commands import plan as command
from trident.exit_codes import FINISHED_WITH_FAILURES, OK, USAGE
from trident.plan.show import duration, size
from trident.store import h5

ENCODERS = ("--patch_encoder", "stain-stats", "--slide_encoder", "mean-stain-stats")
OPTIONS = ("--task", "all", "--segmenter", "otsu", "--patch_size", "128", "--gpus", "-1", *ENCODERS)
GRID = "20x_128px_0px_overlap"
FEATURES = "patch_features:stain-stats"

Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(quiet_process: None, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Function (*arguments): exit code, stdout and stderr of `trident plan`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["plan", *map(str, arguments)])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def job(tmp_path: Path, drawn_slides: Callable[..., Path]) -> Callable[..., list[object]]:
    """Function (*slides, *options): arguments for a job over drawn slides."""

    def arguments(*names: str) -> list[object]:
        drawn_slides(tmp_path / "wsis", *names)
        return ["--wsi_dir", tmp_path / "wsis", "--job_dir", tmp_path / "job", *OPTIONS]

    return arguments


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def _stages(slide: dict[str, Any]) -> dict[str, str]:
    return {stage["stage"]: stage["action"] for stage in slide["stages"]}


def test_a_plan_comes_true(plan: Plan, job: Any, run_batch: Any, tmp_path: Path) -> None:
    arguments = job("a.svs", "b.svs", "c.svs")
    code, out, _ = plan(*arguments, "--format", "json")
    before = json.loads(out)
    assert code == OK
    assert not (tmp_path / "job").exists()
    assert {_stages(slide)[FEATURES] for slide in before["slides"]} == {"run"}
    assert set(before["unknown_time"]) == {"segmentation", "coords", FEATURES, "slide_features:mean-stain-stats"}
    assert before["totals"]["seconds"] is None
    assert before["gpu_memory"] is None

    assert run_batch(*arguments).code == OK
    real = {name: h5.read_header(tmp_path / "job" / GRID / f"patches/{name}_patches.h5").n_coords for name in "abc"}
    assert {slide["name"]: slide["patches"] for slide in before["slides"]} == real
    assert {slide["patches_from"] for slide in before["slides"]} == {"thumbnail"}
    written = sum(path.stat().st_size for path in (tmp_path / "job" / GRID).glob("*features*/*.h5"))
    planned = sum(stage["bytes"] for stage in before["stages"] if "features" in stage["stage"])
    assert planned == pytest.approx(written, rel=0.1, abs=6 * 4096)

    tree = _tree(tmp_path / "job")
    (tmp_path / "job" / GRID / "features_stain-stats/a.h5").unlink()
    (tmp_path / "job" / GRID / "patches/b_patches.h5").unlink()
    tree = _tree(tmp_path / "job")
    code, out, _ = plan(*arguments, "--format", "json")
    after = {slide["name"]: slide for slide in json.loads(out)["slides"]}
    assert (code, _tree(tmp_path / "job")) == (OK, tree)
    assert list(_stages(after["a"]).values()) == ["skip", "skip", "run", "skip?"]
    assert list(_stages(after["b"]).values()) == ["skip", "run", "skip?", "skip?"]
    assert set(_stages(after["c"]).values()) == {"skip"}
    assert "made anew if coords turns out different" in after["b"]["stages"][2]["why"]
    assert [after[name]["patches_from"] for name in "abc"] == ["coordinates", "outlines", None]
    assert [after[name]["patches"] for name in "ab"] == [real["a"], real["b"]]
    found = json.loads(out)
    assert found["unknown_time"] == {}
    assert found["rates"][FEATURES]["from"] == f"2 slides in {tmp_path / 'job'}"
    assert found["totals"]["seconds"] > 0
    assert found["totals"]["slides_to_run"] == 2
    assert found["totals"]["slides_done"] == 1

    other = ["--job_dir" if one == "--job_dir" else one for one in arguments]
    other[other.index(tmp_path / "job")] = tmp_path / "new"
    _, out, _ = plan(*other, "--format", "json", "--records", tmp_path / "job")
    assert json.loads(out)["unknown_time"] == {}


def test_slides_that_will_fail(plan: Plan, job: Any, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from trident.demo.svs import write_svs

    arguments = job("good.svs")
    wsis = tmp_path / "wsis"
    whole = (wsis / "good.svs").read_bytes()
    (wsis / "empty.svs").touch()
    (wsis / "cut.svs").write_bytes(whole[: len(whole) // 3])
    (wsis / "text.svs").write_text("not found")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(wsis / "no_mpp.png")
    write_svs(wsis / "coarse.svs", np.full((300, 300, 3), 200, np.uint8), mpp=4.0, magnification=2.5)
    code, out, _ = plan(*arguments, "--format", "json")
    found = {slide["name"]: slide for slide in json.loads(out)["slides"]}
    assert code == FINISHED_WITH_FAILURES
    words = {
        "empty": "the file is empty",
        "cut": "",
        "text": "it is a text file",
        "no_mpp": "resolution (µm/px) is not in its metadata",
        "coarse": "5x",
    }
    assert {name for name, slide in found.items() if slide["will_fail"]} == set(words)
    for name, word in words.items():
        assert word in found[name]["problem"], name
    code, out, _ = plan(*arguments)
    assert code == FINISHED_WITH_FAILURES
    assert "6 slides: 1 to run, 0 done, 5 will fail" in out
    assert f"will fail: {wsis / 'empty.svs'}: the file is empty (0 bytes); fetch it again" in out.splitlines()


def test_what_will_not_be_made_is_not_counted(plan: Plan, job: Any, run_batch: Any, tmp_path: Path) -> None:
    arguments = job("a.svs", "b.svs")
    (tmp_path / "wsis" / "b.svs").write_bytes(b"no slide")
    code, out, _ = plan(*arguments)
    assert code == FINISHED_WITH_FAILURES
    assert "2 slides: 1 to run, 0 done, 1 will fail; stages: 4 to run, 0 to skip, 0 to stop" in out
    (tmp_path / "wsis" / "b.svs").unlink()
    assert run_batch(*arguments).code == OK
    code, out, _ = plan(*arguments)
    assert code == OK
    assert "stages: 0 to run, 4 to skip, 0 to stop\npatches: none to make\n" in out


def test_other_settings_and_missing_stages_stop(plan: Plan, job: Any, run_batch: Any, tmp_path: Path) -> None:
    arguments = job("a.svs")
    assert run_batch(*arguments, "--task", "coords").code != OK  # the outlines are not there
    code, out, _ = plan(*arguments, "--task", "coords", "--format", "json")
    (slide,) = json.loads(out)["slides"]
    assert (code, _stages(slide)) == (FINISHED_WITH_FAILURES, {"coords": "stop"})
    assert "--task does not include segmentation" in slide["problem"]
    assert run_batch(*arguments, "--task", "seg").code == OK
    assert plan(*arguments)[0] == OK
    code, out, _ = plan(*arguments, "--remove_holes", "--format", "json")
    (slide,) = json.loads(out)["slides"]
    assert (code, _stages(slide)["segmentation"]) == (FINISHED_WITH_FAILURES, "stop")
    assert "remove_holes: false -> true" in slide["problem"]
    assert plan(*arguments, "--remove_holes", "--overwrite")[0] == OK


def test_missing_weights_are_told_for_each_slide(
    plan: Plan, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    arguments = [one for one in job("a.svs", "b.svs") if one not in ENCODERS]
    code, out, _ = plan(*arguments, "--patch_encoder", "uni_v1", "--calibrate", "--format", "json")
    found = json.loads(out)
    assert code == FINISHED_WITH_FAILURES
    assert all("its weights are not on this machine" in slide["problem"] for slide in found["slides"])
    assert found["weights"][0]["state"] == "missing"


def test_gpu_memory_is_told_for_a_run_on_gpus(
    plan: Plan, job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trident.devices.usable", lambda indices: indices)
    file = tmp_path / "uni.bin"
    file.write_bytes(b"weights")
    arguments = [one for one in job("a.svs") if one not in ENCODERS]
    arguments[arguments.index("-1")] = "0"
    code, out, _ = plan(*arguments, "--patch_encoder", "uni_v1", "--patch_encoder_ckpt_path", file, "--format", "json")
    memory = json.loads(out)["gpu_memory"]
    assert code == OK
    (model,) = memory["models"]
    assert model["weights_bytes"] == pytest.approx(4 * 303e6, rel=0.01)
    assert memory["bytes"] == model["weights_bytes"] + 2 * model["activations_bytes"] + (500 << 20)
    code, out, _ = plan(*arguments, "--patch_encoder", "uni_v1", "--patch_encoder_ckpt_path", file)
    assert "GPU memory: roughly " in out


def test_calibration_fills_what_no_record_tells(plan: Plan, job: Any, tmp_path: Path) -> None:
    arguments = job("a.svs", "b.svs")
    code, out, _ = plan(*arguments, "--calibrate", "--max_workers", "0", "--format", "json")
    found = json.loads(out)
    assert code == OK
    assert found["unknown_time"] == {}
    assert set(found["rates"]) == {"segmentation", "coords", FEATURES, "slide_features:mean-stain-stats"}
    assert "patches measured on " in found["rates"][FEATURES]["from"]
    assert all(stage["seconds"] > 0 for stage in found["stages"])
    assert not (tmp_path / "job").exists()


def test_glass_leaves_nothing_to_measure_on(plan: Plan, job: Any, tmp_path: Path) -> None:
    import numpy as np

    from trident.demo.svs import write_svs

    arguments = job()
    write_svs(tmp_path / "wsis/glass.svs", np.full((600, 800, 3), 244, np.uint8), mpp=0.5, magnification=20)
    code, out, _ = plan(*arguments, "--calibrate")
    assert code == OK
    assert "not known: no slide that will run has tissue to measure on" in out


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--records", "nowhere"], "--records nowhere: no such folder"),
        (["--patch_encoder", "uni_v3"], "did you mean 'uni_v2'"),
        (["--overlap", "128"], "--overlap 128 must be smaller"),
        (["--calibrat"], "did you mean --calibrate?"),
    ],
)
def test_wrong_options(extra: list[str], words: str, plan: Plan, job: Any) -> None:
    code, out, err = plan(*job("a.svs"), *extra)
    assert (code, out) == (USAGE, "")
    assert words in err.splitlines()[-1]


def test_two_slides_with_one_name_are_refused_as_the_run_does(plan: Plan, job: Any, tmp_path: Path) -> None:
    arguments = job("a.svs")
    shutil.copy(tmp_path / "wsis/a.svs", tmp_path / "wsis/a.tif")
    code, out, err = plan(*arguments)
    assert (code, out) == (USAGE, "")
    assert "two slides would write the same outputs" in err
    assert "a: a.svs, a.tif" in err


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only"])
def test_a_job_directory_that_cannot_be_written_is_refused_as_the_run_does(
    kind: str, plan: Plan, job: Any, run_batch: Any, tmp_path: Path
) -> None:
    arguments = job("a.svs")
    if kind == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (tmp_path / "job").mkdir(mode=0o555)
    else:
        file = tmp_path / "wsis/a.svs"
        arguments[arguments.index(tmp_path / "job")] = file if kind == "file" else file / "job"
    code, out, _ = plan(*arguments)
    assert (code, "cannot be written; make it writable" in out) == (USAGE, True)
    assert run_batch(*arguments).code == USAGE


def test_what_edited_outlines_may_have_made_anew_is_told_with_its_cost(
    plan: Plan, job: Any, run_batch: Any, tmp_path: Path
) -> None:
    arguments = job("a.svs", "b.svs")
    assert run_batch(*arguments).code == OK
    for path in (tmp_path / "job/contours_geojson").glob("*.geojson"):
        content = json.loads(path.read_text())
        del content["features"][1:]
        square = [[256, 256], [640, 256], [640, 640], [256, 640], [256, 256]]
        content["features"][0]["geometry"] = {"type": "Polygon", "coordinates": [square]}
        path.write_text(json.dumps(content))
    code, out, _ = plan(*arguments)
    lines = out.splitlines()
    assert (code, lines[1].split()[:7]) == (OK, ["a.svs", "9", "outlines", "skip", "run", "skip?", "skip?"])
    assert "stages: 2 to run, 6 to skip, 0 to stop" in out
    more = next(line for line in lines if line.startswith("up to 4 stages and "))
    assert more.endswith(" more if coordinates turn out different (skip?)")
    _, out, _ = plan(*arguments, "--format", "json")
    found = json.loads(out)
    stages = [stage for slide in found["slides"] for stage in slide["stages"]]
    maybe, sure = ([one for one in stages if one["action"] == action] for action in ("skip?", "run"))
    expected = {
        "stages": 4,
        "seconds": pytest.approx(sum(one["seconds"] for one in maybe)),
        "bytes": sum(one["bytes"] for one in maybe),
        "if_different": ["coords"],
    }
    assert found["totals"]["may_run"] == expected
    assert all(one["seconds"] > 0 and one["bytes"] > 8000 for one in maybe)
    assert (found["totals"]["bytes"], found["disk"]["bytes"]) == (sum(one["bytes"] for one in sure),) * 2
    assert set(found["rates"]) == {"coords", FEATURES, "slide_features:mean-stain-stats"}
    assert run_batch(*arguments).code == OK
    made = (tmp_path / "job" / GRID).glob("*features_*/*.h5")
    assert [h5.read_header(path).n_coords for path in made] == [9] * 4, "the run did make them anew"
    assert "skip?" not in plan(*arguments)[1]


def test_a_hostile_name_cannot_steer_a_terminal(plan: Plan, job: Any, tmp_path: Path) -> None:
    arguments = job("a.svs")
    (tmp_path / "wsis/\x1b[31mred\n.svs").touch()
    code, out, _ = plan(*arguments)
    assert (code, "\x1b" in out) == (FINISHED_WITH_FAILURES, False)
    assert "?[31mred" in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "not known"),
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (None, "not known"),
        (999, "999 B"),
        (12_345, "12 kB"),
        (1_230_000, "1.2 MB"),
        (123e9, "123 GB"),
        (5e12, "5.0 TB"),
    ],
)
def test_size(n_bytes: float | None, text: str) -> None:
    assert size(n_bytes) == text


def test_the_hint_names_options_that_exist() -> None:
    assert "--calibrate" in command._HINT
    assert "--records" in command._HINT


def test_what_libraries_print_stays_out_of_the_result(
    quiet_process: None, job: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trident.plan.planner import Planner

    looks = Planner.looks

    def noisy(planner: Planner) -> Any:
        os.write(1, b"dlopen error\n")
        return looks(planner)

    monkeypatch.setattr(Planner, "looks", noisy)
    assert command.run([*map(str, job("a.svs")), "--format", "json"]) == OK
    shown = capfd.readouterr()
    assert json.loads(shown.out)["totals"]["slides"] == 1
    assert "dlopen error" in shown.err
