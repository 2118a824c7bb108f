"""trident/encoders/slide/chief.py: the published tensors, the stored output, and which features are averaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trident.encoders.slide.chief import ChiefNetwork
from trident.encoders.slide.factory import encoder_factory
from trident.errors import WeightsError


def test_tensors_are_those_that_the_embedding_needs(manifests: Callable[[str], dict[str, Any]]) -> None:
    manifest = manifests("chief")
    with torch.device("meta"):
        own = {name: list(tensor.shape) for name, tensor in ChiefNetwork().state_dict().items()}
    assert own == {name: manifest["tensors"][name][1] for name in manifest["needed_for_embedding"]}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_stored_output(
    suffix: str,
    seeded_state: Callable[[str], dict[str, Tensor]],
    bag: Callable[..., Tensor],
    stored: Callable[[str], np.ndarray],
    relative_error: Callable[[Any, Any], float],
    tmp_path: Path,
) -> None:
    path = tmp_path / f"CHIEF_pretraining{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(seeded_state("chief"), path)
    # The folder that holds the published name serves as well as the file.
    encoder = encoder_factory("chief", weights_path=tmp_path if suffix == ".pth" else path)
    assert (encoder.precision, encoder.embedding_dim, encoder.enc_name) == (torch.float32, 768, "chief")
    assert encoder.weights_sha256 is not None
    assert relative_error(encoder({"features": bag(300, 768)}), stored("chief")) < 5e-6


def test_one_patch_comes_back(seeded_file: Callable[[str], Path], bag: Callable[..., Tensor]) -> None:
    patch = bag(1, 768)
    assert torch.equal(encoder_factory("chief", weights_path=seeded_file("chief"))({"features": patch}), patch[0])


def test_a_missing_tensor(seeded_state: Callable[[str], dict[str, Tensor]], tmp_path: Path) -> None:
    state = seeded_state("chief")
    del state["attention_net.3.attention_c.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"1 of 8 tensors are missing: attention_net\.3\.attention_c\.bias"):
        encoder_factory("chief", weights_path=tmp_path / "w.safetensors")
