"""Which GPU a process sees, and what its torch name is."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest

from trident import devices
from trident.errors import SettingsError


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has loaded neither torch nor cuCIM."""
    monkeypatch.setenv(devices.VISIBLE, "to be restored")
    for module in ("torch", "cucim"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(devices, "_restricted", [])
    devices.device_for.cache_clear()
    yield
    devices.device_for.cache_clear()


@pytest.mark.parametrize(
    ("granted", "index", "visible"),
    [
        (None, 0, "0"),
        (None, 3, "3"),
        (None, -1, ""),
        ("4,6", 0, "4"),
        ("4,6", 1, "6"),
        ("GPU-8a, GPU-9b", 1, "GPU-9b"),
        ("4,6", -1, ""),
        ("", 0, ""),
        ("", 2, ""),
    ],
)
def test_the_index_counts_among_the_gpus_that_are_granted(
    granted: str | None, index: int, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if granted is None:
        monkeypatch.delenv(devices.VISIBLE)
    else:
        monkeypatch.setenv(devices.VISIBLE, granted)
    devices.restrict_visibility(index)
    assert os.environ[devices.VISIBLE] == visible


@pytest.mark.parametrize("granted", [None, "4,6"])
def test_a_second_job_in_one_process_counts_like_the_first(
    granted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if granted is None:
        monkeypatch.delenv(devices.VISIBLE)
    else:
        monkeypatch.setenv(devices.VISIBLE, granted)
    seen = []
    for index in (1, 1, -1, 0):
        devices.restrict_visibility(index)
        seen.append(os.environ[devices.VISIBLE])
    assert seen == (["1", "1", "", "0"] if granted is None else ["6", "6", "", "4"])


def test_an_index_beyond_the_granted_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "4,6")
    with pytest.raises(SettingsError, match=r"--gpus 2: CUDA_VISIBLE_DEVICES=4,6 grants only 2 GPU"):
        devices.restrict_visibility(2)
    assert os.environ[devices.VISIBLE] == "4,6"


@pytest.mark.parametrize("module", ["torch", "cucim"])
def test_once_a_library_has_seen_the_gpus_nothing_is_hidden(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "4,6")
    monkeypatch.setitem(sys.modules, module, os)
    devices.restrict_visibility(1)
    assert os.environ[devices.VISIBLE] == "4,6"


@pytest.mark.parametrize(
    ("visible", "driver", "index", "device"),
    [
        (None, True, -1, "cpu"),
        ("", True, 0, "cpu"),
        (None, False, 0, "cpu"),
        ("3", True, 3, "cuda:0"),  # the one GPU that this process sees
        (None, True, 3, "cuda:3"),  # nothing was hidden: torch had been loaded
    ],
)
def test_the_name_of_the_device(
    visible: str | None, driver: bool, index: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_nvidia_driver", lambda: driver)
    if visible is None:
        monkeypatch.delenv(devices.VISIBLE)
    else:
        monkeypatch.setenv(devices.VISIBLE, visible)
        monkeypatch.setattr(devices, "_restricted", [None, visible])
    monkeypatch.setattr(devices, "_gpus_of_the_driver", lambda: None)
    assert devices.device_for(index) == device


def test_an_index_beyond_the_gpus_of_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch", "cucim"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(devices, "_restricted", [])
    monkeypatch.setattr(devices, "_gpus_of_the_driver", lambda: 2)
    with pytest.raises(SettingsError, match=r"--gpus 2: this machine has 2 GPU"):
        devices.restrict_visibility(2)


def test_without_a_restriction_the_index_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(devices, "_restricted", [])
    monkeypatch.setenv(devices.VISIBLE, "4,6")
    devices.device_for.cache_clear()
    assert devices.device_for(1) == "cuda:1"
    devices.device_for.cache_clear()


def test_a_missing_gpu_is_told_once_and_not_where_the_cpu_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_has_nvidia_driver", lambda: False)
    monkeypatch.delenv(devices.VISIBLE)
    with caplog.at_level(logging.WARNING, logger="trident.devices"):
        devices.device_for(-1)
        assert not caplog.records
        devices.device_for.cache_clear()
        devices._say_no_gpu.cache_clear()
        for _ in range(2):
            devices.device_for(0)
    assert len(caplog.records) == 1
    assert "--gpus -1" in caplog.text


@pytest.mark.parametrize(
    ("driver", "visible", "asked", "expected"),
    [
        (True, None, (0, 1), (0, 1)),
        (True, "4,6", (0, 1, -1), (0, 1, -1)),
        (True, "", (0,), (-1,)),
        (False, None, (0, 1), (-1,)),
        (False, None, (-1, 0, -1), (-1, -1)),
        (False, None, (-1, -1), (-1, -1)),
    ],
)
def test_cpu_workers_stand_in_for_gpus_that_are_not_there(
    driver: bool,
    visible: str | None,
    asked: tuple[int, ...],
    expected: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(devices, "_gpus_of_the_driver", lambda: None)
    if visible is None:
        monkeypatch.delenv(devices.VISIBLE, raising=False)
    else:
        monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.usable(asked) == expected


def test_a_gpu_beyond_those_granted_is_refused_before_any_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_nvidia_driver", lambda: True)
    monkeypatch.setenv(devices.VISIBLE, "4,6")
    with pytest.raises(SettingsError, match=r"--gpus 2: CUDA_VISIBLE_DEVICES=4,6 grants only 2"):
        devices.usable((0, 2))
    assert devices.physical_name(1) == "6"
