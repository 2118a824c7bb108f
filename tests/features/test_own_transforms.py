"""Transforms of the user's own in several reading threads: what they keep, what they refuse."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from trident.errors import UnreadableSlideError
from trident.features.patch_batches import PatchBatches
from trident.features.prepare import _holds_network
from trident.slides.base import RGBImage

N = 60


def _values(transform: Callable[[Image.Image], torch.Tensor], bad: frozenset[int] = frozenset()) -> PatchBatches:
    """Batches of `N` patches of one colour, which is their number; the `bad` ones do not decode."""

    def read(x: int, y: int) -> RGBImage:
        if x in bad:
            raise UnreadableSlideError(Path("/slides/a.svs"), f"the region at ({x}, {y}) does not decode")
        return np.full((4, 4, 3), 100 + x, dtype=np.uint8)

    coords = np.stack([np.arange(N), np.zeros(N, dtype=np.int64)], axis=1)
    return PatchBatches(read, coords, [transform], batch_size=8, workers=4, pinned=False, max_unreadable_share=0.5)


def _first_pixels(batches: PatchBatches) -> list[float]:
    found: list[float] = []
    with batches:
        for batch in batches:
            found += batches.pixels(batch)[:, 0, 0, 0].tolist()
            batches.release(batch)
    return found


class _Keeps:
    """Keeps its image, and looks at it again when other threads have had a chance to bring theirs."""

    def __init__(self) -> None:
        self.image: Image.Image

    def __call__(self, image: Image.Image) -> Image.Image:
        self.image = image
        time.sleep(0.001)
        return self.image


class _KeepsWhole(_Keeps):
    def __call__(self, image: Image.Image) -> torch.Tensor:  # type: ignore[override]
        return torch.from_numpy(np.array(super().__call__(image))).permute(2, 0, 1).float()


class _CannotBeCopied(_KeepsWhole):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()  # deepcopy refuses


class _RefusesOneColour(_KeepsWhole):
    """As a stain normaliser, whose matrix is singular then."""

    def __call__(self, image: Image.Image) -> torch.Tensor:  # type: ignore[override]
        if not np.asarray(image).any():
            raise np.linalg.LinAlgError("Singular matrix")
        return super().__call__(image)


class _HoldsNetwork(_KeepsWhole):
    """Copied for each thread, its weights would fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(2, 2)

    def __deepcopy__(self, memo: object) -> _HoldsNetwork:
        os._exit(1)  # an exception would be taken for what cannot be copied


class _Normaliser:
    """Keeps what it was given, where it is looked for less easily."""

    def __init__(self, held: object) -> None:
        self.parts = {"first": [1, held]}

    def apply(self, image: Image.Image, *more: object, **named: object) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

    __call__ = apply


def _plain(image: Image.Image, *held: object, **named: object) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


@pytest.mark.parametrize(
    "hide",
    [
        _Normaliser,
        lambda network: _Normaliser(_Normaliser(network)),
        lambda network: _Normaliser({"net": (0, {network})}),
        lambda network: _Normaliser(network.forward),
        lambda network: partial(_plain, network=network),
        lambda network: partial(lambda held, image: _plain(image), network),
        lambda network: partial(_Normaliser(network).apply),
        lambda network: transforms.Compose([transforms.Compose([transforms.Lambda(partial(_plain, net=network))])]),
    ],
    ids=["dict", "nested", "set", "method", "keyword", "argument", "partial of a method", "Compose in a Compose"],
)
def test_a_network_is_found_wherever_it_is_held(hide: Callable[[object], object]) -> None:
    assert _holds_network(hide(torch.nn.Linear(2, 2)))
    assert not _holds_network(hide(torch.nn.ReLU()))  # no weights: copied like the rest


def test_a_search_for_a_network_ends() -> None:
    circle = _Normaliser(None)
    circle.parts["first"].append(circle)
    assert not _holds_network(circle)
    circle.parts["later"] = [torch.nn.Linear(2, 2)]
    assert _holds_network(circle)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert not _holds_network(_Normaliser(deep))
    while deep:  # or the interpreter frees them one within the other
        (deep,) = deep  # type: ignore[assignment]


def test_modules_and_classes_are_not_searched() -> None:
    class Holds:
        network = torch.nn.Linear(2, 2)  # of the class: a copy of an object has it too

    assert not _holds_network(_Normaliser(Holds()))
    assert not _holds_network(_Normaliser(torch))


@pytest.mark.parametrize(
    "transform",
    [
        _KeepsWhole(),
        _KeepsWhole().__call__,
        transforms.Compose([_KeepsWhole(), transforms.Lambda(lambda tensor: tensor)]),
        transforms.Compose([_Keeps(), transforms.PILToTensor()]),
        _CannotBeCopied(),
        _HoldsNetwork(),
        _HoldsNetwork().__call__,
        transforms.Compose([_HoldsNetwork()]),
        partial(_HoldsNetwork().__call__),
        _RefusesOneColour(),
    ],
    ids=[
        "object",
        "bound method",
        "in a Compose",
        "on PIL images",
        "cannot be copied",
        "network",
        "its method",
        "its step",
        "partial of its method",
        "refuses black",
    ],
)
def test_a_transform_may_keep_what_it_likes(transform: Callable[[Image.Image], torch.Tensor]) -> None:
    batches = _values(transform)
    assert _first_pixels(batches) == [100.0 + number for number in range(N)]
    assert batches.failure() is None


def test_a_step_before_to_tensor_may_too() -> None:
    found = _first_pixels(_values(transforms.Compose([_Keeps(), transforms.ToTensor()])))
    assert found == [100 + number for number in range(N)]  # bytes: ToTensor comes later


def test_a_transform_that_refuses_black_is_told_as_such_where_a_patch_does_not_decode() -> None:
    batches = _values(_RefusesOneColour(), frozenset({30}))
    _first_pixels(batches)
    assert isinstance(batches.failure(), np.linalg.LinAlgError)


def test_patches_that_do_not_decode_are_black_to_a_transform_of_the_user_s_own() -> None:
    batches = _values(_KeepsWhole(), frozenset({0, 7, 30}))
    expected = [0.0 if number in (0, 7, 30) else 100.0 + number for number in range(N)]
    assert _first_pixels(batches) == expected
    assert batches.unreadable == [0, 7, 30]
