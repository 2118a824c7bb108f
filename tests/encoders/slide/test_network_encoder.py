"""trident/encoders/slide/network_encoder.py: what a network of one slide's patches is given, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trident.encoders.slide.network_encoder import NetworkSlideEncoder, SlidePatches
from trident.encoders.slide.spec import SlideEncoderSpec
from trident.errors import SettingsError, StoreError, TridentError

SPEC = SlideEncoderSpec("probe", "", "uni_v1", embedding_dim=5, input_dim=3, precision="float16")


class Probe(nn.Module):
    """Keeps what it is given, and answers with five numbers of it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: SlidePatches | None = None

    def forward(self, patches: SlidePatches) -> Tensor:
        self.given = patches
        return patches.features.sum() + torch.arange(5.0)


@pytest.fixture
def encoder() -> NetworkSlideEncoder:
    return NetworkSlideEncoder(SPEC, Probe(), takes_coords=True)


def good(n: int = 4) -> dict[str, Any]:
    return {
        "features": torch.ones(n, 3, dtype=torch.float16),
        "coords": np.arange(2 * n, dtype=np.int32).reshape(n, 2),
        "attributes": {"patch_size_level0": np.float64(1024.0)},
    }


def test_what_the_network_is_given(encoder: NetworkSlideEncoder) -> None:
    assert encoder(good()).tolist() == [12, 13, 14, 15, 16]
    given = encoder.model.given
    assert given.features.dtype is torch.float32
    assert given.coords.dtype is torch.int64
    assert given.coords.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert given.patch_size_level0 == 1024.0
    assert (encoder.precision, encoder.embedding_dim, encoder.enc_name) == (torch.float16, 5, "probe")


def test_an_axis_of_slides_is_kept(encoder: NetworkSlideEncoder) -> None:
    batch = good()
    batch["features"], batch["coords"] = batch["features"][None], batch["coords"][None]
    assert encoder(batch).shape == (1, 5)


@pytest.mark.parametrize("shape", [(0, 3), (1, 0, 3)])
def test_no_patches_give_zeros_and_need_no_places(encoder: NetworkSlideEncoder, shape: tuple[int, ...]) -> None:
    got = encoder({"features": torch.empty(shape)})
    assert torch.equal(got, torch.zeros(*shape[:-2], 5))
    assert encoder.model.given is None


def test_a_network_without_coordinates_is_given_none() -> None:
    encoder = NetworkSlideEncoder(SPEC, Probe(), takes_coords=False)
    encoder({"features": torch.ones(2, 3)})
    assert encoder.model.given.coords.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"features": torch.ones(2, 4, 3)}, SettingsError, "one slide at a time"),
        ({"features": torch.ones(4, 7)}, SettingsError, "takes 3 features a patch and was given 7"),
        ({"features": None}, SettingsError, "give a tensor"),
        ({"coords": None}, SettingsError, "needs the patches' places"),
        ({"coords": torch.ones(3, 2)}, StoreError, "features of 4 patches and coordinates of shape \\(3, 2\\)"),
        ({"coords": torch.ones(2, 4, 2)}, StoreError, "do not belong together"),
        ({"attributes": None}, SettingsError, "side of a patch in level-0 pixels and was given None"),
        ({"attributes": {}}, SettingsError, "patch_size_level0"),
        ({"attributes": {"patch_size_level0": 0}}, SettingsError, "was given 0"),
        ({"attributes": {"patch_size_level0": float("inf")}}, SettingsError, "was given inf"),
    ],
)
def test_refused(
    encoder: NetworkSlideEncoder, change: dict[str, Any], error: type[TridentError], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        encoder({**good(), **change})
