"""Which device a process computes on."""

from __future__ import annotations

import logging
import os
import sys
from functools import lru_cache
from pathlib import Path

from trident.errors import SettingsError

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


def restrict_visibility(gpu_index: int) -> None:
    """Let this process and its children see one GPU, or none (-1).

    Importing cuCIM or using torch opens a CUDA context on every visible GPU, so this comes first: it does nothing once
    either is loaded. The index counts among the GPUs that are visible already, as on a cluster that grants some.

    Raises:
        SettingsError: the index is beyond the GPUs that the environment grants.
    """
    if "torch" in sys.modules or "cucim" in sys.modules:
        return
    granted = os.environ.get(VISIBLE)
    if _restricted and granted == _restricted[1]:  # a second job in this process: the index counts as in the first
        granted = _restricted[0]
    chosen = _choose(gpu_index, granted)
    _restricted[:] = [granted, chosen]
    os.environ[VISIBLE] = chosen


_restricted: list[str | None] = []
"""What the environment granted, and what this process made of it."""


def _choose(gpu_index: int, granted: str | None) -> str:
    if gpu_index < 0:
        return ""
    if granted is None:
        present = _gpus_of_the_driver()
        if present is not None and gpu_index >= present:
            raise SettingsError(f"--gpus {gpu_index}: this machine has {present} GPU(s), counted from 0")
        return str(gpu_index)
    names = [name.strip() for name in granted.split(",") if name.strip()]
    if names and gpu_index >= len(names):
        raise SettingsError(f"--gpus {gpu_index}: {VISIBLE}={granted} grants only {len(names)} GPU(s)")
    return names[gpu_index] if names else granted


def physical_name(gpu_index: int) -> str:
    """What the environment calls a GPU that it grants: the same for all processes of this host.

    Raises:
        SettingsError: the index is beyond the GPUs that the environment grants.
    """
    return _choose(gpu_index, os.environ.get(VISIBLE))


def usable(gpu_indices: tuple[int, ...]) -> tuple[int, ...]:
    """The same devices; a CPU worker in place of GPUs on a machine that has none, which is said once.

    Raises:
        SettingsError: an index is beyond the GPUs that the environment grants.
    """
    gpus = [index for index in gpu_indices if index >= 0]
    if not gpus:
        return gpu_indices
    if os.environ.get(VISIBLE) == "" or not _has_nvidia_driver():
        _say_no_gpu()
        return tuple(index for index in gpu_indices if index < 0) or (-1,)
    for index in gpus:
        physical_name(index)
    return gpu_indices


@lru_cache(maxsize=1)
def _say_no_gpu() -> None:
    logger.warning("no NVIDIA GPU on this machine: computing on the CPU (--gpus -1 says that this is meant)")


@lru_cache(maxsize=4)
def device_for(gpu_index: int) -> str:
    """The torch name of the device: `cpu`, or `cuda:0` where this process sees that GPU alone.

    Says so when there is no GPU.
    """
    if gpu_index < 0 or os.environ.get(VISIBLE) == "":
        return "cpu"
    if not _has_nvidia_driver():
        _say_no_gpu()
        return "cpu"
    if _restricted and os.environ.get(VISIBLE) == _restricted[1] == _choose(gpu_index, _restricted[0]):
        return "cuda:0"
    return f"cuda:{gpu_index}"


def _gpus_of_the_driver() -> int | None:
    """How many GPUs the NVIDIA driver lists; None where it lists nothing (no driver, or a container)."""
    listed = Path("/proc/driver/nvidia/gpus")
    return len(list(listed.iterdir())) if listed.is_dir() else None


def _has_nvidia_driver() -> bool:
    """Ask the driver's device files, not torch: the task graph's driver process stays free of it."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg"))
