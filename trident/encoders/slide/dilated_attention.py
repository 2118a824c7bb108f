"""Dilated attention, as in LongNet (Ding et al., arXiv 2307.02486). Imports torch: import this module lazily.

A sequence is cut into segments; of each segment, a head sees every r-th token, from a phase that depends on the head.
Several such branches, from short and dense to long and sparse, are blended by the sum of exponentials that each has
seen: time grows linearly with the sequence as long as the longest segments are sparse enough.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_SCORES = 1 << 24
"""Scores of queries and keys that exist at once where attention is computed by hand: 64 MB of float32."""

_FUSED = "_scaled_dot_product_flash_attention_for_cpu"


class Branch(NamedTuple):
    """One way to thin out the sequence."""

    segment: int
    """Tokens in a segment; a shorter sequence is one segment."""
    ratio: int
    """A head sees one token in so many. Divides the number of heads."""


def dilated_attention(query: Tensor, key: Tensor, value: Tensor, branches: tuple[Branch, ...]) -> Tensor:
    """Attention of each head over the branches' tokens, (length, heads, d) each and in all, float32.

    The sequence counts as if it were padded with zeros to whole segments, and each segment to a multiple of the ratio:
    the padding's keys (logit 0, value 0) take part in the softmax. That is how the published networks were trained;
    here they are counted, not computed. The first branch must have ratio 1.
    """
    attended, total = _branch(query, key, value, branches[0])
    for branch in branches[1:]:
        more, more_total = _branch(query, key, value, branch)
        both = torch.logaddexp(total, more_total)
        attended = attended * (total - both).exp()[..., None] + more * (more_total - both).exp()[..., None]
        total = both
    return attended


def _branch(query: Tensor, key: Tensor, value: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
    """Attention (length, heads, d) within one branch and its logsumexp (length, heads).

    Where a head does not see a token, the attention is zero and the logsumexp is minus infinity: no weight.
    """
    length, heads, _ = query.shape
    segment, ratio = min(branch.segment, length), branch.ratio
    heads_of_phase = heads // ratio
    attended = torch.zeros_like(query)
    total = query.new_full((length, heads), -math.inf)
    for start in range(0, length, segment):
        for phase in range(ratio):
            tokens = slice(start + phase, min(start + segment, length), ratio)
            of_phase = slice(phase * heads_of_phase, (phase + 1) * heads_of_phase)
            # The last segment may be shorter than the first token of this phase.
            n_tokens = len(range(length)[tokens])
            if not n_tokens:
                continue
            part, part_total = attention_with_logsumexp(
                *(one[tokens, of_phase].transpose(0, 1) for one in (query, key, value))
            )
            n_padding = math.ceil(segment / ratio) - n_tokens
            if n_padding:
                with_padding = torch.logaddexp(part_total, part_total.new_tensor(math.log(n_padding)))
                part = part * (part_total - with_padding).exp()[..., None]
                part_total = with_padding
            attended[tokens, of_phase] = part.transpose(0, 1)
            total[tokens, of_phase] = part_total.transpose(0, 1)
    return attended, total


def attention_with_logsumexp(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k / sqrt(d)) v, and the logsumexp of each query's logits.

    Args:
        query: (heads, n, d), float32.
        key: (heads, m, d).
        value: (heads, m, d).

    Returns:
        (heads, n, d) and (heads, n).
    """
    needs_gradient = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    fused = getattr(torch.ops.aten, _FUSED, None)
    # Fused is several times faster. It is no public function, so nothing depends on it; and it gives its logsumexp no
    # gradient.
    if fused is not None and query.device.type == "cpu" and not needs_gradient:
        attended, total = fused(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0))
        return attended.squeeze(0), total.squeeze(0)
    return attention_by_hand(query, key, value)


def attention_by_hand(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """As `attention_with_logsumexp`, in plain steps over blocks of queries, on any device and with gradients."""
    heads, n_keys, _ = key.shape
    at_once = max(1, MAX_SCORES // (heads * n_keys))
    scaled = query * query.shape[-1] ** -0.5
    attended, totals = [], []
    for block in torch.split(scaled, at_once, dim=1):
        scores = block @ key.transpose(1, 2)
        total = scores.logsumexp(dim=-1)
        attended.append((scores - total[..., None]).exp() @ value)
        totals.append(total)
    return torch.cat(attended, dim=1), torch.cat(totals, dim=1)
