"""What a measurement was taken on: figures without this mean nothing later."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import Field

from edgessl.benchmarking.probing import first_line, output_of, smi_rows, text
from edgessl.benchmarking.sensors import (
    clock_policies,
    gpu_clocks,
    temperatures_c,
    throttle_events,
)
from edgessl.config import Options
from edgessl.files import sha256_json
from edgessl.runtime.threads import physical_cores
from edgessl.targets.host import HostFacts, detect

__all__ = [
    "Environment",
    "StealMeter",
    "differences",
    "env_hash",
    "fingerprint",
    "peak_memory_bytes",
]

_STATUS = Path("/proc/self/status")
_PACKAGES = (
    "edgessl",
    "mlcommons-loadgen",
    "numpy",
    "onnxruntime",
    "onnxruntime-qnn",
    "openvino",
    "tensorrt",
    "torch",
)
_GIB = 1 << 30


class Environment(Options):
    """The machine and the software, without names of hosts or people.

    What a machine does not say is None or empty.

    Attributes:
        module: Name of the board or module, ``"NVIDIA Jetson Orin Nano Developer Kit"``.
        gpu: Name of the first GPU.
        driver: Version of the GPU's driver.
        jetpack: Version of L4T, ``"36.4.3"``.
        nvpmodel: Power mode of a Jetson.
        jetson_clocks: True if a Jetson's clocks are pinned to their maximum.
        system: Kernel's name, release and machine.
        governor: How the kernel sets the clocks; several where groups of CPUs differ.
        affinity: CPUs that this process may use.
        cgroup_cpus: CPU quota of the container, in CPUs.
        virtual: True in a virtual machine, where neighbours add noise.
        load_average: Of the last minute, when the measurement began.
        temperatures_c: Sensor → degrees Celsius, when the measurement began.
        throttle_events: How often the CPU or GPU throttled since it was started.
        steal_percent: Share of the CPU time that other virtual machines took while this was
            measured.
    """

    cpu: str
    cpu_features: tuple[str, ...]
    cores_physical: int | None
    cores_logical: int | None
    cores_usable: int
    memory_bytes: int
    module: str | None = None
    gpu: str | None = None
    driver: str | None = None
    jetpack: str | None = None
    nvpmodel: str | None = None
    jetson_clocks: bool | None = None
    system: str
    governor: str | None
    affinity: tuple[int, ...] = ()
    cgroup_cpus: float | None = None
    virtual: bool | None
    load_average: float | None
    temperatures_c: dict[str, float] = Field(default_factory=dict)
    throttle_events: int | None = None
    steal_percent: float | None = None
    python: str
    packages: dict[str, str]


def fingerprint(root: Path = Path("/")) -> Environment:
    """Look at this machine now; where there is an NVIDIA GPU this takes a fraction of a second.

    Args:
        root: Where ``/proc``, ``/sys`` and ``/etc`` are.
    """
    host = detect(root)
    gpu, driver, gpu_temperature = _gpu(root, host)
    temperatures = temperatures_c(root)
    if gpu_temperature is not None:
        temperatures["GPU"] = gpu_temperature
    jetson = host.jetson is not None or host.l4t is not None
    return Environment(
        cpu=host.cpu,
        cpu_features=tuple(sorted(host.features)),
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=psutil.cpu_count(logical=True),
        cores_usable=physical_cores(),
        memory_bytes=psutil.virtual_memory().total,
        module=host.board,
        gpu=gpu,
        driver=driver,
        jetpack=host.l4t,
        nvpmodel=_nvpmodel(root) if jetson else None,
        jetson_clocks=_clocks_pinned(root) if jetson else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_governor(root),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        cgroup_cpus=_cgroup_cpus(root),
        virtual=_virtual(root, host),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        temperatures_c=temperatures,
        throttle_events=throttle_events(root),
        python=platform.python_version(),
        packages=_installed(),
    )


def env_hash(environment: Environment) -> str:
    """SHA-256 of what must agree before two results may be compared, see `differences`."""
    return sha256_json(_compared(environment))


def differences(a: Environment, b: Environment) -> dict[str, tuple[object, object]]:
    """Fields that must agree before two results may be compared, and do not.

    Left out is what changes by itself: load, temperatures, throttling, steal. Of the memory the
    GiB count, of the affinity the number of CPUs.

    Returns:
        Field → its value in ``a`` and in ``b``.
    """
    first, second = _compared(a), _compared(b)
    return {name: (first[name], second[name]) for name in first if first[name] != second[name]}


class StealMeter:
    """Measures which share of the CPU time other virtual machines took, from its making on.

    Args:
        root: Where ``/proc`` is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._path = root / "proc/stat"
        self._begin = self._read()

    def percent(self) -> float | None:
        """Share in percent until now; None where the system does not say."""
        end = self._read()
        if self._begin is None or end is None or end[1] <= self._begin[1]:
            return None
        return 100 * (end[0] - self._begin[0]) / (end[1] - self._begin[1])

    def _read(self) -> tuple[int, int] | None:
        """Ticks stolen and all ticks: user, nice, system, idle, iowait, irq, softirq, steal.

        Source: proc(5). The columns after these are contained in user and nice.
        """
        words = (first_line(text(self._path)) or "").split()[1:9]
        ticks = [int(word) for word in words if word.isdecimal()]
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not say.

    ``ru_maxrss`` would contain the parent's memory in a spawned child, ``VmHWM`` does not.
    """
    for line in (text(_STATUS) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _compared(e: Environment) -> dict[str, object]:
    return {
        "cpu": e.cpu,
        "cpu_features": list(e.cpu_features),
        "cores_physical": e.cores_physical,
        "cores_logical": e.cores_logical,
        "cores_usable": e.cores_usable,
        "memory_gib": round(e.memory_bytes / _GIB),
        "module": e.module,
        "gpu": e.gpu,
        "driver": e.driver,
        "jetpack": e.jetpack,
        "nvpmodel": e.nvpmodel,
        "jetson_clocks": e.jetson_clocks,
        "system": e.system,
        "governor": e.governor,
        "affinity_cpus": len(e.affinity),
        "cgroup_cpus": e.cgroup_cpus,
        "virtual": e.virtual,
        "python": e.python,
        "packages": e.packages,
    }


def _gpu(root: Path, host: HostFacts) -> tuple[str | None, str | None, float | None]:
    """Name, driver and degrees Celsius of the first NVIDIA GPU."""
    rows = smi_rows("name,driver_version,temperature.gpu")
    if rows:
        name, driver, celsius = rows[0]
        known = celsius is not None and celsius.isdecimal()
        return name, driver, float(celsius or 0) if known else None
    if host.jetson is not None:
        return host.nvidia_gpus[0].name, host.l4t, None
    # What the kernel module says serves where the program is not installed.
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    model = re.search(r"^Model:\s*(.+)$", text(cards[0]) or "", re.MULTILINE) if cards else None
    version = re.search(r"\b\d{3,}\.[\d.]+\b", text(root / "proc/driver/nvidia/version") or "")
    return model and model[1].strip(), version and version[0], None


def _nvpmodel(root: Path) -> str | None:
    """Name of the power mode, or its number where ``nvpmodel`` may not be run."""
    found = re.search(r"NV Power Mode:\s*(\S.*)", output_of("nvpmodel", "-q") or "")
    if found:
        return found[1].strip()
    stored = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    return f"mode {int(stored[1])}" if stored else None


def _clocks_pinned(root: Path) -> bool | None:
    """Whether CPU and GPU have no choice of clocks, as after ``jetson_clocks``."""
    limits = [
        (text(p / "scaling_min_freq"), text(p / "scaling_max_freq")) for p in clock_policies(root)
    ]
    limits += [(text(p / "min_freq"), text(p / "max_freq")) for p in gpu_clocks(root)]
    if not limits or any(None in pair for pair in limits):
        return None
    return all(least == most for least, most in limits)


def _governor(root: Path) -> str | None:
    found = [text(policy / "scaling_governor") for policy in clock_policies(root)]
    return ", ".join(sorted({governor for governor in found if governor})) or None


def _cgroup_cpus(root: Path) -> float | None:
    """The least CPU quota of this process's control groups, in CPUs; None if it has none."""
    quotas = [quota for folder in _cgroups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of this process's groups and of those around them, versions 1 and 2."""
    mount = root / "sys/fs/cgroup"
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in place.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            # In a container the path may be the host's; then only the root exists here.
            for name in {controllers, "cpu"} if controllers else ("", "unified"):
                yield mount.joinpath(name, *parts[:depth])


def _quota(group: Path) -> float | None:
    words = (text(group / "cpu.max") or "").split()
    if not words:
        words = [text(group / f"cpu.cfs_{part}_us") or "" for part in ("quota", "period")]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None  # "max", or -1 in version 1: no limit
    return int(words[0]) / int(words[1])


def _virtual(root: Path, host: HostFacts) -> bool | None:
    cpuinfo = text(root / "proc/cpuinfo") or ""
    if "\nflags" in cpuinfo:
        return " hypervisor" in cpuinfo
    if (root / "sys/hypervisor/type").exists() or "virt" in (host.board or "").lower():
        return True
    # Of Arm's CPUs no flag says so; a real board names itself.
    return False if host.board is not None else None


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
