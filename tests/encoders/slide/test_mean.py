"""trident/encoders/slide/mean.py: the mean over patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trident.encoders.slide.factory import encoder_factory


def test_stored_output(
    bag: Callable[..., Tensor], stored: Callable[[str], np.ndarray], relative_error: Callable[[Any, Any], float]
) -> None:
    got = encoder_factory("mean-conch_v15")({"features": bag(300, 768)})
    assert relative_error(got, stored("mean-conch_v15")) < 5e-6


def test_shapes_and_types() -> None:
    encoder = encoder_factory("mean-uni_v1")
    features = torch.rand(5, 1024).half()
    assert encoder({"features": features}).shape == (1024,)
    assert encoder({"features": features.unsqueeze(0)}, "cpu").shape == (1, 1024)
    assert encoder({"features": features}).dtype is torch.float32
    assert (encoder.embedding_dim, encoder.weights_sha256, encoder.training) == (1024, None, False)


def test_no_patches_give_zeros() -> None:
    got = encoder_factory("mean-resnet50")({"features": torch.empty(1, 0, 1024)})
    assert torch.equal(got, torch.zeros(1, 1024))
