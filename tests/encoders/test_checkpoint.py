"""trident/encoders/checkpoint.py: files that are no weights, and weights that do not fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trident.encoders.checkpoint import load_checkpoint, load_into
from trident.errors import WeightsError

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}


class _Evil:
    """Makes a file when it is unpickled in the ordinary way."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.safetensors", lambda path: save_file(STATE, path)),
        ("a.bin", lambda path: torch.save(STATE, path)),
        ("a.pt", lambda path: torch.save({"state_dict": STATE, "epoch": 3}, path)),
        ("a.pth", lambda path: torch.save({"model": {"state_dict": STATE}}, path)),
        ("a.pth", lambda path: torch.save({f"module.{name}": tensor for name, tensor in STATE.items()}, path)),
        ("old.pth", lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False)),
    ],
    ids=["safetensors", "plain", "wrapped", "wrapped twice", "data parallel", "old format"],
)
def test_good_files(tmp_path: Path, name: str, save: Callable[[Path], None]) -> None:
    path = tmp_path / name
    save(path)
    loaded = load_checkpoint(path)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)


def _truncated(save: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save(path)
        path.write_bytes(path.read_bytes()[:-20])

    return write


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("absent.bin", lambda path: None, "no such weights file"),
        ("empty.bin", lambda path: path.write_bytes(b""), "is empty"),
        ("empty.safetensors", lambda path: path.write_bytes(b""), "is empty"),
        ("text.bin", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "text.bin"),
        ("text.pth", lambda path: path.write_text("hello"), "text.pth"),
        ("text.safetensors", lambda path: path.write_text("hello, not weights"), "not a safetensors file"),
        ("cut.safetensors", _truncated(lambda path: save_file(STATE, path)), "damaged, truncated"),
        ("cut.bin", _truncated(lambda path: torch.save(STATE, path)), "cut.bin"),
        ("zeros.pt", lambda path: path.write_bytes(bytes(5000)), "zeros.pt"),
        ("list.pt", lambda path: torch.save([1, 2], path), "holds a list and no named tensors"),
        ("nothing.pt", lambda path: torch.save({}, path), "no named tensors"),
        ("mixed.pt", lambda path: torch.save({**STATE, "epoch": 3}, path), "the entry 'epoch' is a int"),
        ("whole.pt", lambda path: torch.save(nn.Linear(3, 2), path), "holds code, which is never run"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, write: Callable[[Path], object], expected: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, write: str) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    content = {"weight": _Evil(trace)}
    if write == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="holds code, which is never run"):
        load_checkpoint(path)
    assert not trace.exists()
    if write == "pickle":  # the file is dangerous indeed
        pickle.loads(path.read_bytes())
        assert trace.exists()


def _meta_linear() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(3, 2)


def test_load_into_a_network_on_the_meta_device() -> None:
    model = load_into(_meta_linear(), {name: tensor.half() for name, tensor in STATE.items()}, Path("w.bin"))
    batch = torch.tensor([[1.0, 0.0, 2.0]])
    assert torch.equal(model(batch), torch.tensor([[5.0, 15.0]]))
    assert all(tensor.dtype is torch.float32 for tensor in model.state_dict().values())


def test_loaded_tensors_are_the_networks_own() -> None:
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    model = load_into(_meta_linear(), state, Path("w.bin"))
    state["bias"].fill_(100.0)
    assert torch.equal(model.state_dict()["bias"], STATE["bias"])


@pytest.mark.parametrize(
    ("change", "unused", "expected"),
    [
        ({"bias": None}, (), ["1 of 2 tensors are missing: bias"]),
        ({"head.weight": torch.zeros(1)}, (), ["1 are unexpected: head.weight"]),
        ({"bias": torch.zeros(3)}, (), ["1 have another shape: bias is (3,) instead of (2,)"]),
        ({"bias": None, "b": torch.zeros(2)}, (), ["missing: bias", "unexpected: b"]),
        ({f"x{i}": torch.zeros(1) for i in range(9)}, (), ["9 are unexpected: x0, x1, x2, x3 and 5 more"]),
        ({"head.weight": torch.zeros(1), "b": torch.zeros(2)}, ("head.",), ["1 are unexpected: b"]),
    ],
)
def test_weights_that_do_not_fit(
    change: dict[str, torch.Tensor | None], unused: tuple[str, ...], expected: list[str]
) -> None:
    state = {name: tensor for name, tensor in {**STATE, **change}.items() if tensor is not None}
    with pytest.raises(WeightsError) as caught:
        load_into(_meta_linear(), state, Path("/weights/w.bin"), unused=unused)
    assert str(caught.value).startswith("/weights/w.bin: ")
    for part in expected:
        assert part in str(caught.value)


def test_only_declared_tensors_are_left_out_and_counters_may_be_absent() -> None:
    with torch.device("meta"):
        model = nn.BatchNorm1d(2)
    state = {name: torch.ones(2) for name in ("weight", "bias", "running_mean", "running_var")}
    load_into(model, {**state, "fc.weight": torch.zeros(1)}, Path("w.bin"), unused=("fc.",))
    assert model.num_batches_tracked is not None
    assert int(model.num_batches_tracked) == 0


def test_a_buffer_that_the_file_does_not_fill_is_said() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 2)
        model.register_buffer("table", torch.zeros(2), persistent=False)
    with pytest.raises(WeightsError, match="table"):
        load_into(model, STATE, Path("w.bin"))
