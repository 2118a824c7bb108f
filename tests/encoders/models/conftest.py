"""Made-up weights: seeded ones under published names, and drawn ones for a network of any depth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

State = dict[str, Tensor]


@pytest.fixture(scope="session")
def manifest(shared_reference: Path) -> Callable[[str], State]:
    """Name of an encoder -> its published tensors on the meta device: names, types and shapes."""

    def read(name: str) -> State:
        content = json.loads((shared_reference / "manifests" / "patch" / f"{name}.json").read_text())
        return {
            tensor: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
            for tensor, (dtype, shape) in content["tensors"].items()
        }

    return read


@pytest.fixture(scope="session")
def seeded_state(shared_reference: Path, shared_tools: Path) -> Callable[..., State]:
    """(name, without=prefixes) -> the seeded weights of an encoder, as its file would hold them."""
    found = spec_from_file_location("seeded_weights", shared_tools / "seeded_weights.py")
    assert found is not None and found.loader is not None
    seeded: Any = module_from_spec(found)
    found.loader.exec_module(seeded)

    def make(name: str, without: Iterable[str] = ()) -> State:
        content = json.loads((shared_reference / "manifests" / "patch" / f"{name}.json").read_text())
        kept = {key: facts for key, facts in content["tensors"].items() if not key.startswith(tuple(without))}
        state: State = seeded.state_dict({"tensors": kept})
        return state

    return make


@pytest.fixture(scope="session")
def draw() -> Callable[[nn.Module], State]:
    """A network, which may be on the meta device -> random weights of about the size that trained ones have."""

    def make(network: nn.Module) -> State:
        generator = torch.Generator().manual_seed(7)
        state = {}
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                noise /= math.sqrt(math.prod(tensor.shape[1:]) if name.endswith("weight") else 4)
            elif name.endswith(("weight", "gamma")):
                noise = 1 + 0.1 * noise
            else:
                noise *= 0.1
            state[name] = noise.to(tensor.dtype)
        return state

    return make


@pytest.fixture(scope="session")
def patch512(shared_reference: Path) -> Image.Image:
    """A real patch of 512 x 512 px."""
    return Image.open(shared_reference / "patch512.png").convert("RGB")


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Two normalised images of 448 x 448 px that have structure at every scale."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(2, 3, 7, 7, generator=generator)
    return nn.functional.interpolate(coarse, size=448, mode="bilinear") + 0.2 * torch.randn(
        2, 3, 448, 448, generator=generator
    )
