"""What the tests with hostile input share: slides to damage, and a process that may not take much."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from trident.errors import TridentError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def script(request: pytest.FixtureRequest) -> ModuleType:
    """The module of `scripts/fuzz_slides.py`."""
    folder = ROOT / "scripts"
    sys.path.insert(0, str(folder))
    request.addfinalizer(lambda: sys.path.remove(str(folder)))
    spec = importlib.util.spec_from_file_location("fuzz_slides", folder / "fuzz_slides.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_slides"] = module
    request.addfinalizer(lambda: sys.modules.pop("fuzz_slides", None))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def drawn(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small drawn slides that are damaged."""
    folder = tmp_path_factory.mktemp("sound")
    script.sound_slides(None, folder)
    return Path(folder)


@pytest.fixture(scope="session")
def one_line() -> Callable[[pytest.ExceptionInfo[TridentError], Path], str]:
    """Function (what was raised, path): its message, which is one line and names the path."""

    def check(error: pytest.ExceptionInfo[TridentError], path: Path) -> str:
        message = str(error.value)
        assert "\n" not in message
        assert str(path) in message
        return message

    return check
