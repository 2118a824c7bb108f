"""trident/encoders/shards.py, and how trident/encoders/weights.py finds and fetches weights in several files."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from trident.encoders.patch.registry import spec
from trident.encoders.shards import is_index, shard_names, shard_paths
from trident.encoders.weights import LOCAL_CKPTS_ENV, fetch, locate
from trident.errors import WeightsError

INDEX = {
    "text.a": "1.safetensors",
    "vision.a": "3.safetensors",
    "vision.b": "2.safetensors",
    "vision.c": "3.safetensors",
}


def _index(folder: Path, weight_map: object = INDEX) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_needed_files(tmp_path: Path) -> None:
    index = _index(tmp_path)
    assert is_index(index)
    assert not is_index(tmp_path / "model.safetensors")
    assert shard_names(index, ("vision.",)) == ("2.safetensors", "3.safetensors")
    assert shard_names(index) == ("1.safetensors", "2.safetensors", "3.safetensors")
    assert shard_names(index, ("audio.",)) == shard_names(index)
    for name in ("2.safetensors", "3.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    assert shard_paths(index, ("vision.",)) == (tmp_path / "2.safetensors", tmp_path / "3.safetensors")
    with pytest.raises(WeightsError, match=r"1 of the 3 needed files are missing beside it: 1\.safetensors"):
        shard_paths(index)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../secret.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "sub\\\\file"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": 3}}',
    ],
)
def test_damaged_index(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(WeightsError) as caught:
        shard_names(index)
    assert str(index) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """A hub in a folder, for the client's two calls; gives (repository, file, kind) of each download."""
    monkeypatch.delenv(LOCAL_CKPTS_ENV, raising=False)
    published, cache = tmp_path / "hub", tmp_path / "cache"
    calls: list[tuple[str, str, str]] = []

    def download(repository: str, filename: str, *, repo_type: str) -> str:
        if not (published / repository / filename).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        calls.append((repository, filename, repo_type))
        target = cache / repository / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((published / repository / filename).read_bytes())
        return str(target)

    def cached(repository: str, filename: str, *, repo_type: str) -> str | None:
        target = cache / repository / filename
        return str(target) if target.is_file() else None

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    return calls


def test_a_data_set_is_asked_for_as_such(tmp_path: Path, hub: list[tuple[str, str, str]]) -> None:
    file = tmp_path / "hub" / "MahmoodLab/hest-bench/fm_v1/ctranspath/CHIEF_CTransPath.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    declared = spec("ctranspath")
    assert locate(declared) is None
    found = fetch(declared)
    assert found is not None
    assert found.path.read_bytes() == b"weights"
    assert hub == [("MahmoodLab/hest-bench", "fm_v1/ctranspath/CHIEF_CTransPath.pth", "dataset")]
    assert locate(declared) == found


def test_only_the_needed_files_are_downloaded(tmp_path: Path, hub: list[tuple[str, str, str]]) -> None:
    folder = tmp_path / "hub" / "google/gemma-4-26B-A4B"
    folder.mkdir(parents=True)
    _index(folder, {"model.language_model.a": "1.safetensors", "model.vision_tower.a": "2.safetensors"})
    for name in ("1.safetensors", "2.safetensors"):
        (folder / name).write_bytes(name.encode())
    declared = spec("gemma4-26b")
    found = fetch(declared)
    assert found is not None
    assert [filename for _, filename, _ in hub] == ["model.safetensors.index.json", "2.safetensors"]
    assert [path.name for path in found.shards] == ["2.safetensors"]
    assert locate(declared) == found
    found.shards[0].unlink()
    assert locate(declared) is None  # to be downloaded again
    assert fetch(declared) == found


def test_a_published_index_without_its_file(tmp_path: Path, hub: list[tuple[str, str, str]]) -> None:
    folder = tmp_path / "hub" / "google/gemma-4-E4B"
    folder.mkdir(parents=True)
    _index(folder, {"model.vision_tower.a": "2.safetensors"})
    with pytest.raises(WeightsError, match=r"gemma-4-E4B holds none of 2\.safetensors"):
        fetch(spec("gemma4-e4b"))
