"""Made-up weights for published architectures, and the features that the stored outputs were made from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

SeededState = Callable[[str], dict[str, Tensor]]


@pytest.fixture(scope="session")
def manifests(shared_reference: Path) -> Callable[[str], dict[str, Any]]:
    """Name of a manifest -> names, types and shapes of the published tensors."""

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((shared_reference / "manifests" / "slide" / f"{name}.json").read_text())
        return content

    return read


@pytest.fixture(scope="session")
def seeded_state(manifests: Callable[[str], dict[str, Any]], shared_tools: Path) -> SeededState:
    """Name of a manifest -> its state dict, of weights that are a function of their names."""
    found = importlib.util.spec_from_file_location("seeded_weights", shared_tools / "seeded_weights.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return lambda name: module.state_dict(manifests(name))


@pytest.fixture
def seeded_file(seeded_state: SeededState, tmp_path: Path) -> Callable[[str], Path]:
    """Name of a manifest -> a safetensors file of its seeded weights."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(seeded_state(name), path)
        return path

    return write


@pytest.fixture(scope="session")
def bag() -> Callable[..., Tensor]:
    """(N, F, scale) -> the features (1, N, F) of the stored outputs; they use scale 0.5."""

    def make(n_patches: int, dim: int, scale: float = 0.5) -> Tensor:
        drawn = np.random.Generator(np.random.PCG64(0)).standard_normal((1, n_patches, dim))
        return torch.from_numpy(drawn.astype(np.float32) * np.float32(scale))

    return make


@pytest.fixture(scope="session")
def stored(shared_reference: Path) -> Callable[[str], np.ndarray]:
    """Name of a case -> the reference's output (1, D)."""
    return lambda case: np.load(shared_reference / "expected" / "slide" / f"{case}.npy")


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Any, Any], float]:
    """(got, wanted) -> L2 norm of the difference over that of `wanted`; of equal shapes only."""

    def measure(got: Any, wanted: Any) -> float:
        got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
        assert got.shape == wanted.shape
        return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))

    return measure
