"""Whether the machine held still: throttling, clocks, governors, temperature."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edgessl.benchmarking.environment import Environment, differences
from edgessl.benchmarking.probing import number, smi_rows, text
from edgessl.benchmarking.sensors import (
    clock_policies,
    cooling_devices,
    gpu_clocks,
    gpu_throttle_reasons,
    gpu_throttled_us,
    pi_throttle_file,
    pi_throttled,
    temperatures_c,
    throttle_counters,
)
from edgessl.closing import Closing
from edgessl.errors import UnavailableError
from edgessl.progress import Progress, ProgressEvent

__all__ = ["Watch", "hottest_c", "problems_of_run", "wait_until_cool"]

_T = TypeVar("_T")

_MOST = 32
"""Clocks and counters of each kind that are watched; a server's hundreds say nothing more."""
_CLOCK_TOLERANCE = 0.02
# On x86 the current clock is an average over the last ticks, of an idle core an old one.
_MEASURED_CLOCK_DRIVERS = ("acpi-cpufreq", "amd-pstate", "intel_cpufreq", "intel_pstate")
_NOT_PROCESSORS = re.compile(
    r"^(PMIC|nvme|iwlwifi|drivetemp|BAT|pch_|spd5118|jc42|ath\d|mt79)", re.IGNORECASE
)
_LONGEST_READ = 64
_POLL_S = 2.0
_CHANGES = ("governor", "nvpmodel", "jetson_clocks", "cgroup_cpus", "affinity_cpus", "driver")


class Watch(Closing):
    """Tells whether something happened to the machine's clocks between two moments.

    Files stay open, so that `begin` and `problem` take microseconds each.

    Args:
        root: Where ``/sys`` is.
        cpus: CPUs that matter; empty is those of this process.
    """

    def __init__(self, root: Path = Path("/"), *, cpus: Sequence[int] = ()) -> None:
        self._files: list[_File] = []
        self._smi = gpu_throttle_reasons() is not None
        self._gpu_us: int | None = None
        counters, cooling = throttle_counters(root), cooling_devices(root)
        self._counters = self._open(_some(list(counters.items())))
        self._cooling = self._open(_some(list(cooling.items())))
        board = pi_throttle_file(root)
        self._board = self._open([] if board is None else [("the firmware", board)])
        settings, clocks = [], []
        for policy in _some(_policies_of(clock_policies(root), cpus or _own_cpus())):
            settings += list(_cpu_settings(policy))
            clocks += list(_pinned_cpu_clock(policy))
        for gpu in _some(gpu_clocks(root)):
            settings += [(f"{name} of {gpu.name}", gpu / name) for name in ("min_freq", "max_freq")]
            clocks += list(_pinned_gpu_clock(gpu))
        self._settings = self._open(settings)
        self._clocks = self._open(clocks)
        self._set = [file.read() for file in self._settings]
        self._pinned = [file.integer() for file in self._clocks]
        self._counted = [file.integer() for file in self._counters]

    def begin(self) -> None:
        """Note the counters at the beginning of a block."""
        self._counted = [file.integer() for file in self._counters]

    def problem(self) -> str | None:
        """What happened since `begin`, or differs from when the watch was made; None if nothing."""
        return next(self._problems(), None)

    def begin_restart(self) -> None:
        """Note what only a program can tell; costs a fraction of a second with an NVIDIA GPU."""
        self._gpu_us = gpu_throttled_us() if self._smi else None

    def restart_problem(self) -> str | None:
        """What happened to an NVIDIA GPU since `begin_restart`; None if nothing, or no GPU."""
        if not self._smi:
            return None
        after = gpu_throttled_us()
        if after is not None and self._gpu_us is not None and after > self._gpu_us:
            return f"the GPU was slowed down for {(after - self._gpu_us) / 1e3:.3g} ms"
        reasons = gpu_throttle_reasons()
        return f"the GPU is slowed down: {', '.join(reasons)}" if reasons else None

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []

    def _problems(self) -> Iterator[str]:
        for file, before in zip(self._counters, self._counted, strict=True):
            after = file.integer()
            if before is not None and after is not None and after > before:
                yield f"throttled: {file.name} counted {after - before} more"
        for file in self._cooling:
            if (state := file.integer()) is not None and state > 0:
                yield f"throttled: {file.name} is at {state}"
        if any(pi_throttled(file.read()) for file in self._board):
            yield "throttled: the firmware says so (under-voltage or heat)"
        for file, wanted in zip(self._settings, self._set, strict=True):
            if (found := file.read()) != wanted:
                yield f"{file.name} changed from {wanted} to {found}"
        for file, pinned in zip(self._clocks, self._pinned, strict=True):
            clock = file.integer()
            if pinned and clock is not None and abs(clock / pinned - 1) > _CLOCK_TOLERANCE:
                yield f"{file.name} is pinned and went from {pinned} to {clock}"

    def _open(self, named: Sequence[tuple[str, Path]]) -> list[_File]:
        opened = [file for name, path in named if (file := _File.of(name, path)) is not None]
        self._files += opened
        return opened


def problems_of_run(begin: Environment, end: Environment) -> list[str]:
    """What changed between the beginning and the end of a run and makes it invalid.

    Only what was known at both ends counts: a program that failed once is no change.
    """
    found = [
        f"{name} changed from {before} to {after} during the run"
        for name, (before, after) in differences(begin, end).items()
        if name in _CHANGES and before is not None and after is not None
    ]
    before, after = begin.throttle_events, end.throttle_events
    if before is not None and after is not None and after > before:
        found.append(f"processors throttled {after - before} times during the run")
    return found


def hottest_c(root: Path = Path("/")) -> float | None:
    """Degrees Celsius of the hottest sensor that has to do with a processor; None without one.

    Disks, radios and batteries are left out, and the PMIC of older Jetsons, which always says 100.
    """
    hottest = _hottest(root)
    return None if hottest is None else hottest[1]


def wait_until_cool(
    limit_c: float,
    *,
    progress: Progress,
    timeout_s: float = 600.0,
    root: Path = Path("/"),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the hottest sensor is at or below a temperature.

    Args:
        limit_c: Degrees Celsius.
        progress: Told the temperature now and then.
        timeout_s: Longest time to wait.
        root: Where ``/sys`` is.
        sleep: Waits so many seconds.

    Raises:
        UnavailableError: There is no sensor, or it does not get as cool in time.
    """
    waited = 0.0
    while True:
        hottest = _hottest(root)
        if hottest is None:
            raise UnavailableError(
                "this machine shows no temperature (/sys/class/thermal, /sys/class/hwmon, "
                "nvidia-smi), so a start temperature cannot be waited for; leave it out"
            )
        name, celsius = hottest
        if celsius <= limit_c:
            return
        if waited >= timeout_s:
            raise UnavailableError(
                f"{name} is at {celsius:.1f} °C after {timeout_s:g} s, asked for {limit_c:g} °C; "
                "cool the device or allow a higher start temperature"
            )
        progress(
            ProgressEvent(
                "cooling", int(waited), int(timeout_s), unit="s", metrics={"hottest_c": celsius}
            )
        )
        sleep(_POLL_S)
        waited += _POLL_S


class _File:
    """A small system file that stays open."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor

    @classmethod
    def of(cls, name: str, path: Path) -> _File | None:
        """None if it cannot be opened and read."""
        try:
            file = cls(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None
        if file.read() is None:
            file.close()
            return None
        return file

    def read(self) -> str | None:
        """What it says now; None if its device is gone."""
        try:
            return os.pread(self._descriptor, _LONGEST_READ, 0).decode(errors="replace").strip()
        except OSError:
            return None

    def integer(self) -> int | None:
        """The same as a number."""
        found = self.read()
        return int(found) if found is not None and re.fullmatch(r"-?\d+", found) else None

    def close(self) -> None:
        os.close(self._descriptor)


def _own_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _policies_of(policies: Sequence[Path], cpus: Sequence[int]) -> list[Path]:
    """Those that set the clock of one of the CPUs; all where the kernel does not say."""
    wanted = {str(cpu) for cpu in cpus}
    found = []
    for policy in policies:
        governed = (text(policy / "affected_cpus") or "").split()
        if not governed or not wanted or wanted & set(governed):
            found.append(policy)
    return found


def _cpu_settings(policy: Path) -> Iterator[tuple[str, Path]]:
    name = _policy_name(policy)
    for setting in ("scaling_governor", "scaling_min_freq", "scaling_max_freq"):
        yield f"{setting} of {name}", policy / setting


def _pinned_cpu_clock(policy: Path) -> Iterator[tuple[str, Path]]:
    """The clock in kHz, where it should not move and the kernel tells what it set."""
    if (text(policy / "scaling_driver") or "").startswith(_MEASURED_CLOCK_DRIVERS):
        return
    least, most = (number(policy / f"scaling_{end}_freq") for end in ("min", "max"))
    fixed = text(policy / "scaling_governor") in ("performance", "userspace")
    if fixed or (least is not None and least == most):
        yield f"the clock of {_policy_name(policy)} (kHz)", policy / "scaling_cur_freq"


def _pinned_gpu_clock(gpu: Path) -> Iterator[tuple[str, Path]]:
    """The same of an integrated GPU, in Hz."""
    least, most = number(gpu / "min_freq"), number(gpu / "max_freq")
    if least is not None and least == most:
        yield f"the clock of {gpu.name} (Hz)", gpu / "cur_freq"


def _policy_name(policy: Path) -> str:
    return policy.parent.name if policy.name == "cpufreq" else policy.name


def _some(items: Sequence[_T]) -> list[_T]:
    """At most so many, evenly spread."""
    step = -(-len(items) // _MOST) or 1
    return list(items[::step])


def _hottest(root: Path) -> tuple[str, float] | None:
    found = {k: v for k, v in temperatures_c(root).items() if not _NOT_PROCESSORS.match(k)}
    rows = smi_rows("temperature.gpu") or []
    gpus = [float(cell) for row in rows for cell in row if cell and cell.isdecimal()]
    if gpus:
        found["GPU"] = max(gpus)
    return max(found.items(), key=lambda item: item[1], default=None)
