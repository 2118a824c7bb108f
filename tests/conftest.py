"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _shared() -> Path:
    """The folder of real slides and reference outputs that some tests need; it is not part of the repository."""
    root = Path(os.environ.get("TRIDENT_TEST_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "slides").is_dir():
        pytest.skip(f"the folder of real test slides is absent ({root}); set TRIDENT_TEST_SHARED to have this test run")
    return root


@pytest.fixture(scope="session")
def shared_slides() -> Path:
    """Folder of small real slides."""
    return _shared() / "slides"


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder of reference facts, manifests and expected outputs."""
    return _shared() / "reference"


@pytest.fixture(scope="session")
def shared_tools() -> Path:
    """Folder with the slide maker and the seeded weights."""
    return _shared() / "tools"
