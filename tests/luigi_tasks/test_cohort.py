"""Runs over a folder of slides: what is made, what is skipped, what is redone, and what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from luigi_tasks import cohort
from trident.exit_codes import FINISHED_WITH_FAILURES, OK, STOPPED, USAGE
from trident.store.recipes import RECIPE_KEY

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "_POLL_S", 0.01)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _drop_all_but_first(content: dict[str, Any]) -> None:
    del content["features"][1:]


def test_a_run_makes_everything_and_a_second_one_nothing(
    run: Run, wsis: Path, job: Any, left_behind: Callable[[Path], list[Path]]
) -> None:
    done = run("all")
    assert (done.code, done.out) == (OK, "")
    assert "2 slides: 8 stages made, 0 were done" in done.err
    for slide in "ab":
        assert all(path.is_file() for path in job.outputs(slide))
        assert set(job.statuses(slide).values()) == {"completed"}
    assert left_behind(job.path) == []
    before = {slide: job.stamps(slide) for slide in "ab"}
    again = run("all")
    assert again.code == OK
    assert "nothing to do: all 8 stages of 2 slides are done" in again.err
    assert {slide: job.stamps(slide) for slide in "ab"} == before
    assert "skipped: 2" in job.last_run()
    assert "completed: " not in job.last_run().partition("### Stages")[2]
    assert [manifest["status"] for manifest in job.manifests()] == ["completed", "completed"]
    assert job.attempts("a") == {stage: ["completed"] for stage in job.attempts("a")}


def test_stages_run_one_at_a_time_are_the_same_as_all_at_once(run: Run, wsis: Path, job: Any, tmp_path: Path) -> None:
    assert run("all").code == OK
    together = {path.name: path for path in job.outputs("a")}
    job.path.rename(tmp_path / "together")
    for task, made in (("seg", 1), ("coords", 2), ("feat", 4)):
        assert run(task).code == OK
        assert [path.exists() for path in job.outputs("a")] == [True] * made + [False] * (4 - made)
    for alone in job.outputs("a")[1:]:
        other = tmp_path / "together" / alone.relative_to(job.path)
        with h5py.File(alone) as one, h5py.File(other) as two:
            assert set(one) == set(two)
            for name in one:
                np.testing.assert_array_equal(one[name][()], two[name][()])
    assert len(together) == 3


def test_a_stage_without_the_one_before_it_says_so(run: Run, wsis: Path, job: Any) -> None:
    done = run("coords")
    assert done.code == STOPPED
    assert "a: coords failed: " in done.err
    assert f"{job.tissue('a')} is missing and --task does not include segmentation" in done.err
    assert "run with --task all, or run that stage first" in done.err
    assert job.statuses("a") == {"coords": "error"}
    assert "coords\tstop\t" in run("coords", "--dry_run").out


# What cannot be read


def test_bad_slides_cost_only_themselves(
    run: Run, wsis: Path, job: Any, left_behind: Callable[[Path], list[Path]]
) -> None:
    (wsis / "empty.svs").write_bytes(b"")
    (wsis / "folder.svs").mkdir()
    (wsis / "text.svs").write_text("404 not found")
    (wsis / "cut.svs").write_bytes((wsis / "a.svs").read_bytes()[:3000])
    done = run("all", "--skip_errors")
    bad = {"empty": "empty", "folder": "directory", "text": "text file", "cut": "cut off"}
    assert done.code == FINISHED_WITH_FAILURES
    assert "Traceback" not in done.err
    assert "4 of 6 slides failed" in done.err
    for slide in "ab":
        assert all(path.is_file() for path in job.outputs(slide))
    errors = job.last_run().partition("### Errors (4)")[2]
    for slide, why in bad.items():
        (line,) = [line for line in errors.splitlines() if f"`{slide}.svs`" in line]
        assert why in line
        assert f"{wsis / slide}.svs".replace("_", r"\_") in line
        assert job.statuses(slide) == {"segmentation": "error"}
        state = job.state(slide)
        assert (state["resume"]["last_status"], len(state["tasks"]["segmentation"]["attempts"])) == ("error", 1)
        assert why in state["tasks"]["segmentation"]["message"]
    log = (job.path / "_logs_segmentation.txt").read_text()
    assert sorted(line.split(":")[0] for line in log.splitlines()) == sorted(f"{name}.svs" for name in (*bad, "a", "b"))
    assert job.manifests()[0]["status"] == "error"
    assert left_behind(job.path) == []


def test_mended_slides_are_picked_up_by_the_next_run(run: Run, wsis: Path, job: Any) -> None:
    whole = (wsis / "b.svs").read_bytes()
    (wsis / "b.svs").write_bytes(b"")
    assert run("seg", "--skip_errors").code == FINISHED_WITH_FAILURES
    (wsis / "b.svs").write_bytes(whole)
    assert run("seg", "--skip_errors").code == OK
    assert job.attempts("b") == {"segmentation": ["error", "completed"]}
    assert job.attempts("a") == {"segmentation": ["completed"]}


def test_without_skip_errors_the_run_stops_at_the_first_failure(
    run: Run, wsis: Path, job: Any, drawn_slides: Callable[..., Path]
) -> None:
    drawn_slides(wsis, "c.svs")
    (wsis / "b.svs").write_bytes(b"")
    done = run("all")
    assert done.code == STOPPED
    assert "1 of 3 slides failed" in done.err
    assert "--skip_errors" in done.err
    assert job.embedding("a").is_file()
    assert not job.tissue("c").exists()
    assert not list((job.path / "wsi_states").glob("c__*"))
    assert "not_started: 2" in job.last_run()


@pytest.mark.parametrize("row", ["gone.svs", "../a.svs"])
def test_a_list_that_names_what_is_not_there_is_refused_at_once(
    run: Run, wsis: Path, job: Any, tmp_path: Path, row: str
) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f"wsi\na.svs\n{row}\n")
    done = run("seg", "--custom_list_of_wsis", table, "--skip_errors")
    assert (done.code, done.err.count("\n")) == (USAGE, 1)
    assert f"{table}: line 3: {row}" in done.err
    assert not job.path.exists()


def test_two_slides_with_one_name_are_refused_at_once(run: Run, wsis: Path, job: Any) -> None:
    (wsis / "deep").mkdir()
    shutil.copyfile(wsis / "a.svs", wsis / "deep" / "a.svs")
    assert run("seg", "--dry_run").code == OK
    done = run("seg", "--search_nested", "--skip_errors")
    assert (done.code, done.err.count("\n")) == (USAGE, 1)
    assert "a: a.svs, deep/a.svs" in done.err
    assert not job.path.exists()


# Slides with little to find


def test_a_slide_without_tissue_gives_valid_empty_outputs(
    run: Run, tmp_path: Path, job: Any, draw_image: Callable[..., None]
) -> None:
    draw_image(tmp_path / "wsis/white.svs")
    assert run("all", "--dump_patches").code == OK
    assert json.loads(job.tissue("white").read_text())["features"] == []
    with h5py.File(job.coords("white")) as file:
        assert (file["coords"].shape, file["coords"].dtype) == ((0, 2), np.int64)
        assert file["coords"].attrs["level0_magnification"] == 40
    with h5py.File(job.features("white")) as file:
        shape = file["features"].shape
        assert (shape[0], file["features"].dtype) == (0, np.float32)
        assert shape[1] > 0
        assert file["coords"].shape == (0, 2)
        assert file["coords"].attrs["patch_size_level0"] == 256
    with h5py.File(job.embedding("white")) as file:
        assert file["features"].shape == (shape[1],)
        assert not file["features"][()].any()
    messages = {key.split(":")[0]: task["message"] for key, task in job.state("white")["tasks"].items()}
    assert messages["segmentation"] == "no tissue found"
    assert messages["coords"].startswith("no patches: no tissue")
    assert "no patches" in messages["slide_features"]
    assert "nothing to do" in run("all", "--dump_patches").err


def test_a_slide_without_resolution_says_what_to_do_and_the_list_helps(
    run: Run, tmp_path: Path, job: Any, draw_image: Callable[..., None]
) -> None:
    draw_image(tmp_path / "wsis/plain.png", (200, 90, 140))
    done = run("coords", "--skip_errors")
    assert done.code == FINISHED_WITH_FAILURES
    done = run("seg")
    assert done.code == STOPPED
    assert "--custom_mpp_keys" in done.err
    assert "--custom_list_of_wsis" in done.err
    table = tmp_path / "list.csv"
    table.write_text("wsi,mpp\nplain.png,0.25\n")
    assert run("all", "--custom_list_of_wsis", table).code == OK
    meta = job.state("plain")["meta"]
    assert (meta["mpp"], meta["mag"], meta["dimensions"]) == (0.25, 40, [1024, 768])
    assert job.state("plain")["slide"]["reader_type"] == "image"


# Doing it again


def test_an_edited_outline_is_honoured_and_only_what_follows_is_redone(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    before = {slide: job.stamps(slide) for slide in "ab"}
    with h5py.File(job.coords("a")) as file:
        n_before = len(file["coords"])
    _rewrite(job.tissue("a"), _drop_all_but_first)
    edited = job.stamps("a")[0]
    done = run("all")
    assert done.code == OK
    assert "made anew: its input has changed" in done.err
    assert job.stamps("b") == before["b"]
    after = job.stamps("a")
    assert after[0] == edited
    assert all(new != old for new, old in zip(after[1:], before["a"][1:], strict=True))
    with h5py.File(job.features("a")) as file:
        assert len(file["features"]) < n_before


def test_an_edit_that_moves_no_patch_redoes_no_features(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    before = job.stamps("a")

    def nudge(content: dict[str, Any]) -> None:
        ring = content["features"][0]["geometry"]["coordinates"][0]
        ring[1][0] += 1e-6

    _rewrite(job.tissue("a"), nudge)
    assert run("all").code == OK
    after = job.stamps("a")
    assert after[1] != before[1]
    assert after[2:] == before[2:]


def test_an_outline_edited_by_an_editor_that_drops_our_recipe_is_honoured(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK

    def export(content: dict[str, Any]) -> None:
        del content[RECIPE_KEY]
        _drop_all_but_first(content)

    _rewrite(job.tissue("a"), export)
    edited = job.tissue("a").read_bytes()
    assert run("all").code == OK
    assert job.tissue("a").read_bytes() == edited
    assert job.statuses("a") == dict.fromkeys(job.statuses("a"), "completed")


def test_an_edited_outline_that_is_deleted_is_found_anew_and_so_is_what_stood_on_it(
    run: Run, wsis: Path, job: Any
) -> None:
    assert run("all").code == OK
    with h5py.File(job.coords("a")) as file:
        original = file["coords"][()]
    _rewrite(job.tissue("a"), _drop_all_but_first)
    assert run("all").code == OK
    job.tissue("a").unlink()
    plan = run("all", "--dry_run").out
    assert "a.svs\tsegmentation\trun\tnot made yet" in plan
    assert "made anew if segmentation turns out different" in plan
    done = run("all")
    assert done.code == OK
    assert "8 stages" not in done.err
    with h5py.File(job.coords("a")) as coords, h5py.File(job.features("a")) as features:
        np.testing.assert_array_equal(coords["coords"][()], original)
        assert len(features["features"]) == len(original)
    assert "completed: 1, skipped: 1" in job.last_run()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_damaged_file_is_made_anew_and_nothing_else(run: Run, wsis: Path, job: Any, stage: int) -> None:
    assert run("all").code == OK
    before = job.stamps("a")
    whole = job.outputs("a")[stage].read_bytes()
    job.outputs("a")[stage].write_bytes(whole[: len(whole) // 2])
    done = run("all")
    assert done.code == OK, done.err
    changed = [new != old for new, old in zip(job.stamps("a"), before, strict=True)]
    assert changed[stage]
    assert sum(changed) == 1
    assert run("all").err.count("nothing to do") == 1


def test_damaged_outlines_may_be_somebodys_work_and_stay(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    half = job.tissue("a").read_bytes()[:1000]
    job.tissue("a").write_bytes(half)
    done = run("all")
    assert done.code == STOPPED
    assert str(job.tissue("a")) in done.err
    assert "--overwrite" in done.err
    assert job.tissue("a").read_bytes() == half
    assert run("seg", "--overwrite").code == OK
    assert "nothing to do" in run("all").err


def test_outputs_without_recipes_are_accepted_as_they_are(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    for slide in "ab":
        _rewrite(job.tissue(slide), lambda content: content.pop(RECIPE_KEY))
        for path in job.outputs(slide)[1:]:
            with h5py.File(path, "a") as file:
                del file.attrs[RECIPE_KEY]
                file.attrs.pop("trident_content", None)
    shutil.rmtree(job.path / "wsi_states")
    before = {slide: job.stamps(slide) for slide in "ab"}
    done = run("all", "--remove_holes")
    assert done.code == OK
    assert "nothing to do" in done.err
    assert {slide: job.stamps(slide) for slide in "ab"} == before
    assert set(job.statuses("a").values()) == {"skipped"}
    assert job.state("a")["tasks"]["coords"]["reason"] == "exists, made by another program"


def test_other_settings_stop_the_run_until_overwrite(run: Run, wsis: Path, job: Any) -> None:
    same_folder = ("--coords_dir", "20x_128px_0px_overlap")
    assert run("all", *same_folder).code == OK
    before = {slide: job.stamps(slide) for slide in "ab"}
    done = run("all", *same_folder, "--mag", 10)
    assert done.code == STOPPED
    assert "a: coords failed: " in done.err
    assert "magnification: 20.0 -> 10.0" in done.err
    assert "--overwrite" in done.err
    assert str(job.coords("a")) in done.err
    assert {slide: job.stamps(slide) for slide in "ab"} == before
    plan = run("all", *same_folder, "--mag", 10, "--dry_run").out
    assert "a.svs\tcoords\tstop\t" in plan
    assert run("all", *same_folder, "--mag", 10, "--overwrite").code == OK
    with h5py.File(job.coords("a")) as file:
        assert file["coords"].attrs["target_magnification"] == 10
    assert "nothing to do" in run("all", *same_folder, "--mag", 10).err


def test_another_grid_beside_the_first_is_no_conflict(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    before = job.stamps("a")
    assert run("coords", "--mag", 2.5, "--patch_size", 64).code == OK
    assert (job.path / "2.5x_64px_0px_overlap/patches/a_patches.h5").is_file()
    assert job.stamps("a") == before


def test_overwrite_redoes_exactly_the_requested_stages(run: Run, wsis: Path, job: Any) -> None:
    assert run("all").code == OK
    before = job.stamps("a")
    assert run("coords", "--overwrite").code == OK
    changed = [new != old for new, old in zip(job.stamps("a"), before, strict=True)]
    assert changed == [False, True, False, False]
    assert "nothing to do" in run("all").err
    before = job.stamps("a")
    assert run("all", "--overwrite").code == OK
    assert all(new != old for new, old in zip(job.stamps("a"), before, strict=True))
    assert "nothing to do" in run("all").err


def test_a_dry_run_says_what_and_why_and_changes_nothing(run: Run, wsis: Path, job: Any) -> None:
    done = run("all", "--dry_run")
    assert done.code == OK
    lines = done.out.splitlines()
    assert lines[0] == "slide\tstage\taction\twhy"
    assert lines[1] == "a.svs\tsegmentation\trun\tnot made yet"
    assert lines[-1] == "# 2 slides: 8 to run, 0 to skip, 0 to stop"
    assert not job.path.exists()
    assert run("seg").code == OK
    before = job.snapshot()
    done = run("all", "--dry_run", "--overwrite")
    assert "a.svs\tsegmentation\trun\texists; --overwrite makes it anew" in done.out
    done = run("all", "--dry_run")
    assert "a.svs\tsegmentation\tskip\texists with the same settings" in done.out
    assert done.out.splitlines()[-1] == "# 2 slides: 6 to run, 2 to skip, 0 to stop"
    assert job.snapshot() == before
