"""ABMIL: a slide encoder to be trained. Imports torch: import this module lazily."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.slide.attention import weighted_mean
from trident.encoders.slide.base import SlideEncoder
from trident.encoders.slide.registry import missing_weights
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError, WeightsError

logger = logging.getLogger(__name__)

_HEAD_WEIGHT = "image_pooler.attention_heads.{}.0.weight"
_PREFIX = "model."
"""What the state dict of the whole encoder puts before the network's names."""


class _Pooler(nn.Module):
    """Several heads of (gated) attention: (..., N, D) -> (..., D), and the scores (..., H, N) before the softmax."""

    def __init__(self, dim: int, n_heads: int, head_dim: int, dropout: float, gated: bool) -> None:
        super().__init__()
        self.attention_heads = _heads(dim, n_heads, head_dim, dropout, nn.Tanh)
        self.gating_layers = _heads(dim, n_heads if gated else 0, head_dim, dropout, nn.Sigmoid)
        self.branching_layers = nn.ModuleList([nn.Linear(head_dim, 1) for _ in range(n_heads)])
        self.condensing_layer = nn.Linear(n_heads * dim, dim) if n_heads > 1 else nn.Identity()

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        scores, pooled = [], []
        for head, attention in enumerate(self.attention_heads):
            attended = attention(hidden)
            if self.gating_layers:
                attended = attended * self.gating_layers[head](hidden)
            scores.append(self.branching_layers[head](attended).squeeze(-1))
            pooled.append(weighted_mean(scores[-1], hidden))
        return self.condensing_layer(torch.cat(pooled, dim=-1)), torch.stack(scores, dim=-2)


class ABMILSlideEncoder(SlideEncoder):
    """Attention-based pooling of patch features, gated or not, to train as part of a model of your own.

    `model` holds the network, under the names of TRIDENT's, so that a state dict of either fits the other.
    """

    def __init__(
        self,
        input_feature_dim: int,
        n_heads: int = 1,
        head_dim: int = 512,
        dropout: float = 0.0,
        gated: bool = True,
        *,
        pretrained: bool = False,
        freeze: bool = False,
        enc_name: str = "abmil",
    ) -> None:
        """Args:
            input_feature_dim: length of a patch feature vector, and of the embedding.
            n_heads: heads of attention.
            head_dim: hidden size of each.
            dropout: share of the hidden values of the attention that is dropped in training.
            gated: whether a sigmoid branch gates the attention.
            pretrained: taken for the sake of TRIDENT's scripts; there are no pretrained weights.
            freeze: True for inference (evaluation mode, no gradients).
            enc_name: names the outputs.

        Raises:
            SettingsError: a size that is not positive, a share that is none, or pretrained weights are asked for.
        """
        if pretrained:
            raise SettingsError("abmil has no pretrained weights; leave out pretrained=True and load your own into it")
        for name, value in (("input_feature_dim", input_feature_dim), ("n_heads", n_heads), ("head_dim", head_dim)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingsError(f"abmil: {name} {value!r} is not a positive whole number")
        if not 0 <= dropout < 1:
            raise SettingsError(f"abmil: dropout {dropout!r} is not a share from 0 to below 1")
        super().__init__(enc_name, torch.float32, input_feature_dim, input_dim=input_feature_dim)
        self.n_heads = n_heads
        self.model = nn.ModuleDict(
            {
                "pre_attention_layers": nn.Sequential(nn.Linear(input_feature_dim, input_feature_dim), nn.GELU()),
                "image_pooler": _Pooler(input_feature_dim, n_heads, head_dim, dropout, gated),
                "post_attention_layers": nn.Sequential(nn.Linear(input_feature_dim, input_feature_dim), nn.GELU()),
            }
        )
        self.train(not freeze).requires_grad_(not freeze)

    @overload
    def forward(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        return_raw_attention: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        *,
        return_raw_attention: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        return_raw_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        return_raw_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The embedding (..., D) of `batch["features"]` (..., N, D); zeros of a slide without patches.

        Args:
            batch: a mapping with `features`; bags of equal length can be stacked. Nothing else is used.
            device: where to compute; None: where the weights are.
            return_raw_attention: give also the attention scores (..., H, N), before the softmax over the patches.
        """
        features = self.features_of(batch, next(self.parameters()).device if device is None else device)
        if features.shape[-2] == 0:
            embedding = features.new_zeros(*features.shape[:-2], features.shape[-1])
            scores = features.new_zeros(*features.shape[:-2], self.n_heads, 0)
        else:
            pooled, scores = self.model["image_pooler"](self.model["pre_attention_layers"](features))
            embedding = self.model["post_attention_layers"](pooled)
        return (embedding, scores) if return_raw_attention else embedding


def build(
    spec: SlideEncoderSpec,
    weights_path: Path | None,
    *,
    input_feature_dim: int | None = None,
    n_heads: int | None = None,
    head_dim: int | None = None,
    dropout: float = 0.0,
    gated: bool | None = None,
) -> ABMILSlideEncoder:
    """ABMIL: trained, with the sizes that its weights have, or new and random, with the sizes given.

    Raises:
        WeightsError: damaged weights, weights of another architecture or of other sizes than those given, or neither
            weights nor `input_feature_dim`.
        SettingsError: a size or share out of range.
    """
    given = {"input_feature_dim": input_feature_dim, "n_heads": n_heads, "head_dim": head_dim, "gated": gated}
    sizes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if weights_path is None:
        if "input_feature_dim" not in sizes:
            error = missing_weights(spec)
            raise WeightsError(f"{error}; for a new one, to train, give input_feature_dim")
        logger.warning("%s has random weights until it is trained", spec.name)
        return ABMILSlideEncoder(**sizes, dropout=dropout, enc_name=spec.name)

    state = {name.removeprefix(_PREFIX): tensor for name, tensor in load_checkpoint(weights_path).items()}
    found = _sizes_of(state, weights_path)
    other = [f"{name} {found[name]}, not {value}" for name, value in sizes.items() if found[name] != value]
    if other:
        raise WeightsError(f"{weights_path}: these weights have {'; '.join(other)}; leave the option out")
    with torch.device("meta"):
        encoder = ABMILSlideEncoder(**found, dropout=dropout, enc_name=spec.name)
    load_into(encoder.model, state, weights_path)
    return encoder


def _sizes_of(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    first = state.get(_HEAD_WEIGHT.format(0))
    if first is None or first.ndim != 2:
        raise WeightsError(
            f"{path}: these are not the weights of abmil: there is no matrix {_HEAD_WEIGHT.format(0)}. "
            "Save the state dict of an ABMILSlideEncoder"
        )
    n_heads = 1
    while _HEAD_WEIGHT.format(n_heads) in state:
        n_heads += 1
    return {
        "input_feature_dim": int(first.shape[1]),
        "n_heads": n_heads,
        "head_dim": int(first.shape[0]),
        "gated": any(name.startswith("image_pooler.gating_layers.") for name in state),
    }


def _heads(dim: int, count: int, head_dim: int, dropout: float, activation: type[nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(
        [nn.Sequential(nn.Linear(dim, head_dim), activation(), nn.Dropout(dropout)) for _ in range(count)]
    )
