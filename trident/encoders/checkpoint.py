"""Files of weights: read as plain tensors, never as code, and fitted strictly. torch is imported when called."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trident.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
"""File name endings that are understood."""

_WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
_NAMES_SHOWN = 4
_DAMAGED = (
    # What torch's reader raises on bytes that are no checkpoint is not documented; random damage brought these.
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name, on the CPU.

    A wrapper around them (`{"state_dict": ...}`, `{"model": ...}`) and the `module.` that data-parallel training puts
    before every name are taken off.

    Raises:
        WeightsError: missing, empty or damaged file, a file that holds code, or one that is not a state dict.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; correct the path")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: this weights file is empty; download it again")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickled(path)
    return _tensors_of(content, path)


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path, *, unused: Sequence[str] = ()) -> nn.Module:
    """Give `model`, which may be built on the meta device, exactly the tensors of `state`, as float32 on the CPU.

    Args:
        model: the network.
        state: tensors by name.
        path: where they come from, for the messages.
        unused: prefixes of tensors in `state` that this network leaves out.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape; nothing is loaded then.
    """
    import torch

    wanted = model.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(unused))}
    for name in wanted.keys() - given.keys():
        # A counter of training steps, absent from many published files and unused in inference.
        if name.endswith("num_batches_tracked"):
            given[name] = torch.zeros((), dtype=torch.int64)
    _check_fit(wanted, given, path)
    # Copied: a tensor may still be a window on the file.
    own = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in given.items()
    }
    model.load_state_dict(own, strict=True, assign=True)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise WeightsError(f"{path}: the network's {_some(left)} are neither in the file nor computed; report this")
    return model


def _check_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(wanted)} tensors are missing: {_some(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} are unexpected: {_some(unexpected)}")
    if shapes:
        problems.append(f"{len(shapes)} have another shape: {_some(shapes)}")
    if problems:
        raise WeightsError(
            f"{path}: these are not the weights of this architecture; {'; '.join(problems)}. "
            "Check that the file belongs to the encoder"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: damaged, truncated or not a safetensors file ({_one_line(error)}); download it again"
        ) from error


def _read_pickled(path: Path) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle's protocol: the error below says enough
            # Mapped into memory where the format allows it: a checkpoint of gigabytes is then not held twice.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a file of plain tensors: it is damaged, or it holds code, which is never run; "
            "download it again, or save it as safetensors from a source that you trust"
        ) from error
    except _DAMAGED as error:
        raise WeightsError(
            f"{path}: damaged, truncated or not a torch checkpoint ({_one_line(error)}); download it again"
        ) from error


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    import torch

    while isinstance(content, dict):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: holds a {type(content).__name__} and no named tensors; give a state dict")
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{path}: the entry {name!r} is a {type(value).__name__}, not a tensor; save the state dict alone"
            )
        tensors[name] = value
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
