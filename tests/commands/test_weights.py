"""`trident weights` on weights drawn for the test: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trident.commands.weights import run
from trident.encoders.patch.registry import spec
from trident.errors import SettingsError, StoreError

NAME = "kaiko-vits16"


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """Zeros for every published tensor of a small encoder."""
    import torch
    from safetensors.torch import save_file

    from trident.encoders.patch.timm_models import build_network

    path = tmp_path / "source" / "model.safetensors"
    path.parent.mkdir()
    save_file(
        {name: torch.zeros(tensor.shape) for name, tensor in build_network(spec(NAME)).state_dict().items()}, path
    )
    return path


@pytest.fixture
def registry(tmp_path: Path, weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that knows this one file, on a machine without a network."""
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"patch": {NAME: str(weights_file)}}))
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", str(path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return path


def _rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    return {row["model"]: row for row in json.loads(capsys.readouterr().out)}


def test_list_says_where_a_file_lies(registry: Path, weights_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--format", "json"]) == 0
    rows = _rows(capsys)
    assert rows[f"patch/{NAME}"]["here"] == str(weights_file)
    assert rows["patch/uni_v1"] == {
        "model": "patch/uni_v1",
        "repository": "MahmoodLab/UNI",
        "file": "pytorch_model.bin",
        "gated": True,
        "here": None,
    }


def test_check_loads_the_file(registry: Path, weights_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    assert run(["check", NAME, "--format", "json"]) == 0
    row = _rows(capsys)[f"patch/{NAME}"]
    assert row["state"] == "ok"
    assert row["sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()


def test_check_of_a_damaged_file(registry: Path, weights_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    assert run(["check", NAME, "--format", "json"]) == 4
    row = _rows(capsys)[f"patch/{NAME}"]
    assert row["state"] == "wrong"
    assert str(weights_file) in str(row["detail"])


def test_missing_is_a_failure_only_where_it_was_asked_for(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "uni_v1"]) == 4
    assert run(["check"]) == 0
    assert "missing" in capsys.readouterr().out


def test_fetched_folder_works_elsewhere(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "for another machine"
    assert run(["fetch", NAME, "--to", str(folder)]) == 0
    moved = folder.rename(tmp_path / "moved")
    registry.unlink()
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", str(moved / "local_ckpts.json"))
    capsys.readouterr()
    assert run(["check", NAME, "--format", "json"]) == 0
    assert _rows(capsys)[f"patch/{NAME}"]["detail"] == str(moved / "patch" / NAME / "model.safetensors")


def test_what_cannot_be_fetched_is_said_and_the_rest_goes_on(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fetch", "uni_v1", NAME, "--to", str(tmp_path / "to")]) == 4
    output = capsys.readouterr()
    assert "patch/uni_v1: " in output.err
    assert "MahmoodLab/UNI" in output.err
    assert f"patch/{NAME}\t" in output.out
    assert json.loads((tmp_path / "to" / "local_ckpts.json").read_text()) == {
        "patch": {NAME: f"patch/{NAME}/model.safetensors"}
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["list", "uni_v11"], "did you mean uni_v1"), (["list", "gigapath"], "patch/gigapath, slide/gigapath")],
)
def test_unclear_names_are_refused(arguments: list[str], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        run(arguments)


def test_a_folder_with_a_damaged_registry_is_refused(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "local_ckpts.json").write_text("{")
    with pytest.raises(StoreError, match="not a readable registry"):
        run(["fetch", NAME, "--to", str(tmp_path)])
