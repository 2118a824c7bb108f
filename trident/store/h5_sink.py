"""The file that HDF5 writes into, so that a full disk is an error message and not a crash.

HDF5 does not survive a failed write: the library keeps the broken file in its tables and the process ends in a
segmentation fault, at the latest when it exits (seen with HDF5 2.0 on a full disk). So HDF5 writes through this Python
file, which remembers the first error, takes no more bytes, and lets HDF5 believe that all is well until it has closed.
It takes no file locks either, which network folders often refuse.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


class H5Sink(io.RawIOBase):
    """A new file for `h5py.File(sink, "w")`; look at `error` after every step.

    Raises:
        OSError: the file cannot be made (an existing one is not touched).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._position = 0
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def readable(self) -> bool:
        """HDF5 may read back what it wrote."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte position and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._handle).st_size if start is None else start)
        return self._position

    def tell(self) -> int:
        """The byte position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position on; fewer bytes at the end of the file."""
        count = os.preadv(self._handle, [buffer], self._position)
        self._position += count
        return count

    def write(self, data: Any) -> int:
        """Write all of `data`, or remember why it cannot be written."""
        view = memoryview(data).cast("B")
        size, done = len(view), 0
        while done < size and self.error is None:
            try:
                done += os.pwrite(self._handle, view[done:], self._position + done)
            except OSError as error:
                self.error = error
        self._position += size
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length in bytes, or remember why it cannot be set."""
        length = self._position if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._handle, length)
            except OSError as error:
                self.error = error
        return length

    def close(self) -> None:
        """Close the file; what the system only reports now (NFS, quota) is remembered like any other error."""
        if not self.closed:
            try:
                os.close(self._handle)
            except OSError as error:
                self.error = self.error or error
        super().close()
