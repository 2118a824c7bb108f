"""Networks that timm has, built from their declaration. Imports torch and timm: import this module lazily."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.published_names import resample_grid, resample_positions
from trident.encoders.patch.spec import OptionValue, PatchEncoderSpec

_MODULES: dict[str, Any] = {
    "SwiGLUPacked": SwiGLUPacked,
    "SiLU": nn.SiLU,
    "LayerNorm-1e-12": partial(nn.LayerNorm, eps=1e-12),
}
"""What the names of modules in a declaration's arguments stand for."""


class _MeanOfLastMap(nn.Module):
    """(B, 3, H, W) -> (B, C): the last of a backbone's feature maps, averaged over the image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Tensor) -> Tensor:
        last: Tensor = self.backbone(batch)[-1]
        return last.mean(dim=(2, 3))


class _ClassToken(nn.Module):
    """(B, 3, H, W) -> (B, C), or (B, 2 C) with the mean of the patch tokens; registers are left out."""

    def __init__(self, tokens: nn.Module, *, with_mean: bool) -> None:
        super().__init__()
        self.tokens = tokens
        self.with_mean = with_mean
        self.n_prefix: int = tokens.num_prefix_tokens  # type: ignore[assignment]

    def forward(self, batch: Tensor) -> Tensor:
        tokens: Tensor = self.tokens(batch)
        class_token = tokens[:, 0]
        if not self.with_mean:
            return class_token
        return torch.cat([class_token, tokens[:, self.n_prefix :].mean(dim=1)], dim=-1)


class _Keep(nn.Module):
    """(B, 3, H, W) -> (B, 768) of length 1: the class token through KEEP's projection. Names are the published ones."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.visual_head = nn.Sequential(nn.Linear(1024, 768), nn.GELU(), nn.Linear(768, 768))

    def forward(self, batch: Tensor) -> Tensor:
        return F.normalize(self.visual_head(self.visual(batch)), dim=-1)


def build_network(spec: PatchEncoderSpec) -> nn.Module:
    """The bare network on the meta device: names and shapes, no memory. Its names are timm's."""
    arguments = {
        key: _MODULES.get(value, value) if isinstance(value, str) else value for key, value in spec.arguments.items()
    }
    with torch.device("meta"):
        network: nn.Module = timm.create_model(spec.architecture, pretrained=False, **arguments)
    return network


def build_keep_network(spec: PatchEncoderSpec) -> nn.Module:
    """KEEP's half that sees, on the meta device."""
    with torch.device("meta"):
        return _Keep(build_network(spec))


def build(spec: PatchEncoderSpec, weights: Path, **options: OptionValue) -> nn.Module:
    """The network with its weights, float32, in evaluation mode: (B, 3, H, W) -> (B, D).

    A custom input size needs nothing here: the position table is resampled to the input at each forward.

    Args:
        spec: the declaration.
        weights: the published file.
        options: `return_cls` (the class token alone) or `return_type` (a pooling), where the declaration has them.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    return pool(spec, load(spec, build_network(spec), weights), **options).eval()


def build_keep(spec: PatchEncoderSpec, weights: Path) -> nn.Module:
    """KEEP's image encoder with its weights; see `build`."""
    return load(spec, build_keep_network(spec), weights).eval()


def load(spec: PatchEncoderSpec, network: nn.Module, weights: Path) -> nn.Module:
    """Give `network`, which is on the meta device, the published tensors of `weights` under its own names.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    return load_into(network, own_names(spec, network, load_checkpoint(weights)), weights, unused=spec.unused_weights)


def own_names(spec: PatchEncoderSpec, network: nn.Module, published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the network's names; those that it does not use keep theirs."""
    state = published
    if spec.naming:
        module, _, function = spec.naming.partition(":")
        rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = getattr(import_module(module), function)
        state = rename(state)
    if spec.resampled_positions and "pos_embed" in state:
        # The published grid is the network's as far as is known; a table of another size is adopted as its code does.
        grid: int = network.patch_embed.grid_size[0]  # type: ignore[union-attr,index,assignment]
        resample = resample_grid if network.no_embed_class else resample_positions
        antialias = spec.resampled_positions == "bicubic-antialias"
        state = {**state, "pos_embed": resample(state["pos_embed"], grid, antialias=antialias)}
    return state


def pool(spec: PatchEncoderSpec, network: nn.Module, **options: OptionValue) -> nn.Module:
    """`network` with the pooling that its declaration and the options ask for: (B, 3, H, W) -> (B, D)."""
    pooling = "cls" if options.get("return_cls") else options.get("return_type", spec.pooling)
    if pooling == "map-mean":
        return _MeanOfLastMap(network)
    if pooling in ("cls", "cls+mean"):
        return _ClassToken(network, with_mean=pooling == "cls+mean")
    return network
