"""Takes out of an environment what torch's CUDA wheel brings and a process on the CPU never loads.

torch of the CUDA kind cannot be imported without the CUDA libraries that its own libraries are linked with, so these
stay. What goes are libraries that are only opened on a GPU (most of cuDNN), headers and static archives, the compiler
for GPU code, and CuPy, which only the half of cuCIM needs that computes on a GPU. With a CPU wheel of torch nothing is
linked with CUDA, and all of it goes. Run it with the environment's own python while the image is built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("triton", "cupy", "cupyx", "cupy_backends")


def linked(site: Path) -> set[Path]:
    """The files below `site` that torch's and torchvision's libraries need to be loaded, as the dynamic linker says."""
    found: set[Path] = set()
    for library in [*site.glob("torch/lib/*.so*"), *site.glob("torch/*.so"), *site.glob("torchvision/*.so")]:
        listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False).stdout
        found.update(Path(path).resolve() for path in re.findall(rf"=> ({re.escape(str(site))}/\S+)", listed))
    return found


def unneeded(site: Path) -> Iterator[Path]:
    """Files of NVIDIA's packages that no process on the CPU loads."""
    keep = linked(site)
    for path in sorted(site.glob("nvidia/**/*")):
        is_code = path.suffix in {".py", ".pyc"}
        if (path.is_file() or path.is_symlink()) and not is_code and path.resolve() not in keep:
            yield path


def main() -> None:
    """Remove them, then see whether torch still computes."""
    site = Path(sysconfig.get_paths()["purelib"])
    removed_bytes = 0
    for path in unneeded(site):
        removed_bytes += 0 if path.is_symlink() else path.stat().st_size
        path.unlink()
    for folder in (site / name for name in PACKAGES):
        removed_bytes += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    check = (
        "import torch, torchvision, timm, transformers\n"
        "from cucim import CuImage\n"
        "image = torch.rand(1, 3, 64, 64)\n"
        "assert torch.nn.Conv2d(3, 8, 3)(image).shape == (1, 8, 62, 62)\n"
        "assert len(torchvision.ops.nms(torch.rand(4, 4), torch.rand(4), 0.5))\n"
        "assert not torch.cuda.is_available()\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
    sys.stderr.write(f"{removed_bytes / 2**30:.1f} GiB removed\n")


if __name__ == "__main__":
    main()
