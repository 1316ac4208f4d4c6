"""The exception tree of edgessl.

Every error is one line that says what is wrong, what was found and how to fix it, and carries
the exit code that the command line ends with. The library raises; only the CLI prints and exits.

    EdgeSSLError
    ├── UsageError            a wrong argument, option or recipe key
    ├── DataError             a data source that cannot be used
    │   └── CorruptSampleError   one unreadable sample (counted and skipped by the loader)
    ├── ModelError            a backbone, weights file or ONNX file that cannot be used
    ├── RunError              a run directory or checkpoint that cannot be used
    ├── BundleError           a bundle that is damaged, unsafe or of an unknown schema
    ├── TargetError           a target that is unknown, invalid or cannot do what was asked
    ├── OutputError           a place that cannot be written (exists, read-only, disk full)
    ├── GateError             a gate said no (fidelity, latency, quality)
    ├── InconclusiveError     a measurement that decides nothing
    └── UnavailableError      this machine lacks the engine, device or package
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BundleError",
    "CorruptSampleError",
    "DataError",
    "EdgeSSLError",
    "GateError",
    "InconclusiveError",
    "ModelError",
    "OutputError",
    "RunError",
    "TargetError",
    "UnavailableError",
    "UsageError",
    "nearest",
    "printable",
]

_LONGEST = 2000
_KEPT_END = 500
_BREAKS = re.compile(r"\s*[\n\r\t\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def printable(text: str) -> str:
    """One line of a text that others wrote: a name in a model, a message of an engine.

    Line breaks become spaces, and control characters, which could drive a terminal, their escapes.
    From a very long line the middle goes.
    """
    line = _BREAKS.sub(" ", text).strip()
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - _KEPT_END]} … {line[-_KEPT_END:]}"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class EdgeSSLError(Exception):
    """Base of every error that edgessl raises on purpose; its text is one printable line."""

    exit_code = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class UsageError(EdgeSSLError):
    """An argument, option or recipe key is wrong."""


class DataError(EdgeSSLError):
    """A data source cannot be used."""


class CorruptSampleError(DataError):
    """One sample cannot be decoded; loaders count it and go on."""


class ModelError(EdgeSSLError):
    """A backbone, a weights file or an ONNX file cannot be used."""


class RunError(EdgeSSLError):
    """A run directory or a checkpoint cannot be used."""


class BundleError(EdgeSSLError):
    """A bundle is damaged, unsafe to open, or of an unknown schema version."""


class TargetError(EdgeSSLError):
    """A target is unknown or invalid, or cannot do what was asked."""


class OutputError(EdgeSSLError):
    """An output cannot be written: it exists, its folder is read-only, or the disk is full."""


class GateError(EdgeSSLError):
    """A gate (fidelity, latency, quality) said no."""

    exit_code = 1


class InconclusiveError(EdgeSSLError):
    """A measurement that neither passes nor fails its gate."""

    exit_code = 3


class UnavailableError(EdgeSSLError):
    """This machine lacks the engine, device or package that was asked for."""

    exit_code = 4


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Say which known names are near a misspelt one, as the tail of an error message.

    Args:
        name: The name that was not found.
        known: The names that exist.
        limit: How many to suggest at most.

    Returns:
        ``"did you mean a, b?"``, or ``"known: a, b, c"`` when nothing is near and the list is
        short, or ``""``.
    """
    names = sorted(set(known))
    close = [n for n in names if len(name) >= 4 and name.lower() in n.lower()]
    close = sorted(close, key=len)[:limit] or get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    if 0 < len(names) <= 20:
        return f"known: {', '.join(names)}"
    return ""
