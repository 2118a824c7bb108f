"""The vision towers of Gemma 4 as patch encoders. Imports torch and transformers: import this module lazily.

A patch of any size is enlarged to 768 px, cut into 48 x 48 squares, and becomes 16 x 16 soft tokens, whose mean is the
feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.encoders.patch.spec import PatchEncoderSpec, TransformSpec
from trident.encoders.patch.transforms import Transform
from trident.encoders.shards import is_index, shard_paths
from trident.errors import NotAvailableError, SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image

_PREFIX = "model.vision_tower."
_PATCH_PX = 16
_POOLING = 3
_SOFT_TOKENS = 280
"""The tower's budget of soft tokens; a square image uses 256 of them, and the rest is padding."""
_SEQUENCE = _SOFT_TOKENS * _POOLING**2


class Gemma4Vision(nn.Module):
    """(B, 3, 768, 768) in [0, 1] -> (B, width): the mean over an image's soft tokens."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, batch: Tensor) -> Tensor:
        """Features of a batch of square images."""
        squares, positions = to_sequence(batch)
        tokens: Tensor = self.tower(squares, positions.expand(len(batch), -1, -1)).last_hidden_state
        return tokens.reshape(len(batch), -1, tokens.shape[-1]).mean(dim=1)


class EnlargeBytes:
    """PIL RGB image -> float32 tensor (3, side, side) in [0, 1], as the towers' own processor prepares a square image.

    The image is enlarged while it still has whole grey levels, and divided by 255 through a multiplication: the larger
    tower amplifies even the last bit.
    """

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px

    def __call__(self, image: Image) -> Tensor:
        """Enlarge one image.

        Raises:
            SettingsError: the image is not square.
        """
        from torchvision.transforms.v2 import functional as transforms

        if image.width != image.height:
            raise SettingsError(
                f"the Gemma 4 encoders take square patches, and this one has {image.width} x {image.height} px; "
                "use another encoder"
            )
        pixels: Tensor = transforms.pil_to_tensor(image)
        pixels = transforms.resize(
            pixels, [self.side_px, self.side_px], transforms.InterpolationMode.BICUBIC, antialias=True
        )
        return pixels * (1 / 255)

    def __repr__(self) -> str:
        return f"EnlargeBytes(side_px={self.side_px})"


def build_transform(transform: TransformSpec) -> Transform:
    """The transform of a declaration, whose only figure is `resize_px`."""
    if transform.resize_px is None:
        raise SettingsError("the transform of the Gemma 4 encoders needs the side to which a patch is enlarged")
    return EnlargeBytes(transform.resize_px)


def to_sequence(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) -> squares (B, 2520, 768), each flattened as (row, column, colour), and positions (2520, 2).

    A position is (column, row) of the square, -1 for the padding; the padding's pixels are zero.
    """
    squares = F.unfold(batch, kernel_size=_PATCH_PX, stride=_PATCH_PX)  # (B, colour * row * column, squares)
    squares = squares.reshape(len(batch), 3, _PATCH_PX**2, -1).permute(0, 3, 2, 1).flatten(2)
    rows, columns = batch.shape[2] // _PATCH_PX, batch.shape[3] // _PATCH_PX
    row, column = torch.meshgrid(
        torch.arange(rows, device=batch.device), torch.arange(columns, device=batch.device), indexing="ij"
    )
    positions = torch.stack([column, row], dim=-1).flatten(0, 1)
    padding = _SEQUENCE - rows * columns
    return F.pad(squares, (0, 0, 0, padding)), F.pad(positions, (0, 0, 0, padding), value=-1)


def build_network(arguments: Mapping[str, Any]) -> nn.Module:
    """The tower that these arguments of `Gemma4VisionConfig` describe, its parameters on the meta device.

    Raises:
        NotAvailableError: the installed transformers is too old to know the architecture.
    """
    try:
        from transformers import Gemma4VisionConfig, Gemma4VisionModel
    except ImportError as error:
        raise NotAvailableError(
            f"the Gemma 4 encoders need a newer transformers than the installed one ({error}); upgrade it to 5.23"
        ) from error

    config = Gemma4VisionConfig(
        **arguments,
        num_key_value_heads=arguments["num_attention_heads"],
        head_dim=arguments["hidden_size"] // arguments["num_attention_heads"],
        patch_size=_PATCH_PX,
        pooling_kernel_size=_POOLING,
        position_embedding_size=10_240,
        rms_norm_eps=1e-6,
        hidden_activation="gelu_pytorch_tanh",
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )
    with torch.device("meta"):
        tower: nn.Module = Gemma4VisionModel(config)
    # The only values that are computed and not loaded.
    rotary: Any = tower.get_submodule("encoder.rotary_emb")
    tower.set_submodule("encoder.rotary_emb", type(rotary)(config))
    return tower


def load_tower(path: Path) -> dict[str, Tensor]:
    """The vision tower's tensors, from the whole model's file, an index of several files, or a file of its own."""
    state: dict[str, Tensor] = {}
    for file in shard_paths(path, (_PREFIX,)) if is_index(path) else (path,):
        state.update(load_checkpoint(file))
    tower = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    return tower or state


def build(spec: PatchEncoderSpec, weights_path: Path) -> nn.Module:
    """A Gemma 4 vision tower with its weights, in float32.

    Raises:
        WeightsError: the file is damaged or does not fit.
    """
    tower = load_into(build_network(spec.arguments), load_tower(weights_path), weights_path)
    return Gemma4Vision(tower).eval()
