"""trident/encoders/slide/dilated_attention.py: against one softmax over counted keys, and against literal padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trident.encoders.slide import dilated_attention as module
from trident.encoders.slide.dilated_attention import (
    Branch,
    attention_by_hand,
    attention_with_logsumexp,
    dilated_attention,
)

BRANCHES = (Branch(8, 1), Branch(24, 2), Branch(48, 4))
HEADS = 4
LENGTHS = [1, 2, 3, 7, 8, 9, 17, 24, 25, 31, 48, 49, 50, 97, 101]


def draw(length: int, heads: int = HEADS, dim: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(length)
    query, key, value = torch.randn(3, length, heads, dim, dtype=torch.float64)
    return query * 2, key * 2, value


def counted_keys(query: Tensor, key: Tensor, value: Tensor, branches: tuple[Branch, ...]) -> Tensor:
    """For each query and head one softmax: a key counts once for each branch that holds both, padding as zeros."""
    length, heads, dim = query.shape
    out = torch.zeros_like(query)
    for head in range(heads):
        for i in range(length):
            logits, values = [], []
            for segment, ratio in branches:
                size = min(segment, length)
                phase = head // (heads // ratio)
                start = i // size * size
                if (i - start) % ratio != phase:
                    continue
                padded = math.ceil(size / ratio) * ratio
                for j in range(start + phase, start + padded, ratio):
                    real = j < min(start + size, length)
                    logits.append(query[i, head] @ key[j, head] / dim**0.5 if real else query.new_zeros(()))
                    values.append(value[j, head] if real else value.new_zeros(dim))
            out[i, head] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return out


def literal_padding(query: Tensor, key: Tensor, value: Tensor, branches: tuple[Branch, ...]) -> Tensor:
    """Zeros are appended, segments cut, heads take their phases; branches are blended by softmax of the logsumexp."""
    length, heads, dim = query.shape
    outputs, totals = [], []
    for segment, ratio in branches:
        size = min(segment, length)
        out, total = torch.zeros_like(query), torch.full((length, heads), -math.inf, dtype=query.dtype)
        whole = [functional.pad(one, (0, 0, 0, 0, 0, -length % size)) for one in (query, key, value)]
        for start in range(0, length, size):
            cut = [functional.pad(one[start : start + size], (0, 0, 0, 0, 0, -size % ratio)) for one in whole]
            for head in range(heads):
                phase = head // (heads // ratio)
                q, k, v = (one[phase::ratio, head] for one in cut)
                scores = q @ k.T / dim**0.5
                places = torch.arange(start + phase, start + len(cut[0]), ratio)
                real = places < min(start + size, length)
                out[places[real], head] = (scores.softmax(dim=1) @ v)[real]
                total[places[real], head] = scores.logsumexp(dim=1)[real]
        outputs.append(out)
        totals.append(total)
    shares = torch.stack(totals).softmax(dim=0)
    return (torch.stack(outputs) * shares[..., None]).sum(dim=0)


@pytest.mark.parametrize("length", LENGTHS)
def test_equals_literal_padding(length: int) -> None:
    inputs = draw(length)
    torch.testing.assert_close(dilated_attention(*inputs, BRANCHES), literal_padding(*inputs, BRANCHES))


@pytest.mark.parametrize("length", [1, 3, 9, 25, 50])
def test_equals_one_softmax_over_counted_keys(length: int) -> None:
    inputs = draw(length)
    torch.testing.assert_close(dilated_attention(*inputs, BRANCHES), counted_keys(*inputs, BRANCHES))


def test_large_logits() -> None:
    """The blend of branches must not overflow where the softmax of one would not."""
    query, key, value = (one.float() for one in draw(50))
    inputs = (query * 5, key * 5, value)
    assert (inputs[0][:, 0] @ inputs[1][:, 0].T).exp().isinf().any()
    got = dilated_attention(*inputs, BRANCHES)
    assert got.isfinite().all()
    torch.testing.assert_close(
        got, literal_padding(*(one.double() for one in inputs), BRANCHES).float(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("max_scores", [1, 1000, module.MAX_SCORES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_and_by_hand_are_one(max_scores: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SCORES", max_scores)
    query, key, value = (one.to(dtype).transpose(0, 1) for one in draw(60, dim=48))
    expected = (query @ key.transpose(1, 2) / 48**0.5).softmax(dim=-1) @ value
    total = (query @ key.transpose(1, 2) / 48**0.5).logsumexp(dim=-1)
    for attend in (attention_with_logsumexp, attention_by_hand):
        got, got_total = attend(query, key, value)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(got_total, total)


def test_without_the_fused_function(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(50)
    expected = dilated_attention(*inputs, BRANCHES)
    calls = []
    by_hand = attention_by_hand
    monkeypatch.setattr(module, "attention_by_hand", lambda *given: calls.append(1) or by_hand(*given))
    monkeypatch.setattr(module, "_FUSED", "no such function")
    torch.testing.assert_close(dilated_attention(*inputs, BRANCHES), expected)
    assert calls


@pytest.mark.parametrize("length", [7, 17, 50])
def test_gradients(length: int) -> None:
    """The logsumexp carries gradients, too: the fused function would lose them without a word."""
    own = [one.requires_grad_() for one in draw(length)]
    other = [one.detach().clone().requires_grad_() for one in own]
    seed = torch.randn_like(own[0])
    (dilated_attention(*own, BRANCHES) * seed).sum().backward()
    (literal_padding(*other, BRANCHES) * seed).sum().backward()
    for one, expected in zip(own, other, strict=True):
        torch.testing.assert_close(one.grad, expected.grad)
