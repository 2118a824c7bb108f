"""Gated attention over a bag of patches (Ilse, Tomczak, Welling 2018). Imports torch: import this module lazily."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """One score a patch: w(tanh(a(x)) * sigmoid(b(x))). The published encoders share these names of tensors."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Tanh(), nn.Dropout(dropout))
        self.attention_b = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Sigmoid(), nn.Dropout(dropout))
        self.attention_c = nn.Linear(hidden_dim, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Scores (..., N) before the softmax, of patches (..., N, `dim`)."""
        scores: Tensor = self.attention_c(self.attention_a(patches) * self.attention_b(patches))
        return scores.squeeze(-1)


def weighted_mean(scores: Tensor, values: Tensor) -> Tensor:
    """Mean (..., C) of values (..., N, C) with weights softmax(scores) over the N patches, scores (..., N).

    Always summed in float32: over ten thousand patches half precision would lose what the attention found.
    """
    with torch.autocast(values.device.type, enabled=False):
        weights = scores.float().softmax(dim=-1)
        return (weights.unsqueeze(-2) @ values.float()).squeeze(-2)
