"""What is taken out of an environment for the CPU image, on a small one where torch is linked with nothing of CUDA."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

KEPT = (
    "cucim/__init__.py",
    "cucim/clara/_cucim.so",
    "nvidia/cu13/LICENSE.txt",
    "nvidia/cu13/lib/__init__.py",
    "nvidia_cublas-13.1.dist-info/METADATA",
    "nvidia_cublas-13.1.dist-info/licenses/License.txt",
    "pandas/core/frame.py",
    "pandas/tests.py",
    "pydicom/tests/test_tag.py",
    "sympy/testing/runtests.py",
    "torch/bin/torch_shm_manager",
    "torch/lib/libtorch_cpu.so",
    "torch/testing/__init__.py",
    "triton-3.5.dist-info/licenses/LICENSE",
)
GONE = (
    "cucim/skimage/color/colorconv.py",
    "cupy/_core/core.so",
    "nvidia/cu13/include/cublas.h",
    "nvidia/cu13/lib/libcublas.so.13",
    "nvidia/cudnn/lib/libcudnn_adv.so.9",
    "pandas/tests/frame/test_api.py",
    "scipy/stats/tests/data.npy",
    "torch/include/torch/torch.h",
    "torch/lib/libtorch_cuda_linalg.so",
    "triton/_C/libtriton.so",
)


@pytest.fixture
def strip_cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `containers/strip_cuda.py`, which finds its neighbour when it is run from its folder."""
    monkeypatch.syspath_prepend(ROOT / "containers")
    return importlib.import_module("strip_cuda")


def test_what_stays_and_what_goes(strip_cuda: ModuleType, tmp_path: Path) -> None:
    for name in (*KEPT, *GONE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "nvidia/cu13/lib/libcublas.so").symlink_to("libcublas.so.13")
    strip_cuda.strip(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == set(KEPT)
    assert strip_cuda.size_bytes(tmp_path) == sum(map(len, KEPT))


def test_a_large_library_that_is_needed_gets_a_stand_in(
    strip_cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = tmp_path / "nvidia/cu13/lib/libcublas.so.13", tmp_path / "nvidia/cu13/lib/libcudart.so.13"
    asked = tmp_path / "nvidia/cudnn/lib/libcudnn.so.9"
    own = tmp_path / "torch/lib/libtorch_cuda.so"
    for library in (large, small, asked, own):
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_bytes(b"a" * (10 if library in (small, asked) else strip_cuda.LARGE_BYTES + 1))
    other_name = tmp_path / "hard-link"
    other_name.hardlink_to(large)
    monkeypatch.setattr(strip_cuda, "linked", lambda site: {large, small, asked, own})
    monkeypatch.setattr(strip_cuda, "stub", lambda library, answers: b"%d %r" % (len(library), answers))
    strip_cuda.strip(tmp_path, 92400)
    assert large.read_bytes() == b"%d {}" % (strip_cuda.LARGE_BYTES + 1)
    assert asked.read_bytes() == b"10 {'cudnnGetVersion': 92400, 'cudnnGetProperty': (9, 24, 0)}"
    assert small.read_bytes() == b"a" * 10
    assert own.stat().st_size == other_name.stat().st_size == strip_cuda.LARGE_BYTES + 1
