"""What a measurement was taken on: figures without this mean nothing later."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from edgessl.config import Options
from edgessl.runtime.threads import physical_cores
from edgessl.targets.host import detect

__all__ = ["Environment", "fingerprint", "peak_memory_bytes"]

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_STATUS = Path("/proc/self/status")
_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = ("edgessl", "numpy", "onnxruntime", "openvino", "torch")


class Environment(Options):
    """The machine and the software, without names of hosts or people.

    Attributes:
        governor: How the kernel sets the clock; None where it does not say.
        virtual: True in a virtual machine, where neighbours add noise; None if unknown.
        load_average: Of the last minute, when the measurement began.
    """

    cpu: str
    cpu_features: tuple[str, ...]
    cores_physical: int | None
    cores_logical: int | None
    cores_usable: int
    memory_bytes: int
    system: str
    governor: str | None
    virtual: bool | None
    load_average: float | None
    python: str
    packages: dict[str, str]


def fingerprint() -> Environment:
    """Look at this machine now."""
    host = detect()
    cpuinfo = _read(_CPUINFO)
    return Environment(
        cpu=host.cpu,
        cpu_features=tuple(sorted(host.features)),
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=psutil.cpu_count(logical=True),
        cores_usable=physical_cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_read(_GOVERNOR),
        virtual=None if cpuinfo is None else " hypervisor" in cpuinfo,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        packages=_installed(),
    )


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not say.

    ``ru_maxrss`` would contain the parent's memory in a spawned child, ``VmHWM`` does not.
    """
    for line in (_read(_STATUS) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
