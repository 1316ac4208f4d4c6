"""Energy that the machine used between two moments, from the meters that it has."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import IO

from edgessl.benchmarking.probing import natural, number, smi_rows, text
from edgessl.benchmarking.result import Reading
from edgessl.errors import UnavailableError

__all__ = ["Meter", "find_meter"]

_SAMPLE_S = 0.02
_SMI_SAMPLE_MS = 100
_SMI_START_S = 5.0
# A package at 200 W goes through the counter's 262 kJ in twenty minutes.
_COUNTER_S = 60.0
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VDD_IN_TOTAL")
"""Rails behind which the whole module lies, as on Jetson Orin Nano and NX."""
# A part of VIN_SYS_5V0, and a channel that is connected to nothing.
_CONTAINED_RAILS = ("VDDQ_VDD2_1V8AO", "NC")

Clock = Callable[[], float]


class Meter(ABC):
    """Measures joules between `start` and `stop`.

    Attributes:
        name: What it reads, ``"RAPL package-0"``.
    """

    name: str

    @abstractmethod
    def start(self) -> None:
        """Begin."""

    @abstractmethod
    def stop(self) -> float:
        """End, and tell the joules since `start`.

        Raises:
            UnavailableError: The meter fell silent meanwhile.
        """


def find_meter(
    root: Path = Path("/"), *, gpu: bool = False, clock: Clock = time.monotonic
) -> Meter | Reading:
    """The meter that covers most of what an inference uses.

    On a Jetson that is the power monitor of the module. Elsewhere it is the GPU's own for an
    inference on the GPU, and the CPU's for all others.

    Args:
        root: Where ``/sys`` is.
        gpu: The inference runs on an NVIDIA GPU.
        clock: Seconds, for those meters that show power.

    Returns:
        A meter; or a reading without a value whose reason names everything that was looked for.
    """
    reasons: list[str] = []
    for find in (_ina3221, _smi, _rapl) if gpu else (_ina3221, _rapl):
        found = find(root, clock)
        if isinstance(found, Meter):
            return found
        reasons.append(found)
    if not gpu:
        reasons.append("the GPU's meter (nvidia-smi) does not cover an inference on the CPU")
    return Reading(reason="; ".join(reasons))


class _Rapl(Meter):
    """Counters of the CPU packages; Intel's and AMD's look alike.

    Source: Documentation/power/powercap/powercap.rst. ``energy_uj`` goes back to 0 after
    ``max_energy_range_uj``.
    """

    def __init__(self, packages: dict[str, Path]) -> None:
        self.name = "RAPL " + " + ".join(packages)
        self._counters = [place / "energy_uj" for place in packages.values()]
        self._ranges = [number(p / "max_energy_range_uj") or 0 for p in packages.values()]

    def start(self) -> None:
        self._total_uj = 0
        self._last = [self._read(path) for path in self._counters]
        self._repeat = _Repeat(self._count, _COUNTER_S)

    def stop(self) -> float:
        self._repeat.stop()
        self._count()
        return self._total_uj / 1e6

    def _count(self) -> None:
        now = [self._read(path) for path in self._counters]
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            self._total_uj += after - before + (span if after < before else 0)
        self._last = now

    def _read(self, path: Path) -> int:
        found = number(path)
        if found is None:
            raise UnavailableError(f"{self.name}: {path.name} can no longer be read; measure again")
        return found


class _PowerMeter(Meter):
    """Integrates power over time by the trapezoidal rule."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._samples: list[tuple[float, float]] = []

    def note(self, watts: float | None) -> None:
        """Add a sample taken now."""
        if watts is not None:
            self._samples.append((self._clock(), watts))

    def joules(self, begin: float, end: float) -> float:
        """Energy between two moments; the first and the last sample hold to the ends."""
        inside = [(t, w) for t, w in self._samples if begin <= t <= end]
        if not inside:
            raise UnavailableError(f"{self.name} gave no value meanwhile; measure for longer")
        points = [(begin, inside[0][1]), *inside, (end, inside[-1][1])]
        return sum(
            (after - before) * (first + last) / 2
            for (before, first), (after, last) in pairwise(points)
        )


class _Ina3221(_PowerMeter):
    """Rails of a Jetson's power monitor: volts times amperes.

    Source: Documentation/hwmon/ina3221.rst (millivolts, milliamperes); NVIDIA Jetson Linux
    Developer Guide, power monitors.
    """

    def __init__(self, rails: dict[str, tuple[Path, Path]], clock: Clock) -> None:
        super().__init__("INA3221 " + " + ".join(rails), clock)
        self._rails = list(rails.values())

    def start(self) -> None:
        self._samples = []
        self._begin = self._clock()
        self._sample()
        self._repeat = _Repeat(self._sample, _SAMPLE_S)

    def stop(self) -> float:
        self._repeat.stop()
        self._sample()
        return self.joules(self._begin, self._clock())

    def _sample(self) -> None:
        pairs = [(number(volts), number(amperes)) for volts, amperes in self._rails]
        known = [mv * ma / 1e6 for mv, ma in pairs if mv is not None and ma is not None]
        self.note(sum(known) if len(known) == len(pairs) else None)


class _Smi(_PowerMeter):
    """Power of all NVIDIA GPUs, as nvidia-smi prints it ten times a second.

    Source: nvidia-smi(1), power.draw: the mean of a second on Ampere and later.
    """

    def __init__(self, gpus: int, clock: Clock) -> None:
        super().__init__("nvidia-smi power.draw", clock)
        self._gpus = gpus

    def start(self) -> None:
        self._samples = []
        command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        self._process = subprocess.Popen(
            [*command, "-lms", str(_SMI_SAMPLE_MS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        if self._process.stdout is None:
            raise UnavailableError(f"{self.name}: nvidia-smi has no output; measure again")
        self._first = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, args=(self._process.stdout,), daemon=True
        )
        self._thread.start()
        # The program takes up to a second to start, which must not be extrapolated.
        self._first.wait(_SMI_START_S)
        self._begin = self._clock()

    def stop(self) -> float:
        end = self._clock()
        self._process.kill()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._samples and self._samples[0][0] < self._begin:
            # The latest value before the beginning is the one that held then.
            held = [w for t, w in self._samples if t <= self._begin][-1]
            self._samples.append((self._begin, held))
            self._samples.sort()
        return self.joules(self._begin, end)

    def _follow(self, lines: IO[str]) -> None:
        row: list[float] = []
        for line in lines:
            found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", line)
            row.append(float(found[1]) if found else 0.0)
            if len(row) == self._gpus:
                self.note(sum(row))
                self._first.set()
                row = []


class _Repeat:
    """Calls a function from a thread until it is stopped; stops by itself if that raises."""

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        self._over = threading.Event()
        self._error: UnavailableError | None = None
        self._thread = threading.Thread(target=self._run, args=(call, seconds), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and raise what it met."""
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, call: Callable[[], None], seconds: float) -> None:
        while not self._over.wait(seconds):
            try:
                call()
            except UnavailableError as error:
                self._error = error
                return


def _rapl(root: Path, clock: Clock) -> Meter | str:
    packages: dict[str, Path] = {}
    locked = False
    for place in sorted((root / "sys/class/powercap").glob("intel-rapl:*"), key=natural):
        name = text(place / "name") or ""
        if not re.fullmatch(r"intel-rapl:\d+", place.name) or not name.startswith("package"):
            continue  # parts of a package, or the whole platform
        if number(place / "energy_uj") is None:
            locked = True
        else:
            packages[name] = place
    if packages and not locked:
        return _Rapl(packages)
    if locked:
        return "RAPL: energy_uj is readable by root only (run as root, or chmod a+r it)"
    return "RAPL: no package in /sys/class/powercap (virtual machines have none)"


def _ina3221(root: Path, clock: Clock) -> Meter | str:
    rails: dict[str, tuple[Path, Path]] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*"), key=natural):
        if text(chip / "name") != "ina3221":
            continue
        for label in sorted(chip.glob("in*_label"), key=natural):
            channel = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            name = text(label) or f"channel {channel}"
            if number(volts) is not None and number(amperes) is not None:
                rails[name] = (volts, amperes)
    total = {name: rails[name] for name in rails if name in _TOTAL_RAILS}
    chosen = total or {name: r for name, r in rails.items() if name not in _CONTAINED_RAILS}
    return _Ina3221(chosen, clock) if chosen else "INA3221: no such chip in /sys/class/hwmon"


def _smi(root: Path, clock: Clock) -> Meter | str:
    del root
    rows = smi_rows("power.draw")
    if rows is None:
        return "nvidia-smi: not on the path, or it fails"
    if not rows or any(row[0] is None for row in rows):
        return "nvidia-smi: this GPU does not show its power"
    return _Smi(len(rows), clock)
