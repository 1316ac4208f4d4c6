"""Small system files and short programs: a value, or None where the machine does not say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["first_line", "natural", "number", "output_of", "smi_rows", "text"]

_TIMEOUT_S = 20.0
_UNKNOWN = ("[", "N/A")
"""What nvidia-smi prints instead of a value begins so: ``[N/A]``, ``[Not Supported]``."""


def text(path: Path) -> str | None:
    """Contents of a file, stripped; None if it cannot be read or is empty."""
    try:
        found = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return found.strip("\0\n\t ") or None


def number(path: Path) -> int | None:
    """Contents of a file that holds one integer; None if it does not."""
    found = text(path)
    return int(found) if found is not None and re.fullmatch(r"-?\d{1,19}", found) else None


def natural(path: Path) -> tuple[int | str, ...]:
    """Sorts ``cpu10`` behind ``cpu9``."""
    parts = re.split(r"(\d+)", path.name)
    return tuple(int(p) if p.isdecimal() else p for p in parts)


def output_of(program: str, *arguments: str) -> str | None:
    """What a program prints; None if it is not on the path, fails or takes too long."""
    place = shutil.which(program)
    if place is None:
        return None
    try:
        done = subprocess.run(
            [place, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def first_line(output: str | None) -> str | None:
    """The first line of an output that is not empty."""
    return next((line.strip() for line in (output or "").splitlines() if line.strip()), None)


def smi_rows(fields: str, *, query: str = "gpu") -> list[list[str | None]] | None:
    """One row of values per GPU, or per process, as nvidia-smi lists them.

    Args:
        fields: ``"name,driver_version"``; values come without units.
        query: ``"gpu"`` or ``"compute-apps"``.

    Returns:
        Values that nvidia-smi does not know are None; None altogether if there is no nvidia-smi
        or it does not know a field.
    """
    output = output_of("nvidia-smi", f"--query-{query}={fields}", "--format=csv,noheader,nounits")
    if output is None:
        return None
    wanted = fields.count(",") + 1
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    return [
        [None if not cell or cell.startswith(_UNKNOWN) else cell for cell in row]
        for row in rows
        if len(row) == wanted
    ]
