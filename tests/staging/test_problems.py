"""A full disk is one kind of problem, whoever met it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trident.errors import StoreError
from trident.staging.problems import NoRoomError, full_disk_as_no_room
from trident.store.atomic import store_error, write_text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full(number: int) -> None:
    with pytest.raises(NoRoomError), full_disk_as_no_room():
        raise OSError(number, "full")
    cause = OSError(number, "full")
    with pytest.raises(NoRoomError), full_disk_as_no_room():
        raise store_error(Path("x"), cause) from cause


def test_everything_else_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError), full_disk_as_no_room():
        write_text(tmp_path / "file" / "below", "x")
    for error in (OSError(errno.EIO, "broken"), StoreError("x"), ValueError("x"), OSError("no number")):
        with pytest.raises(type(error)) as caught, full_disk_as_no_room():
            raise error
        assert caught.value is error
