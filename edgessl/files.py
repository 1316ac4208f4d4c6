"""Write files so that a good one is never replaced by half of another; hash them.

Every output goes to a temporary name beside its place, is flushed to the disk and then renamed;
what is appended to a file goes there at once or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgessl.errors import OutputError

__all__ = [
    "append_text",
    "atomic_directory",
    "atomic_path",
    "cache_directory",
    "output_errors",
    "sha256_file",
    "sha256_json",
    "write_json",
    "write_text",
]

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another --out",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another --out",
    errno.EFBIG: "the file would be larger than the limit set here (ulimit -f); raise it",
    errno.EROFS: "the file system is read-only; choose another --out",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.ENOTDIR: "a part of the path is a file; choose another --out",
    errno.EEXIST: "a part of the path is a file; choose another --out",
    errno.EISDIR: "the path is a folder; name a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` about ``path`` into an ``OutputError`` that says what to do."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if error.errno == errno.ENOENT and Path(error.filename or "") in (path, *path.parents):
            reason = "its folder cannot be made; choose another --out"
        if reason is None:
            raise
        raise OutputError(f"cannot write {path}: {reason}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success flush it and rename it into place.

    On any exception, Ctrl-C included, the temporary file goes and ``path`` stays as it was.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    path = Path(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: the path is a folder; name a file")
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())
            _fsync(temporary)
            os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success rename it into place.

    Raises:
        OutputError: ``path`` exists and ``overwrite`` is false, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; name another folder, or pass --overwrite to replace it")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
                _fsync(file)
            if path.exists():
                displaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
                os.replace(path, displaced / "old")
                os.replace(temporary, path)
                shutil.rmtree(displaced)
            else:
                os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Append UTF-8 text to a file, on a new line, and flush it to the disk.

    Others who append in this way wait meanwhile. Of a text that does not fit on the disk nothing
    stays.

    Raises:
        OutputError: The file cannot be written or the disk is full.
    """
    path = Path(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
            data = (b"\n" if size and file.read(1) != b"\n" else b"") + text.encode()
            try:
                written = file.write(data)
                while written < len(data):  # a disk that gets full takes a part first
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, a final newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def cache_directory(*parts: str) -> Path:
    """A folder for things that can be made again: under ``$EDGESSL_CACHE`` or ``~/.cache/edgessl``.

    The folder is named, not made.
    """
    root = os.environ.get("EDGESSL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "edgessl").joinpath(*parts)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
