"""trident/stages/features_group.py: several encoders in one pass over the patches, each with its file and record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from trident.demo import draw_demo_slide
from trident.encoders.patch.base import CustomInferenceEncoder
from trident.errors import (
    LockHeldError,
    RecipeMismatchError,
    StageNotRequestedError,
    TridentError,
    UnreadableSlideError,
    WeightsError,
)
from trident.patching.grid import PatchGeometry
from trident.patching.reader import PatchReader
from trident.slides.discovery import SlideSource
from trident.stages.base import Condition, StageContext, StageResult, run_stage
from trident.stages.coords import CoordsStage
from trident.stages.features import PatchFeaturesStage
from trident.stages.features_group import PatchFeaturesGroup
from trident.stages.tracking import record_failure, state_of
from trident.stages.work import run_recorded
from trident.store import h5
from trident.store.layout import JobLayout
from trident.store.locks import OutputLock


class _Sums(nn.Module):
    """Features: the sum of the pixels, as many times as the encoder has dimensions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, dim + 1))

    def forward(self, batch: Tensor) -> Tensor:
        return batch.sum(dim=(1, 2, 3)).unsqueeze(1) * self.weight


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("group") / "s.svs"
    draw_demo_slide(path, seed=1, width_px=512, height_px=384, mpp=0.5)
    return path


@pytest.fixture
def make_stage(slide_path: Path, tmp_path: Path) -> Callable[..., PatchFeaturesStage]:
    """Function (name, failure of its loading, its settings) -> stage; its slide has coordinates."""
    layout = JobLayout(tmp_path / "job", "grid")
    context = StageContext(layout, frozenset({"patch_features"}), max_workers=1)
    source = SlideSource(slide_path, slide_path.name, "s", None, slide_path.stat().st_size)
    geometry = PatchGeometry(64, 0, 20, 20, 512, 384)
    h5.write_coords(layout.coords("s"), geometry.corners(), geometry.attributes("s", "grid"), None)

    def make(name: str, failure: Exception | None = None, **settings: Any) -> PatchFeaturesStage:
        def load() -> CustomInferenceEncoder:
            if failure is not None:
                raise failure
            to_tensor = transforms.Compose([transforms.ToTensor()])
            return CustomInferenceEncoder(name, _Sums(len(name)), to_tensor, torch.float32)

        return PatchFeaturesStage(
            context,
            source,
            coords=CoordsStage.given(context, source),
            encoder_name=name,
            encoder_settings=settings,
            load_encoder=load,
            batch_size=16,
        )

    return make


def _tasks(stage: PatchFeaturesStage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state_of(stage).path.read_text())["tasks"]
    return found


def test_each_encoder_has_its_own_file_recipe_and_record(
    make_stage: Callable[..., PatchFeaturesStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [make_stage("a"), make_stage("bb"), make_stage("ccc")]
    group = PatchFeaturesGroup(members)
    assert group.status().condition is Condition.MISSING
    announced: list[int] = []
    announce = PatchReader.announce
    monkeypatch.setattr(PatchReader, "announce", lambda self, coords: announced.append(1) or announce(self, coords))
    progress: list[tuple[int, int]] = []
    result = run_recorded(group, lambda done, total: progress.append((done, total)))
    assert announced == [1]  # one pass
    assert progress == [(16, 48), (32, 48), (48, 48)]
    assert not result.skipped
    assert list(result.parts) == ["patch_features:a", "patch_features:bb", "patch_features:ccc"]
    assert StageResult.from_dict(json.loads(json.dumps(result.to_dict()))).parts["patch_features:a"].outputs == {
        "features": members[0].output
    }
    assert group.status().done
    together = {member.encoder_name: h5.read_features(member.output).features for member in members}
    tasks = _tasks(members[0])
    for member in members:
        recipe = h5.read_recipe(member.output)
        assert recipe is not None
        assert recipe.settings["patch_encoder"] == member.encoder_name
        assert not member.output.with_name(f"{member.output.name}.lock").exists()
        task = tasks[member.key]
        assert (task["status"], len(task["attempts"])) == ("completed", 1)
        phases = {"total", "load", "open", "wait", "read", "decode", "transform", "encode", "write", "others"}
        assert set(task["timings"]) == phases
        own = ("load", "open", "wait", "encode", "write", "others")  # the threads' seconds go on beside these
        assert sum(task["timings"][phase] for phase in own) <= task["timings"]["total"] + 0.01
        member.output.unlink()
        run_stage(member)
        np.testing.assert_array_equal(together[member.encoder_name], h5.read_features(member.output).features)
        assert together[member.encoder_name].shape == (48, len(member.encoder_name))
    np.testing.assert_allclose(together["bb"][:, 1], together["a"][:, 0] * 2)


def test_what_is_done_is_skipped(make_stage: Callable[..., PatchFeaturesStage]) -> None:
    first, second = make_stage("a"), make_stage("bb")
    run_stage(first)
    written = first.output.stat().st_mtime_ns
    group = PatchFeaturesGroup([make_stage("a", AssertionError("not loaded")), second])
    result = run_recorded(group)
    assert {key: part.skipped for key, part in result.parts.items()} == {first.key: True, second.key: False}
    assert first.output.stat().st_mtime_ns == written
    again = run_recorded(PatchFeaturesGroup([make_stage("a", AssertionError()), make_stage("bb", AssertionError())]))
    assert again.skipped
    assert _tasks(first)[second.key]["status"] == "completed"


def test_an_encoder_that_fails_does_not_lose_the_others(
    make_stage: Callable[..., PatchFeaturesStage], caplog: pytest.LogCaptureFixture
) -> None:
    good, last = make_stage("a"), make_stage("ccc")
    bad, worse = make_stage("bb", WeightsError("damaged")), make_stage("dddd", ValueError("odd"))
    group = PatchFeaturesGroup([good, bad, last, worse])
    with pytest.raises(TridentError, match=r"^bb: damaged; dddd: ValueError: odd$") as caught:
        run_recorded(group)
    assert "patch features dddd failed" in caplog.text
    assert "Traceback" in caplog.text
    assert [member.status().done for member in group.members] == [True, False, True, False]
    record_failure(group, caught.value)  # as the run does, which knows the group alone
    tasks = _tasks(good)
    assert {key: (task["status"], task["message"]) for key, task in tasks.items() if task["status"] == "error"} == {
        bad.key: ("error", "damaged"),
        worse.key: ("error", "ValueError: odd"),
    }
    assert tasks[good.key]["status"] == tasks[last.key]["status"] == "completed"
    assert not list(good.output.parents[1].rglob("*.tmp*"))
    assert not list(good.output.parents[1].rglob("*.lock"))
    result = run_recorded(PatchFeaturesGroup([good, make_stage("bb"), last, make_stage("dddd")]))
    assert [part.skipped for part in result.parts.values()] == [True, False, True, False]


def test_an_encoder_is_named_that_fails_alone_with_an_error_that_nobody_foresaw(
    make_stage: Callable[..., PatchFeaturesStage],
) -> None:
    with pytest.raises(TridentError, match=r"^bb: ValueError: odd$"):
        run_recorded(PatchFeaturesGroup([make_stage("a"), make_stage("bb", ValueError("odd"))]))


def test_a_conflict_or_a_lock_stops_its_encoder_alone(make_stage: Callable[..., PatchFeaturesStage]) -> None:
    run_stage(make_stage("a", size=224))
    group = PatchFeaturesGroup([make_stage("a", size=448), make_stage("bb"), make_stage("ccc")])
    assert group.status().condition is Condition.MISSING
    with OutputLock(make_stage("ccc").output), pytest.raises(RecipeMismatchError, match="size"):
        run_recorded(group)
    assert [member.status().condition for member in group.members] == [
        Condition.CONFLICT,
        Condition.DONE,
        Condition.MISSING,
    ]
    with OutputLock(make_stage("ccc").output), pytest.raises(LockHeldError):
        run_recorded(PatchFeaturesGroup([make_stage("bb"), make_stage("ccc")]))
    assert "patch_features:ccc" not in _tasks(make_stage("a"))
    assert PatchFeaturesGroup([make_stage("a", size=448), make_stage("bb")]).status().condition is Condition.CONFLICT


def test_a_slide_that_does_not_open_fails_all(make_stage: Callable[..., PatchFeaturesStage], tmp_path: Path) -> None:
    members = [make_stage("a"), make_stage("bb")]
    for member in members:
        broken = tmp_path / "broken.svs"
        broken.write_bytes(b"no slide")
        member.source = SlideSource(broken, broken.name, "s", None, 8)
    with pytest.raises(UnreadableSlideError):
        run_recorded(PatchFeaturesGroup(members))
    assert {task["status"] for task in _tasks(members[0]).values()} == {"error"}
    assert not list(members[0].output.parents[1].rglob("*.lock"))


def test_without_coordinates_nothing_is_made(make_stage: Callable[..., PatchFeaturesStage]) -> None:
    group = PatchFeaturesGroup([make_stage("a"), make_stage("bb")])
    group.needs.output.unlink()
    assert group.status().condition is Condition.BLOCKED
    with pytest.raises(StageNotRequestedError):
        run_recorded(group)
