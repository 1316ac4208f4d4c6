"""Clocks, temperatures and throttling, as Linux and NVIDIA's driver tell them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgessl.benchmarking.probing import natural, number, smi_rows, text

__all__ = [
    "clock_policies",
    "cooling_devices",
    "gpu_clocks",
    "gpu_throttle_reasons",
    "gpu_throttled_us",
    "pi_throttle_file",
    "pi_throttled",
    "temperatures_c",
    "throttle_counters",
    "throttle_events",
]

_CPU = "sys/devices/system/cpu"
_HWMON = "sys/class/hwmon"
_PLAUSIBLE_C = (-50.0, 150.0)
# A fan, a screen or a radio that is cooled slows no inference; TCC Offset is a setting.
_SLOWS_PROCESSORS = re.compile(r"processor|cpufreq|devfreq|cpu|gpu|soc|cv\d", re.IGNORECASE)
_COUNTER_FIELDS = ",".join(
    f"clocks_event_reasons_counters.{name}"
    for name in ("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
)
# Drivers before 535 call events throttling.
_REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_REASONS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Source: nvml.h, nvmlClocksEventReasons. The rest (idle, clocks set by the user, the power cap
that a loaded GPU always sits at) is no fault of the machine."""
_PI_THROTTLED = 0xF
"""Source: Raspberry Pi documentation, vcgencmd get_throttled: what is so now."""


def clock_policies(root: Path) -> list[Path]:
    """Folders with the CPU clocks that Linux sets, one per group of CPUs with a common clock."""
    policies = sorted((root / _CPU / "cpufreq").glob("policy[0-9]*"), key=natural)
    if policies:
        return policies
    return sorted((root / _CPU).glob("cpu[0-9]*/cpufreq"), key=lambda p: natural(p.parent))


def gpu_clocks(root: Path) -> list[Path]:
    """Folders with the clock of an integrated GPU, as a Jetson has it."""
    names = re.compile(r"gpu|ga10b|gv11b|gp10b|gb10b", re.IGNORECASE)
    folder = root / "sys/class/devfreq"
    return sorted(p for p in folder.glob("*") if names.search(p.name))


def cooling_devices(root: Path) -> dict[str, Path]:
    """Name → the file that says how far it slows a processor; 0 is not at all."""
    found: dict[str, Path] = {}
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*"), key=natural):
        kind = text(device / "type")
        if kind is not None and _SLOWS_PROCESSORS.search(kind):
            found[_free(found, kind)] = device / "cur_state"
    return found


def throttle_counters(root: Path) -> dict[str, Path]:
    """Name → file with the number of times that it happened since the machine was started.

    Intel's CPUs count overheating per core and per package; a Jetson counts excess currents.
    """
    found: dict[str, Path] = {}
    packages = set()
    for cpu in sorted((root / _CPU).glob("cpu[0-9]*"), key=natural):
        topology, counts = cpu / "topology", cpu / "thermal_throttle"
        package, core = text(topology / "physical_package_id"), text(topology / "core_id")
        name = f"package {package} core {core}" if core is not None else cpu.name
        if (counts / "core_throttle_count").exists():
            # Both threads of a core show one counter.
            found.setdefault(name, counts / "core_throttle_count")
        if package not in packages and (counts / "package_throttle_count").exists():
            packages.add(package)
            found[f"package {package or 0}"] = counts / "package_throttle_count"
    for chip in sorted((root / _HWMON).glob("hwmon*"), key=natural):
        if text(chip / "name") == "soctherm_oc":
            found |= {
                f"over-current {file.name.split('_')[0]}": file
                for file in sorted(chip.glob("oc*_event_cnt"))
            }
    return found


def throttle_events(root: Path) -> int | None:
    """How often processors throttled since the start, and one more for each that does now.

    None if the machine tells neither.
    """
    counted = [number(path) for path in throttle_counters(root).values()]
    cooling = [number(path) for path in cooling_devices(root).values()]
    known = [c for c in counted if c is not None]
    known += [int(state > 0) for state in cooling if state is not None]
    board = pi_throttle_file(root)
    known += [] if board is None else [int(pi_throttled(text(board)))]
    reasons = gpu_throttle_reasons()
    known += [] if reasons is None else [len(reasons)]
    return sum(known) if known else None


def pi_throttle_file(root: Path) -> Path | None:
    """Where a Raspberry Pi's kernel shows what its firmware says; None if it is none."""
    folder = root / "sys/devices/platform"
    # Its place differs between models; a search through all devices would take long.
    patterns = ("*firmware/get_throttled", "soc*/*firmware/get_throttled")
    return next((file for pattern in patterns for file in sorted(folder.glob(pattern))), None)


def pi_throttled(word: str | None) -> bool:
    """Whether a Raspberry Pi's firmware holds the clock down now, by what its file says."""
    known = word is not None and re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", word) is not None
    return known and bool(int(word or "0", 16) & _PI_THROTTLED)


def temperatures_c(root: Path) -> dict[str, float]:
    """Sensor → degrees Celsius; what a sensor cannot say is left out."""
    found: dict[str, float] = {}
    zones = set()
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=natural):
        kind = text(zone / "type") or zone.name
        zones.add(kind.replace("-", "_"))
        _note(found, kind, number(zone / "temp"))
    for chip in sorted((root / _HWMON).glob("hwmon*"), key=natural):
        name = text(chip / "name") or chip.name
        if name in zones:
            continue  # the kernel shows each zone here once more
        for file in sorted(chip.glob("temp*_input"), key=natural):
            label = text(file.with_name(file.name.replace("_input", "_label")))
            _note(found, f"{name} {label or file.name.split('_')[0]}", number(file))
    return found


def gpu_throttle_reasons() -> tuple[str, ...] | None:
    """Why NVIDIA's GPUs are slowed down now; None if nvidia-smi does not say."""
    for field in _REASON_FIELDS:
        rows = smi_rows(field)
        if rows:
            masks = [int(row[0], 16) for row in rows if row[0] and re.match("0x", row[0])]
            return tuple(name for bit, name in _REASONS.items() if any(m & bit for m in masks))
    return None


def gpu_throttled_us() -> int | None:
    """Microseconds that NVIDIA's GPUs were slowed down by heat or a power brake, so far.

    None if nvidia-smi does not count them, as drivers before 560.
    """
    rows = smi_rows(_COUNTER_FIELDS)
    values = [int(cell) for row in rows or () for cell in row if cell and cell.isdecimal()]
    return sum(values) if values else None


def _note(found: dict[str, float], name: str, millidegrees: int | None) -> None:
    if millidegrees is None:
        return
    celsius = millidegrees / 1000
    if _PLAUSIBLE_C[0] < celsius < _PLAUSIBLE_C[1]:
        found[_free(found, name)] = celsius


def _free(taken: Mapping[str, object], name: str) -> str:
    """The name, numbered if it is taken."""
    if name not in taken:
        return name
    return next(n for n in _numbered(name) if n not in taken)


def _numbered(name: str) -> Iterator[str]:
    count = 1
    while True:
        count += 1
        yield f"{name} #{count}"
