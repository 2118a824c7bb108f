"""The segmenters' networks under their published tensor names. Imports torch and torchvision: import it lazily."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.segmentation.spec import SegmentationModelSpec

_UNET_ENCODER = "timm-efficientnet-b0"
_DEEPLAB_WIDTH = 256
"""Channels that the last layer of DeepLabV3's head takes."""
_LIGHTNING_PREFIX = "model."
_TRAINING_ONLY = "aux_classifier."
"""A second head of DeepLabV3 that only its training uses."""


def build_network(spec: SegmentationModelSpec) -> nn.Module:
    """The bare network on the meta device: names and shapes, no memory, no network access."""
    with torch.device("meta"), warnings.catch_warnings():
        # The old names of its encoders are those of the published tensors.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _deeplab(spec.n_classes) if spec.architecture == "deeplabv3_resnet50" else _unet(spec)


def load_network(spec: SegmentationModelSpec, weights: Path) -> nn.Module:
    """The network with its weights, float32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file is damaged, or its tensors are not exactly those of the network.
    """
    state = load_checkpoint(weights)
    if spec.architecture == "deeplabv3_resnet50":
        state = _without_lightning_prefix(state)
    network = load_into(build_network(spec), state, weights, unused=(_TRAINING_ONLY,))
    return network.eval().requires_grad_(False)


class LogitsOnly(nn.Module):
    """A torchvision segmentation model whose output is the logits alone, under the model's own tensor names."""

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, batch: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes, H, W), upsampled from the network's coarse grid."""
        coarse = self.classifier(self.backbone(batch)["out"])
        return nn.functional.interpolate(coarse, size=batch.shape[-2:], mode="bilinear", align_corners=False)


def _deeplab(n_classes: int) -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet50

    # Without `weights_backbone=None`, torchvision downloads a backbone that is overwritten at once.
    whole = deeplabv3_resnet50(weights=None, weights_backbone=None)
    whole.classifier[4] = nn.Conv2d(_DEEPLAB_WIDTH, n_classes, kernel_size=1)
    return LogitsOnly(whole.backbone, whole.classifier)


def _unet(spec: SegmentationModelSpec) -> nn.Module:
    import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

    made: nn.Module = getattr(smp, spec.architecture)(
        encoder_name=_UNET_ENCODER, encoder_weights=None, classes=spec.n_classes
    )
    return made


def _without_lightning_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_LIGHTNING_PREFIX): tensor for name, tensor in state.items()}
