"""What a device must have before anything goes there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from edgessl.config import Options

__all__ = ["ENGINE_MODULES", "PACKAGES", "Facts", "missing", "request_of"]

_LEAST_PYTHON = (3, 10)
_Version = Annotated[str, Field(max_length=200)]


class _Package(NamedTuple):
    module: str
    least: str
    below: tuple[int, int] | None = None


PACKAGES = {
    "numpy": _Package("numpy", "2.0"),
    "pillow": _Package("PIL", "11.0"),
    "psutil": _Package("psutil", "6.0"),
    "pydantic": _Package("pydantic", "2.9"),
    "tomli": _Package("tomli", "2.0", below=(3, 11)),
    "typing-extensions": _Package("typing_extensions", "4.12"),
}
"""Distribution → its module, its least version, and the Python from which on it is not needed;
those of edgessl's own dependencies that measuring imports."""

ENGINE_MODULES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "qnn": "onnxruntime_qnn",
    "tensorrt": "tensorrt",
}
"""Engine → the module that shows that it is there."""

_COMES_OTHERWISE = {"tensorrt": "it comes with JetPack, elsewhere: pip install tensorrt-cu12"}


class Facts(Options):
    """What the device says about itself.

    Attributes:
        packages: Distribution → version; None if it is absent.
        engines: Modules of engines that are there.
    """

    python: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}$")]
    packages: dict[str, _Version | None]
    engines: tuple[str, ...]


def request_of(needs: Sequence[frozenset[str]]) -> dict[str, Any]:
    """What the device is asked."""
    engines = {ENGINE_MODULES[e] for need in needs for e in need if e in ENGINE_MODULES}
    return {
        "packages": {name: package.module for name, package in PACKAGES.items()},
        "engines": sorted(engines),
    }


def missing(facts: Facts, needs: Sequence[frozenset[str]], python: str) -> str | None:
    """What the device lacks and how to install it; None if it lacks nothing.

    Args:
        facts: What it has.
        needs: Of each artifact, the engines of which one must be there.
        python: Interpreter, for the command.
    """
    version = _numbers(facts.python)
    if version < _LEAST_PYTHON:
        return f"{python} is Python {facts.python}; name one from 3.10 on"
    wanted: list[str] = []
    found: list[str] = []
    for name, package in PACKAGES.items():
        if package.below is not None and version >= package.below:
            continue
        have = facts.packages.get(name)
        if have is None or _numbers(have) < _numbers(package.least):
            wanted.append(f"'{name}>={package.least}'")
            found.append(f"{name} {'is missing' if have is None else f'is {have}'}")
    for need in needs:
        if any(ENGINE_MODULES.get(e) is None or ENGINE_MODULES[e] in facts.engines for e in need):
            continue
        first = sorted(need)[0]
        if first in _COMES_OTHERWISE:
            return f"{first} is missing; {_COMES_OTHERWISE[first]}"
        wanted.append(ENGINE_MODULES[first].replace("_", "-"))
        found.append(f"{first} is missing")
    if not wanted:
        return None
    unique = list(dict.fromkeys(wanted))
    return (
        f"{', '.join(dict.fromkeys(found))}; install there: {python} -m pip install "
        f"{' '.join(unique)}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers; what is no version is older than any."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
