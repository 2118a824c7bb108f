"""MADELEINE: four heads of gated attention over interleaved channels. Imports torch: import this module lazily."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.slide.attention import GatedAttention, weighted_mean
from trident.encoders.slide.base import PoolingEncoder
from trident.encoders.slide.spec import Precision, SlideEncoderSpec
from trident.errors import WeightsError

CONFIG_NAME = "model_config.json"
"""File beside the weights that says what was trained."""

_DIM = 512
_HEADS = 4
_EXPECTED: Mapping[str, Any] = {
    "wsi_encoder": "abmil",
    "activation": "softmax",
    "n_heads": _HEADS,
    "patch_embedding_dim": _DIM,
    "wsi_encoder_hidden_dim": _DIM,
}
_PRECISIONS = ("float32", "float16", "bfloat16")
_UNUSED = ("token_projector.",)
"""Prefixes of published tensors that only the training of MADELEINE reads."""


def _layer(dim_in: int, dim_out: int) -> tuple[nn.Module, ...]:
    # Published numbering: four places a layer, the last one without tensors.
    return nn.Linear(dim_in, dim_out), nn.LayerNorm(dim_out, eps=1e-5), nn.GELU(), nn.Identity()


class _Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre_attn = nn.Sequential(*_layer(_DIM, _DIM), *_layer(_DIM, _DIM), *_layer(_DIM, _DIM * _HEADS))
        self.attn = nn.ModuleList([GatedAttention(_DIM, _DIM) for _ in range(_HEADS)])

    def forward(self, features: Tensor) -> Tensor:
        """(..., N, 512) -> (..., 2048), channel e * 4 + h being position e of head h."""
        hidden = self.pre_attn(features).unflatten(-1, (_DIM, _HEADS))
        heads = [hidden[..., head].contiguous() for head in range(_HEADS)]
        pooled = [weighted_mean(attention(head), head) for attention, head in zip(self.attn, heads, strict=True)]
        return torch.stack(pooled, dim=-1).flatten(-2)


class MadeleineNetwork(nn.Module):
    """(..., N, 512) -> (..., 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.wsi_embedders = _Embedder()
        self.projector = nn.Linear(_DIM * _HEADS, _DIM)

    def forward(self, features: Tensor) -> Tensor:
        """The projection of what the four heads saw; no norm at the end."""
        embedding: Tensor = self.projector(self.wsi_embedders(features))
        return embedding


def build(spec: SlideEncoderSpec, weights_path: Path) -> PoolingEncoder:
    """MADELEINE with its weights; a `model_config.json` beside them must agree with this architecture.

    Raises:
        WeightsError: the weights or the configuration are damaged or those of another architecture.
    """
    config = weights_path.with_name(CONFIG_NAME)
    if config.is_file():
        spec = replace(spec, precision=_read_precision(config) or spec.precision)
    with torch.device("meta"):
        network = MadeleineNetwork()
    # Data-parallel training may have left its prefix on some names only.
    state = {name.removeprefix("module."): tensor for name, tensor in load_checkpoint(weights_path).items()}
    return PoolingEncoder(spec, load_into(network, state, weights_path, unused=_UNUSED))


def _read_precision(path: Path) -> Precision | None:
    """Check the configuration; give the precision that it names, if any."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON ({error}); download it again") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: holds a {type(config).__name__} instead of an object; download it again")
    wrong = [
        f"{key} is {config[key]!r} instead of {value!r}"
        for key, value in _EXPECTED.items()
        if key in config and config[key] != value
    ]
    if wrong:
        raise WeightsError(
            f"{path}: {'; '.join(wrong)}: this version has only the published architecture of madeleine; "
            "check that the file belongs to these weights"
        )
    precision = config.get("precision")
    if precision is None:
        return None
    if precision not in _PRECISIONS:
        raise WeightsError(f"{path}: precision {precision!r} is none of {', '.join(_PRECISIONS)}; download it again")
    return cast("Precision", precision)
