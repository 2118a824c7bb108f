"""trident/encoders/patch/models/gemma4.py: names, the transform and sequence against transformers' own, files."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Gemma4Config, Gemma4ImageProcessor, Gemma4VisionModel

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.models import gemma4
from trident.encoders.patch.registry import spec
from trident.encoders.weights import locate, sha256_of
from trident.errors import NotAvailableError, SettingsError, WeightsError

NAMES = ("gemma4-e4b", "gemma4-26b")
PREFIX = "model.vision_tower."


@pytest.mark.parametrize("name", NAMES)
def test_names(manifest: Callable[[str], dict[str, Tensor]], name: str) -> None:
    published = {tensor: one.shape for tensor, one in manifest(name).items()}
    network = gemma4.build_network(spec(name).arguments)
    assert {tensor: one.shape for tensor, one in network.state_dict().items()} == published
    assert not any(one.is_meta for tensor, one in network.named_buffers() if tensor not in published)


@pytest.mark.parametrize("side_px", [224, 256, 512, 768, 1000])
def test_preparation_is_the_published_processors(patch512: Image.Image, side_px: int) -> None:
    image = patch512.resize((side_px, side_px))
    expected = Gemma4ImageProcessor()(image, return_tensors="pt")
    transform = gemma4.build_transform(spec("gemma4-e4b").transform)
    squares, positions = gemma4.to_sequence(transform(image).unsqueeze(0))
    assert torch.equal(squares, expected["pixel_values"])
    assert torch.equal(positions.unsqueeze(0), expected["image_position_ids"])


def test_preparation_refuses_other_shapes() -> None:
    with pytest.raises(SettingsError, match="this one has 200 x 100 px"):
        gemma4.EnlargeBytes(768)(Image.new("RGB", (200, 100)))


def _short(name: str, depth: int) -> dict[str, int | bool]:
    return {**spec(name).arguments, "num_hidden_layers": depth}


def _draw(draw: Callable[[nn.Module], dict[str, Tensor]], name: str, depth: int) -> dict[str, Tensor]:
    """Weights as bfloat16, with bounds of clipping that matter but do not blind the network."""
    state = draw(gemma4.build_network(_short(name, depth)))
    for tensor in state:
        if tensor.endswith(("_min", "_max")):
            state[tensor] = torch.tensor(-4.0 if tensor.endswith("_min") else 4.0)
    return {tensor: one.to(torch.bfloat16) for tensor, one in state.items()}


@pytest.mark.parametrize("name", NAMES)
def test_encoder_against_transformers(
    tmp_path: Path,
    draw: Callable[[nn.Module], dict[str, Tensor]],
    patch512: Image.Image,
    name: str,
) -> None:
    state = _draw(draw, name, depth=1)
    weights = tmp_path / "model.safetensors"
    save_file(
        {PREFIX + tensor: one for tensor, one in state.items()} | {"model.language_model.norm.weight": torch.ones(4)},
        weights,
    )
    declared = dataclasses.replace(spec(name), arguments=_short(name, depth=1))
    network = gemma4.build(declared, weights)
    image = patch512.crop((0, 0, 224, 224))

    vision = {
        "hidden_size": declared.arguments["hidden_size"],
        "intermediate_size": {"gemma4-e4b": 3072, "gemma4-26b": 4304}[name],
        "num_hidden_layers": 1,
        "num_attention_heads": {"gemma4-e4b": 12, "gemma4-26b": 16}[name],
        "num_key_value_heads": {"gemma4-e4b": 12, "gemma4-26b": 16}[name],
        "head_dim": {"gemma4-e4b": 64, "gemma4-26b": 72}[name],
        "use_clipped_linears": name == "gemma4-e4b",
        "standardize": name == "gemma4-26b",
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4", "vision_config": vision}))
    config: Any = Gemma4Config.from_pretrained(tmp_path).vision_config
    reference: Any = Gemma4VisionModel(config)
    reference.eval().load_state_dict({tensor: one.float() for tensor, one in state.items()})
    prepared = Gemma4ImageProcessor()(image, return_tensors="pt")
    with torch.inference_mode():
        got = network(gemma4.EnlargeBytes(768)(image).unsqueeze(0))
        tokens = reference(prepared["pixel_values"], prepared["image_position_ids"]).last_hidden_state
    assert tokens.shape == (256, declared.embedding_dim)
    assert got.dtype is torch.float32
    expected = tokens.mean(dim=0, keepdim=True)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_each_image_of_a_batch_keeps_its_own_tokens(
    draw: Callable[[nn.Module], dict[str, Tensor]], images: Tensor
) -> None:
    tower = gemma4.build_network(_short("gemma4-e4b", depth=0))
    tower.load_state_dict(_draw(draw, "gemma4-e4b", depth=0), assign=True)
    network = gemma4.Gemma4Vision(tower.float()).eval()
    batch = nn.functional.interpolate(images, size=768).sigmoid()
    with torch.inference_mode():
        together = network(batch)
        alone = torch.cat([network(one.unsqueeze(0)) for one in batch])
    assert together.shape == (2, 768)
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


def _publish(folder: Path) -> dict[str, Tensor]:
    """A small model in three files, two of which hold parts of the vision tower."""
    parts = {
        "model-00001-of-00003.safetensors": {"model.language_model.a.weight": torch.zeros(2)},
        "model-00002-of-00003.safetensors": {f"{PREFIX}a.weight": torch.ones(2), "lm_head.weight": torch.zeros(2)},
        "model-00003-of-00003.safetensors": {f"{PREFIX}b.weight": torch.full((2,), 2.0)},
    }
    for name, tensors in parts.items():
        save_file(tensors, folder / name)
    index = {"metadata": {}, "weight_map": {tensor: name for name, tensors in parts.items() for tensor in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"a.weight": torch.ones(2), "b.weight": torch.full((2,), 2.0)}


def test_tower_in_several_files(tmp_path: Path) -> None:
    expected = _publish(tmp_path)
    (tmp_path / "model-00001-of-00003.safetensors").unlink()  # text only: not needed
    found = locate(spec("gemma4-26b"), tmp_path)
    assert found is not None
    assert found.path == tmp_path / "model.safetensors.index.json"
    got = gemma4.load_tower(found.path)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 of the 2 needed files are missing.*model-00003-of-00003\.safetensors"):
        encoder_factory("gemma4-26b", weights_path=tmp_path)


def test_digest_of_several_files(tmp_path: Path) -> None:
    _publish(tmp_path)
    found = locate(spec("gemma4-26b"), tmp_path / "model.safetensors.index.json")
    assert found is not None
    before = found.sha256
    assert before != sha256_of(found.path)
    save_file({f"{PREFIX}b.weight": torch.full((2,), 3.0)}, tmp_path / "model-00003-of-00003.safetensors")
    assert found.sha256 != before


def test_weights_of_the_other_tower(tmp_path: Path, draw: Callable[[nn.Module], dict[str, Tensor]]) -> None:
    weights = tmp_path / "tower.safetensors"
    save_file(_draw(draw, "gemma4-e4b", depth=1), weights)
    declared = dataclasses.replace(spec("gemma4-26b"), arguments=_short("gemma4-26b", depth=1))
    with pytest.raises(WeightsError, match=r"2 of .* tensors are missing: std_bias, std_scale"):
        gemma4.build(declared, weights)


def test_too_old_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    with pytest.raises(NotAvailableError, match="need a newer transformers"):
        gemma4.build_network(spec("gemma4-e4b").arguments)


@pytest.mark.parametrize("name", NAMES)
def test_another_input_size_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="its processor enlarges every patch to 768 px"):
        encoder_factory(name, img_size=448)
