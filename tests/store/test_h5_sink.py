"""HDF5 on the sink: the same bytes as without it, and no crash on a full disk."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from trident.store.h5_sink import H5Sink

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from trident.errors import StoreError
from trident.store.h5 import FeatureFileWriter, write_coords
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
coords = np.zeros((5000, 2), int)
batch = np.ones((500, 64), np.float32)
messages = []
for _ in range(2):
    try:
        with FeatureFileWriter(folder / "f.h5", n_rows=5000, dim=64, coords=coords, coords_attributes={"a": 1},
                               encoder="e", name="n", savetodir="s", recipe=None) as writer:
            for _ in range(10):
                writer.append(batch)
    except StoreError as error:
        messages.append(str(error))
    try:
        write_coords(folder / "c.h5", coords, {"a": 1}, None)
    except StoreError as error:
        messages.append(str(error))
print("\\n".join(messages))
"""


def test_what_hdf5_writes_comes_back(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((700, 33), dtype=np.float32)
    sink = H5Sink(tmp_path / "a.h5")
    with h5py.File(sink, "w") as file:
        dataset = file.create_dataset("values", shape=values.shape, dtype="f4", chunks=(50, 33), compression="gzip")
        for start in range(0, 700, 70):
            dataset[start : start + 70] = values[start : start + 70]
        assert np.array_equal(dataset[100:300], values[100:300])
    sink.close()
    assert sink.error is None
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert np.array_equal(file["values"][()], values)


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(FileExistsError):
        H5Sink(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"


def test_it_is_a_file(tmp_path: Path) -> None:
    with H5Sink(tmp_path / "a") as sink:
        assert sink.readable()
        assert sink.writable()
        assert sink.seekable()
        assert sink.write(b"0123456789") == 10
        assert sink.seek(-4, 2) == 6
        assert sink.read(2) == b"67"
        assert sink.tell() == 8
        assert sink.seek(-1, 1) == 7
        assert sink.truncate() == 7
    assert (tmp_path / "a").read_bytes() == b"0123456"


@pytest.mark.parametrize("limit_bytes", [0, 100, 3000, 90_000, 1_000_000])
def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path, limit_bytes: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit_bytes)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (child.returncode, child.stderr) == (0, "")
    failed = ["f.h5"] * 2 if limit_bytes > 85_000 else ["f.h5", "c.h5"] * 2
    lines = child.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(tmp_path / name) for name in failed]
    assert all("File too large" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["c.h5"] if limit_bytes > 85_000 else [])


def test_the_first_error_is_kept_and_nothing_more_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = H5Sink(tmp_path / "a")
    sink.write(b"good")
    failures = iter([errno.ENOSPC, errno.EIO])

    def fail(*_: object) -> int:
        raise OSError(next(failures), "no")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", fail)
        assert sink.write(b"lost") == 4
    assert sink.write(b"late") == 4
    assert sink.truncate(1) == 1
    assert sink.tell() == 12
    sink.close()
    assert sink.error is not None
    assert sink.error.errno == errno.ENOSPC
    assert (tmp_path / "a").read_bytes() == b"good"
