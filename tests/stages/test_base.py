"""When a stage is done, and how it is made without ever leaving half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.errors import LockHeldError, RecipeMismatchError, StageNotRequestedError, StoreError
from trident.stages.base import Condition, Stage, StageResult, run_stage, without_advice
from trident.store.locks import OutputLock, lock_path

Make = Callable[..., Any]
COORDS_ONLY = ("coords",)


def _run_all(make_stage: Make, **options: Any) -> list[bool]:
    """Runs the three stages in order; whether each was made."""
    return [not run_stage(make_stage(kind, **options)).skipped for kind in ("segmentation", "coords", "patch_features")]


def _text(stage: Any) -> str:
    return str(json.loads(stage.output.read_text())["text"])


def test_from_missing_to_done(make_stage: Make, tmp_path: Path) -> None:
    stage = make_stage("segmentation")
    assert stage.status().condition is Condition.MISSING
    result = run_stage(stage)
    assert (result.skipped, result.message, _text(stage)) == (False, "2 letters", "ab")
    assert make_stage("segmentation").status().condition is Condition.DONE
    assert json.loads((tmp_path / "job/_config_segmentation.json").read_text())["stage"] == "segmentation"
    assert (tmp_path / "job/_logs_segmentation.txt").read_text() == "ab.svs: 2 letters\n"
    again = make_stage("segmentation")
    assert run_stage(again).skipped
    assert again.produced == 0


def test_the_callbacks_are_called_in_order_and_under_the_lock(make_stage: Make) -> None:
    stage = make_stage("segmentation")
    seen: list[tuple[str, bool, bool]] = []

    def note(what: str) -> None:
        seen.append((what, lock_path(stage.output).exists(), stage.output.exists()))

    run_stage(
        stage,
        progress=lambda done, total: note(f"{done}/{total}"),
        on_start=lambda: note("start"),
        on_end=lambda result: note(result.message),
    )
    assert seen == [("start", True, False), ("1/1", True, False), ("2 letters", True, True)]
    assert not lock_path(stage.output).exists()
    seen.clear()
    run_stage(stage, on_start=lambda: note("start"), on_end=lambda result: note("end"))
    assert seen == []


def test_other_settings_are_a_conflict_that_names_them_and_overwrite(make_stage: Make) -> None:
    run_stage(make_stage("segmentation", segmentation={"mag": 20, "holes": False}))
    stage = make_stage("segmentation", segmentation={"mag": 10, "holes": False})
    assert stage.status().condition is Condition.CONFLICT
    before = stage.output.read_bytes()
    with pytest.raises(RecipeMismatchError) as caught:
        run_stage(stage)
    message = str(caught.value)
    assert str(stage.output) in message
    assert "mag: 20 -> 10" in message
    assert "holes" not in message
    assert "--overwrite" in message
    assert (stage.output.read_bytes(), stage.produced) == (before, 0)


def test_a_stage_that_is_not_made_here_is_used_whatever_its_settings(make_stage: Make) -> None:
    run_stage(make_stage("segmentation", segmentation={"mag": 20}))
    status = make_stage("segmentation", made=COORDS_ONLY, segmentation={"mag": 10}).status()
    assert status.done
    assert "mag: 20 -> 10" in status.why


def test_overwrite_makes_each_output_once_per_run(make_stage: Make) -> None:
    _run_all(make_stage)
    assert make_stage("coords", overwrite_run="1").status().condition is Condition.OVERWRITE
    assert _run_all(make_stage, overwrite_run="1") == [True, True, True]
    assert _run_all(make_stage, overwrite_run="1") == [False, False, False]
    assert _run_all(make_stage) == [False, False, False]
    assert _run_all(make_stage, overwrite_run="2", made=COORDS_ONLY) == [False, True, False]


def test_overwrite_replaces_a_conflict(make_stage: Make) -> None:
    run_stage(make_stage("segmentation", segmentation={"mag": 20}))
    run_stage(make_stage("segmentation", overwrite_run="1", segmentation={"mag": 10}))
    assert make_stage("segmentation", segmentation={"mag": 10}).status().done


def test_a_changed_input_redoes_what_follows_as_far_as_it_differs(make_stage: Make) -> None:
    _run_all(make_stage)
    tissue = make_stage("segmentation")
    content = json.loads(tissue.output.read_text())
    tissue.output.write_text(json.dumps({**content, "text": "abc"}))
    assert make_stage("segmentation").status().done
    assert make_stage("coords").status().condition is Condition.STALE
    assert make_stage("patch_features").status().done  # its own input is as it was
    assert _run_all(make_stage) == [False, True, True]
    assert _text(make_stage("patch_features")) == "abc" * 4


def test_a_slide_of_another_size_redoes_its_own_stage(make_stage: Make, tmp_path: Path) -> None:
    _run_all(make_stage)
    (tmp_path / "ab.svs").write_bytes(b"other pixels")
    stage = make_stage("segmentation")
    stage.source = type(stage.source)(stage.source.path, "ab.svs", "ab", None, 12)
    assert stage.status().condition is Condition.STALE
    assert "slide_bytes: 6 -> 12" in stage.status().why


def test_an_output_of_another_program_is_accepted_and_only_overwrite_replaces_it(make_stage: Make) -> None:
    stage = make_stage("segmentation", segmentation={"mag": 10})
    stage.output.parent.mkdir(parents=True)
    stage.output.write_text('{"text": "theirs"}')
    assert stage.status().done
    assert "another program" in stage.status().why
    assert _run_all(make_stage) == [False, True, True]
    assert _text(make_stage("coords")) == "theirs" * 2
    assert make_stage("segmentation", overwrite_run="1").status().condition is Condition.OVERWRITE


@pytest.mark.parametrize("damage", [b"", b"{", b'{"text": "x", "recipe": 3}'])
def test_a_damaged_output_is_made_anew(make_stage: Make, damage: bytes) -> None:
    _run_all(make_stage)
    stage = make_stage("segmentation")
    stage.output.write_bytes(damage)
    status = stage.status()
    assert status.condition is Condition.STALE
    assert str(stage.output) in status.why
    run_stage(stage)
    assert _text(stage) == "ab"


@pytest.mark.parametrize(
    ("kind", "made", "by_hand", "advised"),
    [
        ("segmentation", ("segmentation", "coords"), False, False),
        ("coords", ("segmentation", "coords"), False, False),
        ("segmentation", ("segmentation", "coords"), True, True),
        ("coords", ("segmentation", "coords"), True, True),
        ("segmentation", COORDS_ONLY, False, True),
        ("coords", COORDS_ONLY, False, True),
    ],
)
def test_overwrite_is_advised_only_where_what_is_damaged_is_not_made_anew_anyway(
    make_stage: Make, monkeypatch: pytest.MonkeyPatch, kind: str, made: tuple[str, ...], by_hand: bool, advised: bool
) -> None:
    _run_all(make_stage)
    stage = make_stage("segmentation")
    stage.output.write_bytes(b"{")
    monkeypatch.setattr(type(stage), "edited_by_hand", by_hand)
    why = make_stage(kind, made=made).status().why
    assert why == f"{stage.output}: damaged" + ("; use --overwrite to make it anew" if advised else "")


def test_other_advice_stays() -> None:
    for message in ("x: you may not read this file; change its permissions", "x: damaged", ""):
        assert without_advice(message) == message


def test_a_damaged_output_that_is_not_made_here_blocks(make_stage: Make) -> None:
    _run_all(make_stage)
    make_stage("segmentation").output.write_bytes(b"{")
    assert make_stage("segmentation", made=COORDS_ONLY).status().condition is Condition.BLOCKED
    with pytest.raises(StoreError, match=r"segmentation/ab\.json: damaged"):
        run_stage(make_stage("coords", made=COORDS_ONLY))


@pytest.mark.parametrize(
    ("made", "exists", "blocked"),
    [
        (("coords",), (), True),
        (("coords", "patch_features"), (), True),
        (("patch_features",), ("segmentation",), True),
        (("patch_features",), ("segmentation", "coords"), False),
        (("coords", "patch_features"), ("segmentation",), False),
        (("segmentation", "coords", "patch_features"), (), False),
    ],
)
def test_a_missing_stage_that_is_not_part_of_the_run_blocks_those_after_it(
    make_stage: Make, made: tuple[str, ...], exists: tuple[str, ...], blocked: bool
) -> None:
    for kind in exists:
        run_stage(make_stage(kind))
    stage = make_stage(made[-1], made=made)
    assert stage.status().condition is (Condition.BLOCKED if blocked else Condition.MISSING)
    if blocked:
        with pytest.raises(StageNotRequestedError) as caught:
            run_stage(stage)
        assert "--task" in str(caught.value)
        assert "is missing" in str(caught.value)
        assert not lock_path(stage.output).exists()


def test_a_failure_leaves_no_output_no_lock_and_no_temporary_file(make_stage: Make) -> None:
    stage = make_stage("segmentation")

    def fail() -> None:
        assert lock_path(stage.output).exists()
        raise StoreError("no luck")

    stage.before_produce = fail
    with pytest.raises(StoreError, match="no luck"):
        run_stage(stage)
    assert list(stage.output.parent.iterdir()) == []
    assert stage.status().condition is Condition.MISSING


def test_a_failure_leaves_the_earlier_output_as_it_was(make_stage: Make) -> None:
    run_stage(make_stage("segmentation"))
    stage = make_stage("segmentation", overwrite_run="1")
    before = stage.output.read_bytes()

    def fail() -> None:
        raise KeyboardInterrupt

    stage.before_produce = fail
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage)
    assert stage.output.read_bytes() == before
    assert [path.name for path in stage.output.parent.iterdir()] == ["ab.json"]


def test_a_locked_output_is_left_to_its_writer(make_stage: Make) -> None:
    stage = make_stage("segmentation")
    with OutputLock(stage.output), pytest.raises(LockHeldError, match=rf"process {os.getpid()} "):
        run_stage(stage)
    assert stage.produced == 0
    assert not run_stage(stage).skipped


def test_what_another_run_made_while_this_one_came_to_the_lock_is_not_made_again(
    make_stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = make_stage("segmentation"), make_stage("segmentation")
    status = Stage.status
    calls = []

    def look_then_they_are_faster(stage: Stage) -> Any:
        seen = status(stage)
        if stage is mine and not calls:
            calls.append(run_stage(theirs))
        return seen

    monkeypatch.setattr(Stage, "status", look_then_they_are_faster)
    result: StageResult = run_stage(mine)
    assert (result.skipped, mine.produced, theirs.produced) == (True, 0, 1)


def test_the_recipe_says_who_made_it_and_never_depends_on_that(make_stage: Make) -> None:
    run_stage(make_stage("segmentation"))
    recipe = make_stage("segmentation").read_recipe()
    assert set(recipe.facts) >= {"trident_version", "made_at", "host"}
    content = json.loads(make_stage("segmentation").output.read_text())
    content["recipe"]["facts"]["trident_version"] = "99"
    make_stage("segmentation").output.write_text(json.dumps(content))
    assert make_stage("segmentation").status().done


def test_a_damaged_file_that_people_edit_is_never_replaced_unasked(
    make_stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage("segmentation")
    run_stage(stage)
    stage.output.write_text("{ a stray comma, }")
    monkeypatch.setattr(type(stage), "edited_by_hand", True)
    with pytest.raises(RecipeMismatchError, match=r"ab\.json: damaged"):
        run_stage(stage)
    assert stage.output.read_text() == "{ a stray comma, }"
    run_stage(make_stage("segmentation", overwrite_run="r2"))
    assert make_stage("segmentation").status().done


def test_what_another_run_made_meanwhile_is_not_replaced(make_stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage(make_stage("segmentation"))
    late = make_stage("coords", coords={"step": 2})
    real_enter = OutputLock.__enter__

    def enter_after_the_other(lock: OutputLock) -> OutputLock:
        monkeypatch.setattr(OutputLock, "__enter__", real_enter)
        run_stage(make_stage("coords", coords={"step": 1}))
        return real_enter(lock)

    monkeypatch.setattr(OutputLock, "__enter__", enter_after_the_other)
    with pytest.raises(RecipeMismatchError, match=r"step: 1 -> 2"):
        run_stage(late)
    assert late.produced == 0
    assert make_stage("coords", coords={"step": 1}).status().done
