"""Which folders, weights and network an executor's container gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trident.encoders import weights
from trident.errors import ExecutorError, WeightsError
from trident.executors.container_needs import container_needs
from trident.job import Job, create_job
from trident.settings import load_settings


@pytest.fixture
def make_job(
    clean_settings: Path, tmp_path: Path, drawn_slides: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Job]:
    """Function (**options): a job over the slides in `wsis`, with nothing in the hub's cache."""
    drawn_slides(tmp_path / "wsis", "a.svs")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def make(**options: object) -> Job:
        usual: dict[str, object] = {
            "job_dir": tmp_path / "job",
            "wsi_dir": tmp_path / "wsis",
            "segmenter": "otsu",
            "patch_encoder": "stain-stats",
            "task": "all",
        }
        chosen = {name: value for name, value in {**usual, **options}.items() if value is not None}
        return create_job(load_settings(**chosen))

    return make


def _names(paths: tuple[Path, ...], tmp_path: Path) -> set[str]:
    return {str(path.relative_to(tmp_path)) for path in paths}


def test_a_plain_job_sees_slides_and_outputs_and_no_network(make_job: Callable[..., Job], tmp_path: Path) -> None:
    needs = container_needs(make_job(wsi_cache=tmp_path / "new" / "cache"))
    assert _names(needs.read_only, tmp_path) == {"wsis"}
    assert _names(needs.writable, tmp_path) == {"job", "new/cache"}
    assert (tmp_path / "new" / "cache").is_dir()
    assert (needs.network, needs.environment) == (False, {"HF_HUB_OFFLINE": "1"})


@pytest.mark.parametrize(
    ("options", "read_only", "writable"),
    [
        ({"wsi_dir": None, "slide_path": "wsis/a.svs"}, {"wsis"}, {"job"}),
        ({"job_dir": "wsis/job"}, {"wsis"}, {"wsis/job"}),
        ({"job_dir": "wsis"}, set(), {"wsis"}),
        ({"job_dir": "."}, {"wsis"}, {"."}),
        ({"job_dir": "job", "wsi_cache": "job/cache"}, {"wsis"}, {"job"}),
        ({"job_dir": "wsis/sub/job", "wsi_cache": "wsis/cache"}, {"wsis"}, {"wsis/sub/job", "wsis/cache"}),
        ({"wsi_dir": "job/../wsis"}, {"wsis"}, {"job"}),
        ({"job_dir": "wsis/../new/../other", "wsi_cache": "wsis/.."}, {"wsis"}, {"."}),
        ({"wsi_dir": None, "slide_path": "wsis/new/../a.svs"}, {"wsis"}, {"job"}),
    ],
)
def test_folders_inside_each_other(
    options: dict[str, Any], read_only: set[str], writable: set[str], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    given = {name: None if value is None else tmp_path / value for name, value in options.items()}
    needs = container_needs(make_job(**given))
    assert _names(needs.read_only, tmp_path) == read_only
    assert _names(needs.writable, tmp_path) == writable


def test_links_lead_where_they_lead_outside(
    make_job: Callable[..., Job], drawn_slides: Callable[..., Path], tmp_path: Path
) -> None:
    drawn_slides(tmp_path / "far", "b.svs", "c.svs", "unused.svs")
    drawn_slides(tmp_path / "deep" / "store", "d.svs")
    (tmp_path / "middle").mkdir()
    (tmp_path / "middle" / "c.svs").symlink_to(tmp_path / "far" / "c.svs")
    wsis = tmp_path / "wsis"
    (wsis / "b.svs").symlink_to("../far/b.svs")
    (wsis / "c.svs").symlink_to("../middle/c.svs")
    (wsis / "inner.svs").symlink_to("a.svs")
    (wsis / "sub").symlink_to(tmp_path / "deep")
    needs = container_needs(make_job(search_nested=True))
    assert _names(needs.read_only, tmp_path) == {"wsis", "far", "middle", "deep"}


@pytest.mark.parametrize(
    "folder", ["/", "/opt", "/usr/share/slides", "/dev", "/dev/shm", "/etc", "/proc/1", "/opt/venv/x", "/home"]
)
def test_folders_that_a_container_has_itself_are_refused(folder: str, make_job: Callable[..., Job]) -> None:
    job = make_job(job_dir=folder)
    with pytest.raises(ExecutorError, match=f"^{folder}: a container has a folder of its own there"):
        container_needs(job)


@pytest.mark.parametrize("folder", ["/dev/shm/job", "/opt/slides", "/userdata", "/data"])
def test_folders_beside_these_are_fine(folder: str, make_job: Callable[..., Job]) -> None:
    assert container_needs(make_job(job_dir=folder)).writable == (Path(folder),)


def test_a_name_that_engines_do_not_take_is_refused(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job(job_dir=tmp_path / "caf\udce9")
    with pytest.raises(ExecutorError, match="only names in UTF-8"):
        container_needs(job)


def test_a_cache_that_cannot_be_made_is_one_line(make_job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    job = make_job(wsi_cache=tmp_path / "file" / "cache")
    with pytest.raises(ExecutorError, match="cannot be made"):
        container_needs(job)


def test_a_given_checkpoint_is_mounted_alone(make_job: Callable[..., Job], tmp_path: Path) -> None:
    given = tmp_path / "models" / "uni.bin"
    given.parent.mkdir()
    given.touch()
    needs = container_needs(make_job(patch_encoder="uni_v1", patch_encoder_ckpt_path=given))
    assert _names(needs.read_only, tmp_path) == {"wsis", "models/uni.bin"}
    assert not needs.network


def test_registered_weights_are_mounted_with_their_registry(
    make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("patch/uni.bin", "slide/titan.safetensors", "unused.bin"):
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name).touch()
    registry = tmp_path / "registry" / "ckpts.json"
    registry.parent.mkdir()
    entries = {"uni_v1": "../models/patch/uni.bin", "virchow": str(tmp_path / "models" / "unused.bin")}
    registry.write_text(json.dumps({"patch": entries}))
    monkeypatch.setenv(weights.LOCAL_CKPTS_ENV, str(registry))
    needs = container_needs(make_job(patch_encoder="uni_v1"))
    assert _names(needs.read_only, tmp_path) == {"wsis", "registry/ckpts.json", "models/patch/uni.bin"}
    assert needs.environment == {weights.LOCAL_CKPTS_ENV: str(registry), "HF_HUB_OFFLINE": "1"}


def test_a_wrong_path_of_weights_is_told(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job(patch_encoder="uni_v1", patch_encoder_ckpt_path=tmp_path / "nothing.bin")
    with pytest.raises(WeightsError, match=r"nothing\.bin: no such file"):
        container_needs(job)


def test_weights_of_the_hub_are_read_only_once_they_are_here(
    make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@proxy")
    job = make_job(segmenter="hest")
    missing = container_needs(job)
    assert missing.network
    assert tmp_path / "hub" in missing.writable
    assert missing.environment["HTTPS_PROXY"] == "http://user:word@proxy"
    assert "proxy" not in repr(missing)
    cached = tmp_path / "hub" / "weights.ckpt"
    cached.touch()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(cached))
    here = container_needs(job)
    assert (here.network, tmp_path / "hub" in here.read_only) == (False, True)
    assert here.environment == {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}


def test_offline_means_no_network(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needs = container_needs(make_job(segmenter="hest"))
    assert not needs.network
    assert needs.environment["HF_HUB_OFFLINE"] == "1"
