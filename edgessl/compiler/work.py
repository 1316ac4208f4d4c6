"""The folder that a compilation works in: kept, so that an interrupted one goes on where it was.

A folder belongs to one key, the hash of all inputs. Each step leaves its result beside its files,
written last and atomically: what is there is whole. A finished compilation leaves only its bundle
and its report, which the next one with the same inputs copies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pydantic

from edgessl.config import Options
from edgessl.errors import OutputError
from edgessl.files import atomic_path, cache_directory, write_json
from edgessl.progress import Progress, ProgressEvent

__all__ = [
    "Done",
    "Finished",
    "Work",
    "keep_finished",
    "open_work",
    "prune_oldest",
    "recall_finished",
]

T = TypeVar("T", bound=Options)
_MAX_AGE_S = 7 * 86_400.0
_MAX_FINISHED = 200
_MAX_RANGES = 64
_BUNDLE, _REPORT, _LOCK = "bundle.edge", "report.json", "lock"


class Done(Options):
    """A step that leaves nothing but its files."""


class Finished(Options):
    """A compilation that ended well: where its bundle and its report are."""

    bundle: str
    report: str


class Work:
    """A work folder.

    Attributes:
        folder: Where the steps put their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, step: str, kind: type[T]) -> T | None:
        """What an earlier run left of a step; None if nothing, or nothing readable."""
        try:
            return kind.model_validate_json((self.folder / f"{step}.json").read_bytes())
        except (OSError, ValueError, pydantic.ValidationError):
            return None

    def keep(self, step: str, value: T) -> T:
        """Note that a step is done."""
        write_json(self.folder / f"{step}.json", value.model_dump(mode="json"))
        return value

    def fresh(self, name: str) -> Path:
        """A new empty folder; what an interrupted step left there goes."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place


@contextlib.contextmanager
def open_work(key: str | None, progress: Progress) -> Iterator[Work]:
    """A work folder for a key; a private one that goes at the end where the key is None.

    Another process with the same key, or a cache that cannot be written, gives a private one too.
    The folder goes when the work ends without an error, and stays when it is interrupted.
    """
    with contextlib.ExitStack() as stack:
        folder = None if key is None else _claim(key, stack, progress)
        if folder is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgessl-compile-"))
            yield Work(Path(name))
            return
        try:
            yield Work(folder)
        except KeyboardInterrupt:
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def recall_finished(key: str) -> Finished | None:
    """The result of an earlier compilation with the same inputs."""
    place = _finished(key)
    if (place / _REPORT).is_file() and (place / _BUNDLE).is_file():
        with contextlib.suppress(OSError):
            os.utime(place)
        return Finished(bundle=str(place / _BUNDLE), report=str(place / _REPORT))
    return None


def keep_finished(key: str, bundle: Path, report: object, progress: Progress) -> None:
    """Remember a result; a cache that cannot be written is a warning."""
    place = _finished(key)
    try:
        with atomic_path(place / _BUNDLE) as temporary:
            shutil.copyfile(bundle, temporary)
        write_json(place / _REPORT, report)
        _prune()
    except (OSError, OutputError) as error:
        message = f"the result is not remembered: {error}"
        progress(ProgressEvent("compile", message=message, warning=True))


def _finished(key: str) -> Path:
    return cache_directory("compile", "finished", key)


def _claim(key: str, stack: contextlib.ExitStack, progress: Progress) -> Path | None:
    root = cache_directory("compile", "work")
    folder = root / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((root / f"{key}.{_LOCK}").open("a+b"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "another process compiles the same; this one works on its own"
        progress(ProgressEvent("compile", message=message))
        return None
    except OSError as error:
        message = f"an interruption loses the work: {root} cannot be written ({error.strerror})"
        progress(ProgressEvent("compile", message=message, warning=True))
        return None
    folder.mkdir(exist_ok=True)
    if any(folder.iterdir()):
        progress(ProgressEvent("compile", message="going on where an earlier run was interrupted"))
    os.utime(folder)
    return folder


def _prune() -> None:
    """Forget what was left by interrupted runs a week ago, and the oldest results."""
    now = time.time()
    for place in cache_directory("compile", "work").glob("*"):
        if now - place.stat().st_mtime > _MAX_AGE_S:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
    prune_oldest(cache_directory("compile", "finished"), _MAX_FINISHED)
    prune_oldest(cache_directory("ranges"), _MAX_RANGES)


def prune_oldest(folder: Path, kept: int) -> None:
    """Leave the newest entries of a cache."""
    with contextlib.suppress(OSError):  # another process prunes too
        entries = sorted(folder.glob("*"), key=lambda p: p.stat().st_mtime)
        for place in entries[:-kept]:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
