"""All patch features of a slide through a slide encoder. Imports torch: import this module lazily."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trident.encoders.slide.base import SlideEncoder
from trident.errors import StoreError, WeightsError
from trident.features.precision import AUTO, autocast, used_precision

_ROWS = 8192


def embed_slide(
    features: NDArray[np.float32],
    coords: NDArray[np.int64],
    patch_size_level0: int,
    encoder: SlideEncoder,
    device: torch.device | str,
    *,
    precision: str = AUTO,
) -> NDArray[np.float32]:
    """The embedding (D,), float32, of one slide.

    Args:
        features: (N, F); N may be 0.
        coords: (N, 2), level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        encoder: moved to `device`, and left there.
        device: "cpu", "cuda", "cuda:1".
        precision: see `used_precision`.

    Raises:
        StoreError: features and coordinates do not belong together, or the features hold NaN or infinity.
        WeightsError: the encoder gave NaN or infinity.
    """
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise StoreError(
            f"features of shape {features.shape} and coordinates of shape {coords.shape} do not belong together; "
            "expected (N, D) and (N, 2): make the patch features again"
        )
    _check_finite(features)
    torch_device = torch.device(device)
    encoder = encoder.eval().to(torch_device)
    batch = {
        "features": torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).unsqueeze(0).to(torch_device),
        "coords": torch.from_numpy(np.ascontiguousarray(coords, dtype=np.int64)).unsqueeze(0).to(torch_device),
        "attributes": {"patch_size_level0": int(patch_size_level0)},
    }
    used = used_precision(encoder.precision, torch_device.type, precision)
    with torch.inference_mode(), autocast(torch_device.type, used):
        embedding = encoder(batch, torch_device)
    result: NDArray[np.float32] = embedding.to(torch.float32).reshape(-1).cpu().numpy()
    if not np.isfinite(result).all():
        raise WeightsError(
            f"slide encoder {encoder.enc_name} gave NaN or infinity for a slide of {len(features)} patches; "
            "check its weights, and the patch features"
        )
    return result


def _check_finite(features: NDArray[np.float32]) -> None:
    """A single NaN would spoil the embedding or, worse, vanish in it."""
    # By blocks of rows: the mask of a hundred thousand patches would take as much as they do.
    wrong = [
        start + row
        for start in range(0, len(features), _ROWS)
        for row in np.flatnonzero(~np.isfinite(features[start : start + _ROWS]).all(axis=1)).tolist()
    ]
    if wrong:
        raise StoreError(
            f"{len(wrong)} of {len(features)} patches have NaN or infinity among their features, the first in row "
            f"{wrong[0]}; make the patch features again"
        )
