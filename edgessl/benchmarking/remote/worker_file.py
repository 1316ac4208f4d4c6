"""The one file with the code that a device runs: those rooms of edgessl that need no training."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import edgessl
import edgessl.benchmarking
import edgessl.bundle
import edgessl.runtime
import edgessl.targets

__all__ = ["worker_file"]

_ROOMS = (edgessl.benchmarking, edgessl.bundle, edgessl.runtime, edgessl.targets)
_SUFFIXES = (".py", ".toml")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def worker_file() -> bytes:
    """A zip of the installed edgessl, as far as a benchmark takes it.

    Equal sources give equal bytes. The device unpacks it: targets are found by listing their
    folder, and workers import from a path.
    """
    members = {name: path.read_bytes() for name, path in _sources()}
    # What importlib.metadata reads, so that results name the version.
    members[f"edgessl-{edgessl.__version__}.dist-info/METADATA"] = (
        f"Metadata-Version: 2.1\nName: edgessl\nVersion: {edgessl.__version__}\n".encode()
    )
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), members[name])
    return result.getvalue()


def _sources() -> Iterator[tuple[str, Path]]:
    """Name in the zip and path of each file; a package may lie elsewhere than its name says."""
    for path in sorted(Path(edgessl.__path__[0]).glob("*.py")):
        yield f"edgessl/{path.name}", path
    for room in _ROOMS:
        folder = Path(room.__path__[0])
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                place = room.__name__.replace(".", "/")
                yield f"{place}/{path.relative_to(folder).as_posix()}", path
