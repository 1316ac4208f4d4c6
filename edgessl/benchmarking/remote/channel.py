"""Messages over a pipe: lines of JSON, some followed by raw bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edgessl.errors import DataError

__all__ = ["SIZE", "Sender", "read_data", "read_message"]

SIZE = "size_bytes"
"""Key of a message that so many raw bytes follow."""

_LONGEST_LINE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


class Sender:
    """Writes whole messages from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any], data: bytes | Path | None = None) -> None:
        """Write a message and the bytes or the file that follow it.

        Raises:
            OSError: Nobody reads any more.
            DataError: The file changed its size while it was sent.
        """
        size = data.stat().st_size if isinstance(data, Path) else len(data or b"")
        line = json.dumps({**message, SIZE: size} if data is not None else message)
        with self._lock:
            self._stream.write(line.encode("ascii") + b"\n")
            if isinstance(data, Path):
                self._send_file(data, size)
            elif data:
                self._stream.write(data)
            self._stream.flush()

    def close(self, timeout_s: float) -> bool:
        """Close the stream; False if another thread does not get on with its message."""
        if not self._lock.acquire(timeout=timeout_s):
            return False
        try:
            with suppress(BrokenPipeError):
                self._stream.close()
        finally:
            self._lock.release()
        return True

    def _send_file(self, path: Path, size: int) -> None:
        with open(path, "rb") as file:
            while size:
                chunk = file.read(min(size, _CHUNK_BYTES))
                if not chunk:
                    raise DataError(f"{path}: became shorter while it was sent; run again")
                self._stream.write(chunk)
                size -= len(chunk)


def read_message(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read a line.

    Returns:
        None at the end of the stream, also in the middle of a line.

    Raises:
        DataError: The line is longer than 1 MiB or no JSON object.
    """
    line = stream.readline(_LONGEST_LINE_BYTES + 1)
    if len(line) > _LONGEST_LINE_BYTES:
        raise DataError(f"a line of more than {_LONGEST_LINE_BYTES} bytes")
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{line[:80]!r}, which is not JSON") from error
    if not isinstance(value, dict):
        raise DataError(f"{line[:80]!r}, which is not a JSON object")
    return value


def read_data(stream: IO[bytes], size: int, take: Callable[[bytes], object]) -> bool:
    """Read the bytes after a message, piece by piece.

    Returns:
        False if the stream ended before.
    """
    while size:
        chunk = stream.read(min(size, _CHUNK_BYTES))
        if not chunk:
            return False
        take(chunk)
        size -= len(chunk)
    return True
