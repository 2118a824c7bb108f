"""trident/encoders/slide/base.py: what every attention encoder does with a batch, by their real networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trident.encoders.slide.abmil import ABMILSlideEncoder
from trident.encoders.slide.base import PoolingEncoder, SlideEncoder
from trident.encoders.slide.chief import ChiefNetwork
from trident.encoders.slide.feather import FeatherNetwork
from trident.encoders.slide.madeleine import MadeleineNetwork
from trident.encoders.slide.mean import MeanSlideEncoder
from trident.encoders.slide.registry import SPECS
from trident.errors import SettingsError


def _pooling(name: str, network: Callable[[], nn.Module]) -> SlideEncoder:
    return PoolingEncoder(SPECS[name], network())


BUILDERS: dict[str, Callable[[], SlideEncoder]] = {
    "chief": lambda: _pooling("chief", ChiefNetwork),
    "feather": lambda: _pooling("feather", lambda: FeatherNetwork(768)),
    "feather_uni_v2": lambda: _pooling("feather_uni_v2", lambda: FeatherNetwork(1536)),
    "madeleine": lambda: _pooling("madeleine", MadeleineNetwork),
    "abmil": lambda: ABMILSlideEncoder(768, n_heads=2, head_dim=64, dropout=0.25),
    "mean-conch_v15": lambda: MeanSlideEncoder("mean-conch_v15", 768),
}


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers how many values the largest tensor has that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.fixture(params=BUILDERS)
def encoder(request: pytest.FixtureRequest) -> SlideEncoder:
    torch.manual_seed(0)
    return BUILDERS[request.param]().eval().requires_grad_(False)


def _dim(encoder: SlideEncoder) -> int:
    return encoder.input_dim or 768


def test_no_patches_give_zeros(encoder: SlideEncoder) -> None:
    none = torch.empty(1, 0, _dim(encoder))
    assert torch.equal(encoder({"features": none}, "cpu"), torch.zeros(1, encoder.embedding_dim or 0))
    assert torch.equal(encoder({"features": none[0]}, "cpu"), torch.zeros(encoder.embedding_dim or 0))


def test_one_patch_and_its_copies(encoder: SlideEncoder) -> None:
    patch = torch.randn(1, 1, _dim(encoder))
    once = encoder({"features": patch}, torch.device("cpu"))
    assert once.shape == (1, encoder.embedding_dim)
    assert torch.isfinite(once).all()
    torch.testing.assert_close(encoder({"features": patch.expand(1, 9, -1)}), once, rtol=1e-4, atol=1e-5)


def test_order_of_patches_plays_no_role(encoder: SlideEncoder) -> None:
    features = torch.randn(1, 200, _dim(encoder))
    shuffled = features[:, torch.randperm(200)]
    torch.testing.assert_close(encoder({"features": shuffled}), encoder({"features": features}), rtol=1e-4, atol=1e-5)


def test_stacked_bags_are_independent(encoder: SlideEncoder) -> None:
    features = torch.randn(3, 20, _dim(encoder))
    one_by_one = torch.stack([encoder({"features": bag}) for bag in features])
    torch.testing.assert_close(encoder({"features": features}), one_by_one, rtol=1e-4, atol=1e-5)


def test_half_features_are_computed_in_float32(encoder: SlideEncoder) -> None:
    features = torch.randn(1, 20, _dim(encoder)).half()
    got = encoder({"features": features})
    assert got.dtype is torch.float32
    assert torch.equal(got, encoder({"features": features.float()}))


def test_memory_grows_with_the_patches_not_their_square(encoder: SlideEncoder) -> None:
    n_patches = 10_000
    with _LargestTensor() as watched:  # type: ignore[no-untyped-call]
        got = encoder({"features": torch.randn(1, n_patches, _dim(encoder))})
    assert torch.isfinite(got).all()
    assert 0 < watched.largest <= n_patches * 2048  # the widest layer of any of them
    assert watched.largest < n_patches**2


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({}, "was given NoneType as batch"),
        ({"features": [1.0]}, "was given list as batch"),
        ({"features": torch.zeros(768)}, r"was given \(768,\) as batch"),
        ({"features": torch.zeros(4, 512)}, "chief takes 768 features a patch and was given 512"),
    ],
)
def test_wrong_features(batch: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        BUILDERS["chief"]()(batch)
