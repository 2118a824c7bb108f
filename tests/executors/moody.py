"""An encoder that misbehaves when told to, in a package of its own that any process of a run finds."""

from __future__ import annotations

from pathlib import Path

_MODULE = """
import contextlib, os, signal, socket, time
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
            if order.name == "die-in-a-file" and len(batch) > 1:  # not the patch that shows how long a vector is
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    order.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
            if order.name == "abort-once":
                order.unlink()
                os.abort()
            if order.name == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if order.name == "raise":
                raise ValueError("the network is moody")
            if order.name in ("hang", "wait"):
                (ORDERS.parent / "stuck" / f"{{socket.gethostname()}} {{os.getpid()}}").touch()
                while order.name == "hang" or order.exists():
                    time.sleep(0.01)
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
        self._stuck = folder / "stuck"
        for one in (self._orders, self._stuck):
            one.mkdir(parents=True)
        info = self.site / "moody-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[trident.patch_encoders]\nmoody = moody:moody\n")
        (self.site / "moody.py").write_text(_MODULE.format(orders=str(self._orders)))

    def order(self, what: str) -> None:
        """What to do from the next batch on.

        die-once, die-in-a-file (once, too), abort-once, die, raise, hang for ever, or wait until this is forgotten.
        """
        (self._orders / what).touch()

    def forget(self) -> None:
        """Behave again."""
        for order in self._orders.iterdir():
            order.unlink()

    def stuck(self) -> list[tuple[str, int]]:
        """The processes that have begun to hang or to wait: host, and number on it."""
        found = (path.name.rpartition(" ") for path in self._stuck.iterdir())
        return [(host, int(pid)) for host, _, pid in found]
