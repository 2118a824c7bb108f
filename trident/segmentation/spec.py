"""The neural segmenters' declarations: what a user must know about each. Plain data: nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["deeplabv3_resnet50", "UnetPlusPlus", "Unet"]
Precision = Literal["float32", "float16"]
Removal = Literal["none", "all artifacts", "pen marks"]
"""What `--remove_artifacts` and `--remove_penmarks` ask for; the first includes the second."""

ARTIFACT_REMOVER = "grandqc_artifact"
"""Name of the model behind `--remove_artifacts` and `--remove_penmarks`."""
TILE_PX = 512
"""Side of the tiles that the networks look at, pixels at their magnification."""
TILE_MEAN = (0.485, 0.456, 0.406)
TILE_STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and deviation in red, green and blue, by which every tile is normalised once it is in [0, 1]."""


@dataclass(frozen=True)
class SegmentationModelSpec:
    """One published network, whose parameters are float32."""

    name: str
    architecture: Architecture
    n_classes: int
    magnification: float
    """Magnification that the network was trained at."""
    precision: Precision
    """Autocast type on a GPU; a CPU always computes in float32."""
    repo_id: str
    """Hub repository of the weights."""
    filenames: tuple[str, ...]
    """Names under which the weights are published there."""
    licence: str
    """Licence of the weights."""
    jpeg_quality: int | None = None
    """A tile first goes through JPEG of this quality, red and blue swapped, as in training; None: it does not."""
    weights_kind: Literal["segmentation"] = "segmentation"
    """Section of the registry of local weights."""


_REPOSITORY = "MahmoodLab/hest-tissue-seg"

HEST = SegmentationModelSpec(
    name="hest",
    architecture="deeplabv3_resnet50",
    n_classes=2,
    magnification=10,
    precision="float16",
    repo_id=_REPOSITORY,
    filenames=("deeplabv3_seg_v4.ckpt",),
    licence="CC-BY-NC-SA-4.0",
)

GRANDQC = SegmentationModelSpec(
    name="grandqc",
    architecture="UnetPlusPlus",
    n_classes=2,
    magnification=1,
    precision="float16",
    repo_id=_REPOSITORY,
    filenames=("Tissue_Detection_MPP10.pth",),
    licence="CC-BY-NC-SA-4.0",
    jpeg_quality=80,
)

GRANDQC_ARTIFACT = SegmentationModelSpec(
    name=ARTIFACT_REMOVER,
    architecture="Unet",
    n_classes=8,
    magnification=10,
    precision="float32",
    repo_id=_REPOSITORY,
    filenames=("GrandQC_MPP1_state_dict.pth",),
    licence="CC-BY-NC-SA-4.0",
)

SPECS = {declared.name: declared for declared in (HEST, GRANDQC, GRANDQC_ARTIFACT)}
"""Every neural segmenter, by name."""
