"""CARE: its architecture is code in its hub repository, which runs only when the user allows it.

Imports torch, and transformers when it builds: import this module lazily.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from trident.encoders.slide.network_encoder import NetworkSlideEncoder, SlidePatches
from trident.encoders.slide.registry import check_trusted
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError, WeightsError

_COMMIT = re.compile(r"[0-9a-f]{40}")


class _Published(nn.Module):
    """The published model, fed with what it takes: features, their count, and cells counted from the slide's corner."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, patches: SlidePatches) -> Tensor:
        """One slide (N > 0) -> (D,)."""
        cells = (patches.coords.double() / patches.patch_size_level0).floor().long()
        count = torch.tensor([len(cells)], device=cells.device)
        embedding: Tensor = self.model(patches.features.unsqueeze(0), count, cells.unsqueeze(0)).wsi_embedding
        return embedding[0]


def build(
    spec: SlideEncoderSpec, weights_path: Path | None, *, trust_remote_code: bool = False, revision: str | None = None
) -> NetworkSlideEncoder:
    """CARE from a snapshot of its repository: the folder of `weights_path`, else `revision` of the hub's.

    Args:
        spec: its declaration.
        weights_path: a file of weights in a local snapshot, beside the code.
        trust_remote_code: True allows the snapshot's code to run.
        revision: commit of the hub repository, 40 hexadecimal digits; not used with a local snapshot.

    Raises:
        SettingsError: the code is not allowed, or no commit is given.
        WeightsError: the snapshot cannot be had, or its code does not load.
    """
    local = None if weights_path is None else weights_path.parent
    check_trusted(spec, trust_remote_code, local)
    folder = _download(spec, revision) if local is None else local

    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, trust_remote_code=True, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # whatever code that is not ours may raise
        raise WeightsError(
            f"{folder}: the code of {spec.name} does not load ({type(error).__name__}: {_first_line(error)}); it may "
            "need other versions or packages than are installed: see its page"
        ) from error
    return NetworkSlideEncoder(spec, _Published(model), takes_coords=True)


def _download(spec: SlideEncoderSpec, revision: str | None) -> Path:
    """A snapshot of exactly that commit."""
    assert spec.repo_id is not None
    if revision is None or not _COMMIT.fullmatch(revision):
        raise SettingsError(
            f"slide encoder {spec.name}: revision {revision!r} is not a commit (40 hexadecimal digits) of "
            f"https://huggingface.co/{spec.repo_id}; give the one whose code you read, or a local snapshot as "
            "weights_path"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.repo_id, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"slide encoder {spec.name}: https://huggingface.co/{spec.repo_id} cannot be had at {revision} "
            f"({_first_line(error)}); ask for access there and set HF_TOKEN, or give a local snapshot as weights_path"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
