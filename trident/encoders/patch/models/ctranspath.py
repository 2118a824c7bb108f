"""CTransPath: a Swin transformer behind a convolutional stem. Imports torch and timm: import this module lazily.

Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image classification" (2022).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.spec import PatchEncoderSpec

_COMPUTED = ("attn_mask", "relative_position_index")
"""Tables that follow from the window's size: some files have them, and the network computes its own."""


class ConvStem(nn.Module):
    """(B, 3, H, W) -> (B, H / 4, W / 4, C): two strided convolutions and a mixing one in place of Swin's patches."""

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        **_: object,
    ) -> None:
        """`img_size`, `patch_size` in pixels; timm passes further keywords that mean nothing here."""
        super().__init__()
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        widths = (in_chans, embed_dim // 8, embed_dim // 4)
        strided = [
            layer
            for before, after in pairwise(widths)
            for layer in (
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
        ]
        self.proj = nn.Sequential(*strided, nn.Conv2d(widths[-1], embed_dim, kernel_size=1))
        self.norm = norm_layer(embed_dim)

    def forward(self, batch: Tensor) -> Tensor:
        """Tokens of a batch, channels last."""
        tokens: Tensor = self.norm(self.proj(batch).permute(0, 2, 3, 1))
        return tokens


def build_network() -> nn.Module:
    """CTransPath without meaningful weights: (B, 3, 224, 224) -> (B, 768), the mean of the last tokens.

    Not on the meta device: it computes tables of its own, which no file has to give.
    """
    return SwinTransformer(
        img_size=224,
        patch_size=4,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        embed_layer=ConvStem,
        num_classes=0,
        weight_init="skip",
    )


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> timm's, which counts the merging of patches to the stage that begins with it."""
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", name): tensor
        for name, tensor in state.items()
        if not name.endswith(_COMPUTED)
    }


def build(spec: PatchEncoderSpec, weights_path: Path) -> nn.Module:
    """CTransPath with its weights.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    state = rename(load_checkpoint(weights_path))
    return load_into(build_network(), state, weights_path, unused=spec.unused_weights).eval()
