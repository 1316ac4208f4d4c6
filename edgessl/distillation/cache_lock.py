"""Locks between processes on one machine, held through a file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edgessl.files import output_errors

__all__ = ["FileLock"]


class FileLock:
    """An advisory lock; it goes with the process, however that ends.

    Args:
        path: The lock's file; it is made and stays.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def exclusive(self) -> FileLock:
        """Wait until nobody else holds it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def shared(self) -> FileLock:
        """Wait until nobody holds it alone."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        return self

    def try_exclusive(self) -> bool:
        """Take it alone if nobody holds it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
