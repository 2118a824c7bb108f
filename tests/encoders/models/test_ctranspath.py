"""trident/encoders/patch/models/ctranspath.py: names, the stored fingerprint, and files that hold more or less."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trident.encoders.patch.factory import encoder_factory
from trident.encoders.patch.models import ctranspath
from trident.errors import SettingsError, WeightsError


def test_names(manifest: Callable[[str], dict[str, Tensor]]) -> None:
    renamed = {name: one.shape for name, one in ctranspath.rename(manifest("ctranspath")).items()}
    assert {name: one.shape for name, one in ctranspath.build_network().state_dict().items()} == renamed


@pytest.mark.parametrize(
    ("published", "own"),
    [
        ("layers.0.downsample.norm.bias", "layers.1.downsample.norm.bias"),
        ("layers.2.downsample.reduction.weight", "layers.3.downsample.reduction.weight"),
        ("layers.2.blocks.5.mlp.fc1.weight", "layers.2.blocks.5.mlp.fc1.weight"),
        ("patch_embed.proj.6.bias", "patch_embed.proj.6.bias"),
        ("layers.0.blocks.1.attn_mask", None),
        ("layers.0.blocks.1.attn.relative_position_index", None),
        ("layers.0.blocks.1.attn.relative_position_bias_table", "layers.0.blocks.1.attn.relative_position_bias_table"),
    ],
)
def test_rename(published: str, own: str | None) -> None:
    assert list(ctranspath.rename({published: torch.zeros(1)})) == ([] if own is None else [own])


def test_fingerprint(
    tmp_path: Path, shared_reference: Path, seeded_state: Callable[..., dict[str, Tensor]], patch512: Image.Image
) -> None:
    expected = np.load(shared_reference / "expected" / "patch" / "ctranspath.npy")
    facts = json.loads((shared_reference / "expected" / "patch" / "index.json").read_text())["ctranspath"]
    state = seeded_state("ctranspath")
    assert not any(name.endswith(("num_batches_tracked", "relative_position_index")) for name in state)
    # As the published file: tables that are computed anyway, here with values that would spoil the result.
    state["layers.0.blocks.1.attn_mask"] = torch.full((64, 49, 49), 3.0)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros((49, 49), dtype=torch.int64)
    weights = tmp_path / "CHIEF_CTransPath.pth"
    torch.save({"model": state}, weights)

    encoder = encoder_factory("ctranspath", weights_path=tmp_path)
    image = patch512.crop((0, 0, facts["crop"], facts["crop"]))
    with torch.inference_mode():
        got = encoder(encoder.eval_transforms(image).unsqueeze(0))[0].numpy()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()

    state["head.weight"] = torch.zeros(1000, 768)
    torch.save(state, weights)
    with pytest.raises(WeightsError, match=r"1 are unexpected: head\.weight"):
        encoder_factory("ctranspath", weights_path=weights)


def test_another_input_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="windows of attention are laid out for 224 px"):
        encoder_factory("ctranspath", img_size=448)
