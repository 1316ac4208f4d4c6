"""One benchmark at a time on a device: a lock file with an owner and a time limit."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pydantic

from edgessl.closing import Closing
from edgessl.config import Options
from edgessl.errors import UnavailableError, printable

__all__ = ["WORK_PREFIX", "DeviceLock", "acquire"]

WORK_PREFIX = "edgessl-"
"""Of the name of a work folder, which lies beside the lock."""

_LONGEST_BYTES = 4096
_POLL_S = 1.0
_MOMENT_S = 5.0
_REMARK_EVERY_S = 60.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19
"""Place of the start time in ``/proc/PID/stat`` after the name. Source: proc(5)."""


class _Record(Options):
    """What a lock file says.

    Times are of the clock that runs since the machine was started, as its calendar may jump.

    Attributes:
        owner: Who holds it, for people.
        pid: The agent's process.
        start_time: Of that process, because numbers are used again.
        boot_id: Of the machine's present run.
        since: UTC, for people.
        expires_s: When it counts as abandoned, unless it is refreshed before.
        work: Name of the agent's work folder.
    """

    owner: str
    pid: int
    start_time: int
    boot_id: str
    since: str
    expires_s: float
    work: str

    def abandoned(self) -> str | None:
        """Why nobody holds the lock any more; None if somebody does."""
        if self.boot_id != _boot_id():
            return "the device was restarted since"
        if not self.is_running():
            return "its process is gone"
        return None if _now() <= self.expires_s else "its time is over"

    def is_running(self) -> bool:
        """Whether the process that made the lock still lives."""
        try:
            return self.boot_id == _boot_id() and _start_time(self.pid) == self.start_time
        except PermissionError:  # a kernel that hides what others run
            return True


class DeviceLock(Closing):
    """A lock that this process holds; `acquire` makes it."""

    def __init__(self, path: Path, descriptor: int, record: _Record, limit_s: float) -> None:
        self._path = path
        self._descriptor = descriptor
        self._record = record
        self._limit_s = limit_s
        self._closed = False

    def refresh(self) -> None:
        """Begin the time limit anew.

        Raises:
            UnavailableError: The lock is no longer this process's.
        """
        self._record = self._record.model_copy(update={"expires_s": _now() + self._limit_s})
        with _exclusive(self._descriptor):
            if not _is_at(self._descriptor, self._path):
                raise UnavailableError(
                    f"the lock {self._path} was removed or taken over while this benchmark ran; "
                    "its figures would not count, run it again"
                )
            text = self._record.model_dump_json().encode()
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))

    def close(self) -> None:
        """Give the lock back, unless somebody took it over."""
        if self._closed:
            return
        self._closed = True
        with _exclusive(self._descriptor):
            if _is_at(self._descriptor, self._path):
                self._path.unlink()
        os.close(self._descriptor)


def acquire(
    path: Path,
    *,
    owner: str,
    work: Path,
    limit_s: float,
    wait_s: float,
    remark: Callable[[str], None],
) -> DeviceLock:
    """Take the lock, or wait for it.

    A lock whose process is gone or whose time is over is taken over; with it goes the work folder
    that a killed process left.

    Args:
        path: The lock file.
        owner: Who wants it, for people.
        work: This process's work folder.
        limit_s: The lock counts as abandoned when it was not refreshed for so long.
        wait_s: How long to wait at most.
        remark: Told what it waits for.

    Raises:
        UnavailableError: Somebody holds it, the message says who and for how long, or the file
            cannot be made.
    """
    record = _Record(
        owner=owner,
        pid=os.getpid(),
        start_time=_start_time(os.getpid()) or 0,
        boot_id=_boot_id(),
        since=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        expires_s=0.0,
        work=work.name,
    )
    deadline = time.monotonic() + wait_s
    remarked = -_REMARK_EVERY_S
    while True:
        lock = _create(path, record, limit_s, work)
        if lock is not None:
            return lock
        holder = _holder(path, remark)
        if holder is None:
            continue
        left_s = max(0.0, holder.expires_s - _now())
        held = (
            f"the device is in use by {printable(holder.owner)} since {printable(holder.since)}; "
            f"the lock {path} runs out in {left_s / 60:.0f} min unless it is refreshed"
        )
        if time.monotonic() >= deadline:
            raise UnavailableError(f"{held}; try again later, or wait for it with --on-wait")
        if time.monotonic() - remarked >= _REMARK_EVERY_S:
            remarked = time.monotonic()
            remark(f"{held}; waiting")
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def _create(path: Path, record: _Record, limit_s: float, work: Path) -> DeviceLock | None:
    """Make the lock file, whole from its first moment; None if there is one."""
    record = record.model_copy(update={"expires_s": _now() + limit_s})
    try:
        descriptor, draft = tempfile.mkstemp(prefix="lock-", dir=work)
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, record.model_dump_json().encode())
        try:
            os.link(draft, path)
        except FileExistsError:
            os.close(descriptor)
            return None
        finally:
            os.unlink(draft)
    except OSError as error:
        raise UnavailableError(
            f"{path}: the lock cannot be made ({error.strerror}); name another folder"
        ) from error
    return DeviceLock(path, descriptor, record, limit_s)


def _holder(path: Path, remark: Callable[[str], None]) -> _Record | None:
    """Who holds the lock; an abandoned one is removed."""
    try:
        # No waiting for the writer of a pipe that somebody put there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    try:
        with _exclusive(descriptor):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _unusable(path, "no regular file")
            record = _Record.model_validate_json(os.read(descriptor, _LONGEST_BYTES))
            reason = record.abandoned()
            if reason is None:
                return record
            # Whoever held the file's own lock before may have removed it already.
            if _is_at(descriptor, path):
                path.unlink()
                remark(f"took over the lock of {printable(record.owner)}: {reason}")
                _remove_work(path.parent, record)
    except pydantic.ValidationError as error:
        raise _unusable(path, "not written by edgessl") from error
    except BlockingIOError as error:
        raise _unusable(path, "another program keeps it locked") from error
    except PermissionError as error:
        raise UnavailableError(
            f"the lock {path} of {printable(record.owner)} is abandoned, but belongs to another "
            f"user; have them or root remove it: rm {path}"
        ) from error
    finally:
        os.close(descriptor)
    return None


def _remove_work(folder: Path, record: _Record) -> None:
    """Remove what a killed agent left; a living one, whose time was over, does so itself."""
    work = folder / record.work
    named = record.work.startswith(WORK_PREFIX) and work.name == record.work
    try:
        found = work.lstat()
    except (OSError, ValueError):
        return
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if named and mine and not record.is_running():
        shutil.rmtree(work, ignore_errors=True)


def _unusable(path: Path, reason: str) -> UnavailableError:
    return UnavailableError(
        f"{path}: is no lock of edgessl ({reason}); remove it or name another folder"
    )


@contextmanager
def _exclusive(descriptor: int) -> Iterator[None]:
    """Hold the file's own lock: who removes or rewrites a lock file has it, for a moment.

    Raises:
        BlockingIOError: Another program keeps it.
    """
    deadline = time.monotonic() + _MOMENT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_MOMENT_S / 100)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _start_time(pid: int) -> int | None:
    """In ticks of the kernel; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in brackets and may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[_START_TIME])
