"""trident/encoders/slide/attention.py: the block that the attention encoders share."""

from __future__ import annotations

import numpy as np
import torch

from trident.encoders.slide.attention import GatedAttention, weighted_mean


def test_gated_attention_against_numpy() -> None:
    torch.manual_seed(0)
    block, patches = GatedAttention(6, 4).eval(), torch.randn(2, 5, 6)
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in block.state_dict().items()}
    x = patches.numpy().astype(np.float64)
    a = np.tanh(x @ state["attention_a.0.weight"].T + state["attention_a.0.bias"])
    b = 1 / (1 + np.exp(-(x @ state["attention_b.0.weight"].T + state["attention_b.0.bias"])))
    wanted = (a * b) @ state["attention_c.weight"][0] + state["attention_c.bias"]
    np.testing.assert_allclose(block(patches).detach().numpy(), wanted, atol=1e-6)


def test_weighted_mean_against_numpy() -> None:
    torch.manual_seed(0)
    scores, values = torch.randn(2, 7) * 9, torch.randn(2, 7, 3)
    weights = np.exp(scores.numpy().astype(np.float64))
    weights /= weights.sum(axis=1, keepdims=True)
    wanted = (weights[..., np.newaxis] * values.numpy()).sum(axis=1)
    np.testing.assert_allclose(weighted_mean(scores, values), wanted, atol=1e-6)


def test_weighted_mean_of_huge_scores_is_finite() -> None:
    got = weighted_mean(torch.tensor([3e4, 3e4, -3e4]), torch.tensor([[1.0], [3.0], [100.0]]))
    assert got.tolist() == [2.0]


def test_half_precision_is_summed_in_float32() -> None:
    n_patches = 10_000
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = weighted_mean(torch.zeros(n_patches), torch.arange(n_patches, dtype=torch.float32).unsqueeze(-1))
    assert got.dtype is torch.float32
    assert abs(got.item() - (n_patches - 1) / 2) < 0.01


def test_dropout_only_in_training() -> None:
    block, patches = GatedAttention(6, 4, dropout=0.5), torch.randn(50, 6)
    assert torch.equal(block.eval()(patches), block(patches))
    assert not torch.equal(block.train()(patches), block(patches))
