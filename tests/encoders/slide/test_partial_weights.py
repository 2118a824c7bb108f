"""trident/encoders/slide/partial_weights.py: one part of a file, and what is wrong with files."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from trident.encoders.slide.partial_weights import load_part
from trident.errors import WeightsError

STORED = {
    "image.layers.2.a": torch.full((2,), 2.0),
    "image.layers.1.a": torch.full((2,), 1.0),
    "image.b": torch.zeros(3),
    "text.decoder": torch.ones(4),
}


def lowest(name: str) -> str:
    return "a" if name.endswith(".a") else name


@pytest.mark.parametrize("filename", ["model.safetensors", "model.bin"])
def test_one_part_by_canonical_names(tmp_path: Path, filename: str) -> None:
    path = tmp_path / filename
    save_file(STORED, path) if path.suffix == ".safetensors" else torch.save({"state_dict": STORED}, path)
    got = load_part(path, "image.", canonical=lowest)
    assert {name: tensor.tolist() for name, tensor in got.items()} == {"a": [1, 1], "b": [0, 0, 0]}
    assert set(load_part(path, "text.")) == {"decoder"}


def test_nothing_else_of_a_safetensors_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Recorder:
        def __init__(self, *args: object, **options: object) -> None:
            self.file = opened(*args, **options)

        def __enter__(self) -> Recorder:
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self.inner.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.inner.get_tensor(name)

    opened = safetensors.safe_open
    save_file(STORED, tmp_path / "model.safetensors")
    monkeypatch.setattr(safetensors, "safe_open", Recorder)
    load_part(tmp_path / "model.safetensors", "image.", canonical=lowest)
    assert sorted(read) == ["image.b", "image.layers.1.a"]


@pytest.mark.parametrize(
    ("filename", "content", "expected"),
    [
        ("absent.safetensors", None, "missing, damaged"),
        ("empty.safetensors", b"", "missing, damaged"),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{", "missing, damaged"),
        ("absent.bin", None, "no such weights file"),
    ],
)
def test_damaged(tmp_path: Path, filename: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / filename).write_bytes(content)
    with pytest.raises(WeightsError, match=expected) as caught:
        load_part(tmp_path / filename, "image.")
    assert filename in str(caught.value)


def test_another_model(tmp_path: Path) -> None:
    save_file({"text.decoder": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no tensor named image\.\.\."):
        load_part(tmp_path / "model.safetensors", "image.")
