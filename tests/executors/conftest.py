"""An encoder that misbehaves when told to, in a package of its own, and jobs that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trident.encoders.patch import plugins

_MODULE = """
import os, signal, time
from pathlib import Path

import torch
from torchvision import transforms

from trident.encoders.patch.base import CustomInferenceEncoder

ORDERS = Path({orders!r})

class Moody(torch.nn.Module):
    def forward(self, batch):
        for order in sorted(ORDERS.iterdir()):
            if order.name == "die-once":
                order.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if order.name == "abort-once":
                order.unlink()
                os.abort()
            if order.name == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if order.name == "raise":
                raise ValueError("the network is moody")
            if order.name == "hang":
                (ORDERS.parent / "hangs").touch()
                time.sleep(3600)
        return batch.mean(dim=(2, 3))

def moody():
    return CustomInferenceEncoder("moody", Moody(), transforms.ToTensor(), torch.float32)
"""


class Moody:
    """Gives the encoder its orders, and tells how processes find it."""

    name = "moody"

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self._orders = folder / "orders"
        self._orders.mkdir(parents=True)
        info = self.site / "moody-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[trident.patch_encoders]\nmoody = moody:moody\n")
        (self.site / "moody.py").write_text(_MODULE.format(orders=str(self._orders)))
        self.hangs = folder / "hangs"

    def order(self, what: str) -> None:
        """From the next batch on: die-once, abort-once, die, raise or hang."""
        (self._orders / what).touch()

    def forget(self) -> None:
        """Behave again."""
        for order in self._orders.iterdir():
            order.unlink()


@pytest.fixture
def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moody]:
    moody = Moody(tmp_path / "moody")
    monkeypatch.syspath_prepend(moody.site)
    monkeypatch.setenv("PYTHONPATH", f"{moody.site}:{Path(__file__).resolve().parents[2]}")
    plugins._entry_points.cache_clear()
    yield moody
    plugins._entry_points.cache_clear()


@pytest.fixture
def job_path(
    clean_settings: Path, moody: Moody, tmp_path: Path, drawn_slides: Callable[..., Path]
) -> Callable[..., str]:
    """Function (**options): the job file of a run over two slides with the moody encoder."""
    from trident.job import create_job
    from trident.settings import load_settings

    def make(**options: object) -> str:
        usual = {
            "job_dir": tmp_path / "job",
            "wsi_dir": drawn_slides(tmp_path / "wsis", "a.svs", "b.svs"),
            "segmenter": "otsu",
            "patch_size": 128,
            "patch_encoder": moody.name,
            "gpus": "-1",
            "task": "all",
        }
        return str(create_job(load_settings(**{**usual, **options})).save())

    return make
