"""The machine: GPUs, memory, disks, folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from trident.doctor.check import ChildError, Finding, ask_child, failed, passed, warned
from trident.errors import ExecutorError
from trident.executors.runtime_dir import runtime_dir

MEMORY_GB = 8
"""Least main memory: a run takes 1 to 2 GB without its models."""
DISK_GB = 10
"""Least free space where outputs, copies or weights go."""
_GB = 1e9

_TORCH = """
import json
import torch
usable = torch.cuda.is_available()
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if usable else []
if usable:
    assert float((torch.ones(8, device="cuda") * 2).sum()) == 16
print(json.dumps([torch.__version__, torch.version.cuda, names]))
"""


def gpus(proc: Path = Path("/proc/driver/nvidia")) -> list[Finding]:
    """The NVIDIA driver, and torch computing on its GPUs."""
    try:
        version, cuda, names = ask_child(_TORCH)
    except ChildError as error:
        return [failed("torch", f"not usable: {error}", "make setup")]
    driver = _driver_version(proc)
    if names:
        return [passed("GPU", f"{', '.join(names)}; torch {version}, CUDA {cuda}, driver {driver or 'unknown'}")]
    if driver is None:
        detail = f"no NVIDIA driver: networks compute on the CPU (torch {version})"
        return [warned("GPU", detail, "say --gpus -1, or install the NVIDIA driver")]
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return [warned("GPU", "CUDA_VISIBLE_DEVICES is empty: every GPU is hidden", "unset CUDA_VISIBLE_DEVICES")]
    remedy = f"update the driver to one for CUDA {cuda}" if cuda else "install a torch with CUDA: make setup"
    return [failed("GPU", f"driver {driver} is there, but torch {version} (CUDA {cuda}) cannot use it", remedy)]


def _driver_version(proc: Path) -> str | None:
    try:
        words = (proc / "version").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def memory() -> list[Finding]:
    """Main memory."""
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    if total_gb < MEMORY_GB:
        return [
            warned("memory", f"{total_gb:.0f} GB; {MEMORY_GB} GB and more are advised", "use fewer devices at once")
        ]
    return [passed("memory", f"{total_gb:.0f} GB")]


def folders(job_dir: Path | None, cache: Path | None) -> list[Finding]:
    """Where files go: can they be written there, and is there space?

    Args:
        job_dir: job directory, if one is given; it need not exist.
        cache: folder for copies of slides, if one is given.
    """
    named = {"temporary folder": Path(tempfile.gettempdir()), "job directory": job_dir, "slide cache": cache}
    findings = [_folder(name, path) for name, path in named.items() if path is not None]
    try:
        findings.append(passed("runtime folder", str(runtime_dir())))
    except ExecutorError as error:
        findings.append(failed("runtime folder", str(error), "set XDG_RUNTIME_DIR or TMPDIR to a folder of your own"))
    return findings


def _folder(name: str, path: Path) -> Finding:
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".trident-doctor-"):
            free_gb = shutil.disk_usage(there).free / _GB
    except OSError as error:
        return failed(name, f"{there}: cannot be written ({error.strerror})", f"make {there} writable, or name another")
    if free_gb < DISK_GB:
        return warned(name, f"{path}: {free_gb:.1f} GB free", f"free some space on the disk of {there}")
    return passed(name, f"{path}: writable, {free_gb:.0f} GB free")
