"""Takes out of an environment what torch's CUDA wheel brings and no computation of ours on the CPU needs.

torch of the CUDA kind cannot be imported without the CUDA libraries that its own libraries are linked with; the large
ones of these get a stand-in (cuda_stubs.py). What goes are libraries that are only opened on a GPU, compilers for GPU
code, headers (which `torch.compile` would need, and a compiler besides) and static archives, CuPy with the half of
cuCIM that computes on a GPU, and the tests of large packages. Licences and metadata stay. With a CPU wheel of torch
nothing is linked with CUDA, and all of it goes. Run it with the environment's own python while the image is built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cuda_stubs import stub

# Some 10 MB more are not worth a stand-in; libcudart, which is asked for GPUs, is small and stays as it is.
LARGE_BYTES = 10 * 2**20
FOLDERS = ("triton", "cuda", "cupy", "cupyx", "cupy_backends", "cucim/core", "cucim/skimage", "torch/include")
OPENED_ON_A_GPU = ("torch/lib/libtorch_cuda_linalg.so",)
ASKED_FOR_ITS_VERSION = "libcudnn.so"
"""Small, but it ends the process with SIGABRT where it does not find those of its parts that go."""
TESTED = ("networkx", "numpy", "pandas", "scipy", "skimage", "sympy")

CHECK = """
import numpy, pandas, scipy, skimage, sympy, timm, torch, torchvision, transformers
import segmentation_models_pytorch
from cucim import CuImage
image = torch.rand(1, 3, 64, 64)
assert torch.nn.Conv2d(3, 8, 3)(image).shape == (1, 8, 62, 62)
assert torch.linalg.svdvals(image).shape == (1, 3, 64)
assert torch.fft.rfft2(image).shape == (1, 3, 64, 33)
assert len(torchvision.ops.nms(torch.rand(4, 4), torch.rand(4), 0.5))
assert not torch.cuda.is_available()
assert torch.backends.cudnn.version() == {cudnn_version}
"""


def linked(site: Path) -> set[Path]:
    """The files below `site` that torch's and torchvision's libraries need to be loaded, as the dynamic linker says."""
    found: set[Path] = set()
    for library in [*site.glob("torch/lib/*.so*"), *site.glob("torch/*.so"), *site.glob("torchvision/*.so")]:
        listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False).stdout
        found.update(Path(path).resolve() for path in re.findall(rf"=> ({re.escape(str(site))}/\S+)", listed))
    return found


def unneeded(site: Path, needed: set[Path]) -> Iterator[Path]:
    """Files of NVIDIA's packages that no process on the CPU loads; licences are none of them."""
    for path in sorted(site.glob("nvidia/**/*")):
        is_text = path.suffix in {".py", ".pyc"} or "licen" in path.name.lower()
        if (path.is_file() or path.is_symlink()) and not is_text and path.resolve() not in needed:
            yield path


def folders(site: Path) -> Iterator[Path]:
    """Folders that go as a whole."""
    for name in FOLDERS:
        yield site / name
    for name in TESTED:
        yield from (folder for folder in sorted(site.glob(f"{name}/**/tests")) if folder.is_dir())


def size_bytes(site: Path) -> int:
    """Sum over all files."""
    return sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and not path.is_symlink())


def cudnn_version() -> int | None:
    """What torch says while cuDNN is whole; None without CUDA."""
    code = "import torch; print(torch.backends.cudnn.version() or '')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return int(said) if said else None


def version_answers(version: int | None) -> dict[str, int | tuple[int, ...]]:
    """What the functions of cuDNN that tell its version (92400 for 9.24.0) are to answer."""
    number = version or 0
    return {"cudnnGetVersion": number, "cudnnGetProperty": (number // 10000, number // 100 % 100, number % 100)}


def strip(site: Path, version: int | None = None) -> None:
    """Remove what is not needed, and put stand-ins in the place of large libraries.

    Args:
        site: the folder of packages.
        version: of cuDNN, which its stand-in answers.
    """
    for name in OPENED_ON_A_GPU:
        (site / name).unlink(missing_ok=True)
    needed = linked(site)
    for path in unneeded(site, needed):
        path.unlink()
    for folder in folders(site):
        shutil.rmtree(folder, ignore_errors=True)
    for library in needed:
        answers = version_answers(version) if library.name.startswith(ASKED_FOR_ITS_VERSION) else {}
        if library.is_relative_to(site / "nvidia") and (answers or library.stat().st_size > LARGE_BYTES):
            stand_in = stub(library.read_bytes(), answers)
            if stand_in is not None:
                library.unlink()
                library.write_bytes(stand_in)


def main() -> None:
    """Strip the environment, then see whether torch still computes."""
    site = Path(sysconfig.get_paths()["purelib"]).resolve()
    before_bytes = size_bytes(site)
    version = cudnn_version()
    strip(site, version)
    subprocess.run([sys.executable, "-c", CHECK.format(cudnn_version=version)], check=True)
    sys.stderr.write(f"{before_bytes / 1e9:.1f} GB of packages became {size_bytes(site) / 1e9:.1f} GB\n")


if __name__ == "__main__":
    main()
