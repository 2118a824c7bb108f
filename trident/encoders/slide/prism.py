"""PRISM's slide encoder: a Perceiver whose latents read the patches. Imports torch: import this module lazily.

Source: Shaikovski et al., "PRISM: A Multi-Modal Generative Foundation Model for Slide-Level Histopathology" (arXiv
2405.10254), and the names and shapes of the published weights. Time and memory grow linearly with the patches, whose
order and coordinates play no role.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trident.encoders.checkpoint import load_into
from trident.encoders.slide.network_encoder import NetworkSlideEncoder, SlidePatches
from trident.encoders.slide.partial_weights import load_part
from trident.encoders.slide.spec import SlideEncoderSpec

PATCH_WIDTH = 2560
WIDTH = 1280
LATENTS = 513
HEADS = 8
LAYERS = 8
SELF_ATTENTIONS = 6
EPS = 1e-5

_PART = "image_resampler."
_UNUSED = ("img_norm.",)


class _CrossAttention(nn.Module):
    """Every latent attends to all patches, with one head. The patches are not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.x_norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_kv = nn.Linear(PATCH_WIDTH, 2 * WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH, bias=False)

    def keys_values(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2560) -> keys and values, (N, 1280) each."""
        key, value = self.to_kv(patches).chunk(2, dim=-1)
        return key, value

    def forward(self, latents: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = self.to_q(self.x_norm(latents))
        attended = functional.scaled_dot_product_attention(
            query[None, None], key[None, None].to(query.dtype), value[None, None].to(query.dtype)
        )
        return cast(Tensor, self.to_out(attended[0, 0]))


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        normed = self.norm(latents)
        attended, _ = self.mha(normed, normed, normed, need_weights=False)
        return cast(Tensor, attended)


class _GatedGelu(nn.Module):
    def forward(self, both: Tensor) -> Tensor:
        value, gate = both.chunk(2, dim=-1)
        return value * functional.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.net = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), _GatedGelu(), nn.Linear(WIDTH, WIDTH))

    def forward(self, latents: Tensor) -> Tensor:
        return cast(Tensor, self.net(self.norm(latents)))


class _Layer(nn.Module):
    """A cross attention with its feed-forward part and, in the layer that owns them, the self attentions."""

    def __init__(self, *, owns_self_attentions: bool) -> None:
        super().__init__()
        self.xattn = nn.ModuleDict({"xattn": _CrossAttention(), "ff": _FeedForward()})
        if owns_self_attentions:
            self.tf = nn.ModuleList(
                nn.ModuleDict({"mhsa": _SelfAttention(), "ff": _FeedForward()}) for _ in range(SELF_ATTENTIONS)
            )


class _Perceiver(nn.Module):
    """Eight layers from two sets of weights.

    Layer 0 has its own cross attention, layers 1 to 7 share one, and all share the same self attentions: so the patches
    are turned into keys and values twice, not eight times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(LATENTS, WIDTH))
        self.layers = nn.ModuleList([_Layer(owns_self_attentions=True), _Layer(owns_self_attentions=False)])

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 2560) -> latents (513, 1280)."""
        first, later = cast(list[_Layer], list(self.layers))
        latents: Tensor = self.latents
        for layer, uses in ((first, 1), (later, LAYERS - 1)):
            cross = cast(_CrossAttention, layer.xattn["xattn"])
            key, value = cross.keys_values(patches)
            for _ in range(uses):
                latents = latents + cross(latents, key, value)
                latents = latents + layer.xattn["ff"](latents)
                for shared in cast(list[nn.ModuleDict], list(first.tf)):
                    latents = latents + shared["mhsa"](latents)
                    latents = latents + shared["ff"](latents)
            del key, value  # of every patch: freed before the next ones are made
        return latents


class PrismNetwork(nn.Module):
    """Patches of one slide -> embedding (1280,): the first latent, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.perceiver = _Perceiver()

    def forward(self, patches: SlidePatches) -> Tensor:
        """The embedding."""
        return cast(Tensor, self.cls_norm(self.perceiver(patches.features)[0]))


def owner(name: str) -> str:
    """The name, in the lowest layer that uses it, of a tensor that may be published once for every layer."""
    name = re.sub(r"^(perceiver\.layers\.)[0-7](\.tf\.)", r"\g<1>0\2", name)
    return re.sub(r"^(perceiver\.layers\.)[1-7](\.xattn\.)", r"\g<1>1\2", name)


def build(spec: SlideEncoderSpec, weights_path: Path) -> NetworkSlideEncoder:
    """PRISM with its published weights; the text model in the file, four fifths of it, is not read.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    with torch.device("meta"):
        network = PrismNetwork()
    load_into(network, load_part(weights_path, _PART, canonical=owner), weights_path, unused=_UNUSED)
    return NetworkSlideEncoder(spec, network, takes_coords=False)
