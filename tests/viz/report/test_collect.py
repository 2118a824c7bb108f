"""The data of the page against files whose making is known."""

from __future__ import annotations

import json
import os
import shutil
import socket
from typing import Any

import pytest
from shapely.geometry import box

Job = Any
"""`JobMaker` of conftest.py."""


def _only(data: dict[str, Any]) -> dict[str, Any]:
    assert len(data["slides"]) == 1
    slide: dict[str, Any] = data["slides"][0]
    return slide


def _statuses(slide: dict[str, Any]) -> list[str]:
    return [cell["status"] for cell in slide["cells"]]


def test_a_finished_slide(job: Job) -> None:
    job.slide("batch/a.svs", patches=7, seconds=3.0, mpp=0.5)
    data = job.data()
    slide = _only(data)
    assert [stage["task"] for stage in data["stages"]] == ["segmentation", "coords", "patch_features:enc"]
    assert _statuses(slide) == ["done"] * 3
    assert [cell["seconds"] for cell in slide["cells"]] == [3.0, 0.5, 6.0]
    # 1000 x 1000 px less a hole of 200 x 200 px, a quarter of a µm² each.
    assert slide["tissue_mm2"] == pytest.approx(960_000 * 0.25 / 1e6)
    assert (slide["pieces"], slide["holes"], slide["patches"]) == (1, 1, [7])
    assert (slide["rel_path"], slide["mpp"], slide["size_px"]) == ("batch/a.svs", 0.5, [4000, 3000])
    assert slide["tissue_picture"]["link"] == "contours/a.jpg"
    assert slide["patch_pictures"][0]["file"] == f"{job.grid}/visualization/a.jpg"
    assert data["problems"] == []


def test_overlapping_outlines_count_once(job: Job) -> None:
    job.outlines("a", box(0, 0, 100, 100), box(50, 0, 150, 100), box(1000, 0, 1100, 100))
    job.state("a.svs", {"segmentation": 1.0}, mpp=1.0)
    slide = _only(job.data())
    assert slide["tissue_mm2"] == pytest.approx((150 * 100 + 100 * 100) / 1e6)
    assert slide["pieces"] == 3


def test_no_tissue_is_zero_and_no_outline_is_unknown(job: Job) -> None:
    job.outlines("a")
    job.state("a.svs", {"segmentation": 1.0})
    job.state("b.svs", {})
    a, b = job.data()["slides"]
    assert (a["tissue_mm2"], a["pieces"]) == (0.0, 0)
    assert "tissue_mm2" not in b


def test_outputs_without_states(job: Job) -> None:
    """A directory that another tool has filled."""
    shutil.rmtree(job.job_dir / "wsi_states")
    job.outlines("a", job.square)
    job.patches("a", 3)
    job.touch(job.layout.patch_features("b", "uni_v1"))
    data = job.data()
    a, b = data["slides"]
    assert _statuses(a) == ["done", "done", "waiting"]
    assert _statuses(b) == ["waiting", "waiting", "done"]
    assert "tissue_mm2" not in a, "without µm/px an area has no mm²"
    assert "rel_path" not in a, "nobody knows the extension of its file"


def test_slides_not_begun_come_from_the_newest_job(job: Job) -> None:
    job.slide("x/a.svs")
    job.job_file("x/a.svs", "x/b.svs", wsi_dir="/slides")
    data = job.data()
    assert [slide["name"] for slide in data["slides"]] == ["a", "b"]
    assert _statuses(data["slides"][1]) == ["waiting"] * 3
    assert data["wsi_dir"] == "/slides"


@pytest.mark.parametrize(
    ("entry", "there", "running", "status"),
    [
        ({"status": "completed"}, True, False, "done"),
        ({"status": "skipped"}, True, False, "done"),
        ({"status": "completed"}, False, False, "missing"),
        ({"status": "running"}, False, True, "running"),
        ({"status": "running"}, False, False, "interrupted"),
        ({"status": "error"}, True, False, "error"),
        ({"status": "not_started"}, False, False, "waiting"),
        ({"status": "a word of another tool"}, True, False, "done"),
        ({"status": 7, "attempts": "none", "outputs": [], "timings": 3}, False, False, "waiting"),
    ],
)
def test_status_of_a_stage(job: Job, entry: dict[str, Any], there: bool, running: bool, status: str) -> None:
    if there:
        job.outlines("a", job.square)
    job.state("a.svs", {"segmentation": {"attempts": [], "outputs": {}} | entry})
    job.manifest(status="running" if running else "completed", host=socket.gethostname(), pid=os.getpid())
    data = job.data()
    assert data["running"] is running
    assert _statuses(_only(data))[0] == status


def test_a_run_whose_process_is_gone_is_not_running(job: Job) -> None:
    job.manifest(status="running", host=socket.gethostname(), pid=2**22 + 1)
    data = job.data()
    assert data["running"] is False
    assert (data["runs"][0]["status"], data["runs"][0]["error"]) == ("error", "ended abruptly: its process is gone")


def test_how_a_silent_run_of_another_machine_stands_is_not_known(job: Job) -> None:
    job.manifest(status="running", host="elsewhere", pid=7)
    job.layout.states_dir.mkdir(parents=True, exist_ok=True)
    os.utime(job.layout.states_dir, (0, 0))  # its last sign of life
    data = job.data()
    assert data["running"] is False
    assert data["runs"][0]["status"] is None  # the page shows "unknown"


def test_errors_are_told_in_full(job: Job) -> None:
    long = "x" * 5000 + " end"
    job.state("a.svs", {"segmentation": job.failed("first", "second", "first", long)})
    cell = _only(job.data())["cells"][0]
    assert cell["error"] == long
    assert [(earlier["text"], earlier["times"]) for earlier in cell["earlier"]] == [("second", 1), ("first", 2)]
    assert cell["attempts"] == 4


def test_where_the_time_went(job: Job) -> None:
    timings = {"total": 10, "wait": 6, "read": 9, "transform": 3, "encode": 2.5, "write": "soon", "open": -1, "x": None}
    job.state("a.svs", {"patch_features:enc": job.done(10.0, timings=timings)})
    job.state("b.svs", {"patch_features:enc": job.done(10.0, timings={"total": 10, "encode": 9.5})})
    data = job.data()
    cell = data["slides"][0]["cells"][1]
    assert cell["timings"] == {"total": 10, "wait": 6, "read": 9, "transform": 3, "encode": 2.5}
    # Reading took three quarters of what the threads did, so of the six seconds of waiting.
    assert list(cell["parts"].items()) == [("decode", 0.45), ("encode", 0.25), ("resize", 0.15)]
    assert data["stages"][1]["spent"].startswith("60 % encode, 22 % decode, 8 % resize: ")
    assert data["stages"][0]["spent"] is None


def test_errors_without_any_grid_folder_show(job: Job) -> None:
    job.state("a.svs", {"segmentation": 1.0, "coords": job.failed("no µm/px")})
    data = job.data()
    assert [stage["task"] for stage in data["stages"]] == ["segmentation", "coords"]
    assert _only(data)["cells"][1]["error"] == "no µm/px"


def test_duration_is_that_of_the_attempt_that_made_it(job: Job) -> None:
    entry = job.failed("no")
    entry["attempts"].append({**job.done(5.0)["attempts"][0], "attempt_id": "b"})
    job.state("a.svs", {"segmentation": entry | {"status": "completed"}})
    assert _only(job.data())["cells"][0]["seconds"] == 5.0


def test_several_grids_and_encoders(job: Job) -> None:
    """A state has one record a task: it belongs to the grid that its outputs lie in."""
    other = "10x_512px_0px_overlap"
    job.patches("a", 4)
    job.patches("a", 2, grid=other)
    job.touch(job.job_dir / other / "features_timm_resnet18" / "a.h5")
    job.touch(job.job_dir / other / "slide_features_mean" / "a.h5")
    coords = {"coords": {"path": f"/moved/since/{other}/patches/a_patches.h5"}}
    job.state("a.svs", {"coords": job.done(2.0, outputs=coords), "patch_features:timm/resnet18": 3.0})
    job.job_file("a.svs")
    data = job.data()
    assert data["grids"] == [job.grid, other], "the newest job's first"
    columns = [(stage["task"], stage["grid"]) for stage in data["stages"]]
    assert columns == [
        ("segmentation", None),
        ("coords", job.grid),
        ("patch_features:timm/resnet18", job.grid),
        ("coords", other),
        ("patch_features:timm/resnet18", other),
        ("slide_features:mean", other),
    ]
    slide = _only(data)
    assert slide["patches"] == [4, 2]
    assert _statuses(slide) == ["waiting", "done", "missing", "done", "done", "done"]
    assert [cell.get("seconds") for cell in slide["cells"]] == [None, None, 3.0, 2.0, None, None]


def test_what_only_another_grid_was_to_have_is_not_awaited_on_the_newest(job: Job) -> None:
    """A finished run on a second grid, with fewer encoders, leaves nothing unfinished."""
    other = "10x_512px_0px_overlap"
    name = job.slide("a.svs")
    job.patches(name, 2, grid=other)
    job.touch(job.job_dir / other / "features_first" / "a.h5")
    job.touch(job.job_dir / other / "slide_features_mean" / "a.h5")

    def made(folder: str) -> dict[str, Any]:
        path = f"/moved/since/{other}/{folder}/a.h5"
        return dict(job.done(1.0, outputs={"features": {"path": path}}))

    tasks = {"segmentation": 1.0, "coords": 1.0, "patch_features:enc": 1.0}
    tasks |= {"patch_features:first": made("features_first"), "slide_features:mean": made("slide_features_mean")}
    job.state("a.svs", tasks)
    job.job_file("a.svs")
    data = job.data()
    assert data["grids"] == [job.grid, other]
    assert [(stage["task"], stage["grid"]) for stage in data["stages"]] == [
        ("segmentation", None),
        ("coords", job.grid),
        ("patch_features:enc", job.grid),
        ("coords", other),
        ("patch_features:first", other),
        ("slide_features:mean", other),
    ]
    assert set(_statuses(_only(data))) == {"done"}

    running = {"status": "running", "attempts": [], "outputs": {}}
    job.state("b.svs", {"slide_features:mean": running})
    assert ("slide_features:mean", job.grid) in [(stage["task"], stage["grid"]) for stage in job.data()["stages"]]


def test_a_given_resolution_is_told_apart_from_the_slides_own(job: Job) -> None:
    """By the recipe of the outlines, else by the newest job; the list that the page saves needs it."""
    from trident.store.geojson import write_tissue
    from trident.store.recipes import Recipe

    for name, mpp in (("given", 0.25), ("own", "from the slide")):
        job.slide(f"{name}.svs")
        recipe = Recipe(stage="segmentation", settings={"mpp": mpp}, inputs={}, facts={"level0_mpp": 0.25})
        write_tissue(job.layout.tissue(name), [job.square], recipe)
    path = job.job_file("given.svs", "own.svs", "waits.svs")
    content = json.loads(path.read_text())
    content["slides"][2]["mpp"] = 0.4
    path.write_text(json.dumps(content))
    found = {slide["name"]: slide.get("given_mpp") for slide in job.data()["slides"]}
    assert found == {"given": 0.25, "own": None, "waits": 0.4}


def test_coords_dir_elsewhere(job: Job, tmp_path: Any) -> None:
    elsewhere = str(tmp_path / "elsewhere" / "grid")
    job.patches("a", 9, grid=elsewhere)
    job.job_file("a.svs", coords_dir=elsewhere)
    data = job.data()
    assert data["grids"] == [elsewhere]
    assert _only(data)["patches"] == [9]


def test_the_newest_of_two_states_of_one_slide(job: Job) -> None:
    for folder, seconds, when in (("old", 1.0, "2026-01-01"), ("new", 2.0, "2026-02-02")):
        path = job.state(f"{folder}/a.svs", {"segmentation": seconds})
        state = json.loads(path.read_text()) | {"updated_at": when}
        path.write_text(json.dumps(state))
    slide = _only(job.data())
    assert slide["rel_path"] == "new/a.svs"
    assert slide["cells"][0]["seconds"] == 2.0


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b'{"slide": {"name": 5}, "tasks": {}}', "it names no slide"),
        (b'{"slide": {"name": "a"}, "tasks": 3}', "no tasks"),
    ],
)
def test_damaged_states_are_named_and_left_out(job: Job, content: bytes, what: str) -> None:
    job.slide("good.svs")
    (job.job_dir / "wsi_states" / "bad__0.json").write_bytes(content)
    data = job.data()
    assert _only(data)["name"] == "good"
    (problem,) = data["problems"]
    assert problem.startswith("wsi_states/bad__0.json: ") and what in problem


def test_values_of_the_wrong_kind_do_no_harm(job: Job) -> None:
    path = job.slide("a.svs") and next((job.job_dir / "wsi_states").glob("a__*"))
    state = json.loads(path.read_text())
    state["meta"] = {"dimensions": ["wide", None], "mpp": 1e400, "mag": True, "level_count": []}
    state["summary"] = {"notes": ["a note", 5, None]}
    state["slide"]["rel_path"] = ["x"]
    state["tasks"]["coords"]["attempts"] = [None, 3, {"duration_s": "long", "error": {}}]
    path.write_text(json.dumps(state))
    manifest = job.manifest(pid="one", host=4, status="running", args={"x": 0.5, "token": "secret"})
    manifest.write_text(manifest.read_text().replace("0.5", "Infinity"))
    assert "Infinity" in path.read_text()
    data = job.data()
    slide = _only(data)
    assert not {"mpp", "mag", "levels", "size_px", "rel_path"} & slide.keys()
    assert slide["notes"] == ["a note", "5", "None"]
    assert data["running"] is False
    assert data["runs"][0]["args"] == {"x": "inf"}


@pytest.mark.parametrize("broken", ["tissue", "coords", "picture", "job_file", "manifest"])
def test_damaged_outputs_are_named(job: Job, broken: str) -> None:
    name = job.slide("a.svs")
    job.manifest()
    job.job_file("a.svs")
    path = {
        "tissue": job.layout.tissue(name),
        "coords": job.layout.coords(name),
        "picture": job.layout.contours_image(name),
        "job_file": job.layout.private_dir / "jobs" / "job.json",
        "manifest": job.layout.runs_dir / f"{'0' * 12}.json",
    }[broken]
    path.write_bytes(path.read_bytes()[:90] if broken != "coords" else b"no HDF5")
    data = job.data()
    (problem,) = data["problems"]
    assert path.name in problem
    slide = _only(data)
    assert ("tissue_mm2" in slide) is (broken != "tissue")
    assert slide.get("patches") == ([None] if broken == "coords" else [5])


def test_missing_pictures(job: Job) -> None:
    name = job.slide("a.svs")
    job.layout.coords_image(name).unlink()
    job.layout.contours_image(name).rename(job.picture(job.layout.thumbnail(name)))
    slide = _only(job.data())
    assert slide["tissue_picture"]["file"] == "thumbnails/a.jpg", "the bare thumbnail stands in"
    assert slide["patch_pictures"] == [None]
