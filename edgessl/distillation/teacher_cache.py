"""Teacher features on the disk: the teacher runs once per sample and view seed.

A table is a folder with an ``index`` and one file of rows per view seed. Rows are written first and
counted in by replacing the index, so what a killed process leaves is a table with fewer rows. One
process writes to a table at a time; those that read have it mapped, and an evicted table stays
theirs until they end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.distillation.cache_index import (
    BLOCK_ROWS,
    TableIndex,
    read_index,
    shorten,
)
from edgessl.distillation.cache_lock import FileLock
from edgessl.errors import OutputError, UsageError
from edgessl.files import output_errors
from edgessl.progress import Progress, ProgressEvent

__all__ = ["CacheTable", "cache_limit_bytes", "make_room"]

Compute = Callable[[int, NDArray[np.int64]], NDArray[np.float16]]
"""View seed and store indices (n,) → rows (n, row)."""

_BATCH = 64
_COMMIT_SECONDS = 30.0
_CHECKED_BYTES = 256 * 2**20
_LIMIT_GB = 32.0


def cache_limit_bytes() -> int:
    """Most bytes of all tables together: ``EDGESSL_TEACHER_CACHE_GB`` (32), in units of 1e9.

    Raises:
        UsageError: It is not a number.
    """
    text = os.environ.get("EDGESSL_TEACHER_CACHE_GB", str(_LIMIT_GB))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise UsageError(
            f"EDGESSL_TEACHER_CACHE_GB is {text!r:.80}, not a number; set it to a size such as 32"
        )
    return round(min(gigabytes, 1e9) * 1e9)


class CacheTable:
    """One teacher's table.

    Args:
        folder: Where it is; None takes a temporary folder that goes at once, while the rows stay
            readable to this process.
        header: Whose it is: JSON values.
        row: Numbers in a row.
        progress: Told how far it is, and of what is made again.
    """

    def __init__(
        self, folder: Path | None, header: dict[str, Any], *, row: int, progress: Progress
    ) -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="edgessl-")) if folder is None else folder
        self.header = {**header, "row": row, "dtype": "float16"}
        self.row = row
        self._progress = progress
        self._use = FileLock(_lock_of(self.folder, "use")).shared()

    def fill(
        self, content_hashes: list[str], views: int, compute: Compute
    ) -> tuple[list[NDArray[np.float16]], NDArray[np.int64]] | None:
        """Compute what is missing, and map the table.

        Args:
            content_hashes: (N,) SHA-256 of each sample, in hexadecimal.
            views: K.
            compute: Gives the missing rows.

        Returns:
            K mapped arrays (rows, row), and (N,) row of each sample. None if the table has no
            place within the limit of the cache.

        Raises:
            OutputError: It cannot be written.
        """
        hashes = shorten(content_hashes)
        try:
            with FileLock(_lock_of(self.folder, "write")).exclusive():
                index = self._open(hashes, views)
                if not self._reserve(index):
                    return None
                self._verify(index)
                self._compute(index, hashes, views, compute)
            os.utime(self.folder / "index")
            arrays = [self._mapped(view, len(index.hashes)) for view in range(views)]
            return arrays, index.places(hashes)
        except OutputError as error:
            raise OutputError(
                f"{error}; the cache can be moved with EDGESSL_CACHE, or left out with "
                "decode_cache=false"
            ) from error
        finally:
            if self._temporary:
                shutil.rmtree(self.folder, ignore_errors=True)
                for purpose in ("use", "write"):
                    _lock_of(self.folder, purpose).unlink(missing_ok=True)

    def _open(self, hashes: NDArray[np.bytes_], views: int) -> TableIndex:
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        index: TableIndex | str = TableIndex(self.header)
        if (self.folder / "index").exists():
            index = read_index(self.folder / "index", self.header)
        if isinstance(index, str):
            self._say(f"{self.folder}: the teacher features are {index} and are made again")
            for file in self.folder.iterdir():
                file.unlink()
            index = TableIndex(self.header)
        index.grow(hashes, views)
        return index

    def _reserve(self, index: TableIndex) -> bool:
        """Give every file its final size, so that others who look for room see it taken."""
        size = len(index.hashes) * self.row * 2
        if not self._temporary and not make_room(
            self.folder, size * len(index.present), cache_limit_bytes()
        ):
            return False
        for view in range(len(index.present)):
            path = self._file(view)
            with output_errors(path), open(path, "ab") as file:
                if file.tell() < size:
                    file.truncate(size)
        return True

    def _verify(self, index: TableIndex) -> None:
        """Compare blocks with their checksums: all, or an even spread of a large table."""
        for view, present in enumerate(index.present):
            if not present.any():
                continue
            rows = self._mapped(view, len(index.hashes))
            written = np.unique(np.flatnonzero(present) // BLOCK_ROWS)
            most = max(1, _CHECKED_BYTES // (BLOCK_ROWS * self.row * 2) // len(index.present))
            chosen = np.unique(
                np.linspace(0, len(written) - 1, min(most, len(written))).astype(int)
            )
            bad = [
                b for b in written[chosen] if index.check(view, b, rows) != index.checks[view][b]
            ]
            if bad:
                self._say(f"{self._file(view)}: teacher features are damaged and are made again")
                # Where an even spread meets damage there may be more of it.
                present[:] = False

    def _compute(
        self, index: TableIndex, hashes: NDArray[np.bytes_], views: int, compute: Compute
    ) -> None:
        total, done = views * len(hashes), 0
        places = index.places(hashes)
        _, firsts = np.unique(places, return_index=True)
        committed = time.monotonic()
        for view in range(views):
            missing = firsts[~index.present[view][places[firsts]]].astype(np.int64)
            done += len(hashes) - len(missing)
            fresh = list[NDArray[np.int64]]()
            with self._opened(view) as file:
                for start in range(0, len(missing), _BATCH):
                    part = missing[start : start + _BATCH]
                    self._progress(ProgressEvent("teacher", done, total, "samples"))
                    for place, row in zip(places[part], compute(view, part), strict=True):
                        file.seek(int(place) * self.row * 2)
                        file.write(np.ascontiguousarray(row, dtype="<f2").tobytes())
                    fresh.append(places[part])
                    done += len(part)
                    if time.monotonic() - committed > _COMMIT_SECONDS:
                        self._commit(index, view, np.concatenate(fresh), file)
                        fresh, committed = [], time.monotonic()
                if fresh:
                    self._commit(index, view, np.concatenate(fresh), file)
        self._progress(ProgressEvent("teacher", total, total, "samples"))

    def _commit(self, index: TableIndex, view: int, places: NDArray[np.int64], file: Any) -> None:
        """Count written rows in, once they are on the disk."""
        file.flush()
        os.fsync(file.fileno())
        index.present[view][places] = True
        rows = self._mapped(view, len(index.hashes))
        for block in np.unique(places // BLOCK_ROWS):
            index.checks[view][block] = index.check(view, int(block), rows)
        index.write(self.folder / "index")

    @contextmanager
    def _opened(self, view: int) -> Iterator[Any]:
        path = self._file(view)
        with output_errors(path), open(path, "r+b") as file:
            yield file

    def _mapped(self, view: int, samples: int) -> NDArray[np.float16]:
        return np.memmap(self._file(view), dtype="<f2", mode="r", shape=(samples, self.row))

    def _file(self, view: int) -> Path:
        return self.folder / f"view-{view:04d}.rows"

    def _say(self, message: str) -> None:
        self._progress(ProgressEvent("teacher", message=message, warning=True))


def make_room(folder: Path, size: int, limit: int) -> bool:
    """Let the tables that were used longest ago go until one of ``size`` bytes fits.

    Tables in use are kept, this one too.

    Args:
        folder: The table; the others are beside it.
        size: Bytes that it is going to take.
        limit: Bytes that all may take.

    Returns:
        False if there is no room; then nothing has been removed.
    """
    with FileLock(folder.parent / "room.lock").exclusive():
        others = {
            other: sum(size for size, _ in _files(other))
            for other in folder.parent.iterdir()
            if other.is_dir() and other != folder
        }
        excess = sum(others.values()) + size - limit
        chosen: list[tuple[Path, FileLock, FileLock]] = []
        try:
            for other in sorted(others, key=_last_used):
                if excess <= 0:
                    break
                locks = FileLock(_lock_of(other, "use")), FileLock(_lock_of(other, "write"))
                if all(lock.try_exclusive() for lock in locks):
                    chosen.append((other, *locks))
                    excess -= others[other]
            if excess > 0:
                return False
            for other, *_ in chosen:
                shutil.rmtree(other, ignore_errors=True)
        finally:
            for _, *held in chosen:
                for lock in held:
                    lock.close()
    return True


def _last_used(folder: Path) -> float:
    return max((when for _, when in _files(folder)), default=0.0)


def _files(folder: Path) -> list[tuple[int, float]]:
    """Size and time of each file; one that another process just replaced is passed over."""
    found = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            facts = file.stat()
            found.append((facts.st_size, facts.st_mtime))
    return found


def _lock_of(folder: Path, purpose: str) -> Path:
    return folder.parent / f"{folder.name}.{purpose}.lock"
