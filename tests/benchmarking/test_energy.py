"""Joules of made-up meters: constant power times time, counters that start over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contracts.machine import fake_program, jetson, smi, tree
from edgessl.benchmarking import energy
from edgessl.benchmarking.energy import Meter, find_meter
from edgessl.benchmarking.result import Reading
from edgessl.errors import UnavailableError

RAPL = "sys/class/powercap/intel-rapl"


class Clock:
    """Stands still unless it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def meter(root: Path, *, gpu: bool = False, clock: Clock | None = None) -> Meter:
    found = find_meter(root, gpu=gpu, clock=clock or time.monotonic)
    assert isinstance(found, Meter), found
    return found


def rapl(root: Path, **energy_uj: int) -> Path:
    files: dict[str, object] = {
        f"{RAPL}:0:0/name": "core",
        f"{RAPL}:0:0/energy_uj": 777,
        f"{RAPL}-mmio:0/name": "package-0",
        f"{RAPL}-mmio:0/energy_uj": 555,
    }
    for index, value in enumerate(energy_uj.values()):
        files |= {
            f"{RAPL}:{index}/name": f"package-{index}",
            f"{RAPL}:{index}/energy_uj": value,
            f"{RAPL}:{index}/max_energy_range_uj": 262143328850,
        }
    return tree(root, files)


class TestRapl:
    def test_both_packages_and_no_part_of_them(self, tmp_path: Path) -> None:
        root = rapl(tmp_path, a=1_000_000, b=5_000_000)
        found = meter(root)
        assert found.name == "RAPL package-0 + package-1"
        found.start()
        rapl(root, a=16_000_000, b=7_500_000)
        assert found.stop() == pytest.approx(17.5)

    def test_a_counter_that_starts_over(self, tmp_path: Path) -> None:
        root = rapl(tmp_path, a=262143328850 - 4_000_000)
        found = meter(root)
        found.start()
        rapl(root, a=2_000_000)
        assert found.stop() == pytest.approx(6.0)

    def test_one_that_starts_over_twice_while_it_is_watched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(energy, "_COUNTER_S", 0.01)
        root = rapl(tmp_path, a=200_000_000_000)
        found = meter(root)
        found.start()
        for value in (10, 200_000_000_000, 10):
            # Replaced in one step, as the kernel's file changes.
            place = root / f"{RAPL}:0/energy_uj"
            (root / "next").write_text(f"{value}\n")
            (root / "next").replace(place)
            time.sleep(0.2)
        assert found.stop() == pytest.approx((2 * 262143328850 - 200_000_000_000 + 10) / 1e6)

    def test_a_counter_that_goes_away(self, tmp_path: Path) -> None:
        root = rapl(tmp_path, a=5)
        found = meter(root)
        found.start()
        (root / f"{RAPL}:0/energy_uj").unlink()
        with pytest.raises(UnavailableError, match="can no longer be read"):
            found.stop()

    def test_a_counter_for_root_only(self, tmp_path: Path) -> None:
        # Root may read everything, so the file is missing here instead.
        found = find_meter(tree(tmp_path, {f"{RAPL}:0/name": "package-0"}))
        assert isinstance(found, Reading)
        assert "RAPL: energy_uj is readable by root only" in (found.reason or "")


class TestIna3221:
    def test_constant_power_times_time(self, tmp_path: Path) -> None:
        clock = Clock()
        found = meter(jetson(tmp_path), clock=clock)
        assert found.name == "INA3221 VDD_IN"  # all other rails lie behind it
        found.start()
        clock.now += 3.0
        assert found.stop() == pytest.approx(5.0 * 1.6 * 3.0)
        found.start()
        clock.now += 1.0
        assert found.stop() == pytest.approx(8.0)  # from nothing again

    def test_power_that_rises_evenly(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(energy, "_SAMPLE_S", 60.0)
        clock, root = Clock(), jetson(tmp_path)
        found = meter(root, clock=clock)
        found.start()
        clock.now += 2.0
        tree(root, {"sys/class/hwmon/hwmon2/curr1_input": 800})
        assert found.stop() == pytest.approx((8.0 + 4.0) / 2 * 2.0)

    def test_samples_are_taken_in_between(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(energy, "_SAMPLE_S", 0.005)
        root = jetson(tmp_path)
        found = meter(root)
        begin = time.monotonic()
        found.start()
        time.sleep(0.3)
        joules = found.stop()
        assert 8.0 * 0.3 <= joules <= 8.0 * (time.monotonic() - begin)
        assert len(found._samples) > 5  # type: ignore[attr-defined]

    def test_a_module_without_a_common_rail(self, tmp_path: Path) -> None:
        # Jetson AGX Orin: two chips; the second measures a part of VIN_SYS_5V0.
        files: dict[str, object] = {}
        for chip, rails in enumerate(
            [("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("NC", "VDDQ_VDD2_1V8AO", "NC")]
        ):
            place = f"sys/class/hwmon/hwmon{chip}"
            files[f"{place}/name"] = "ina3221"
            for channel, rail in enumerate(rails, start=1):
                files |= {
                    f"{place}/in{channel}_label": rail,
                    f"{place}/in{channel}_input": 1000 * channel,
                    f"{place}/curr{channel}_input": 500,
                }
        clock = Clock()
        found = meter(tree(tmp_path, files), clock=clock)
        assert found.name == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
        found.start()
        clock.now += 2.0
        assert found.stop() == pytest.approx((0.5 + 1.0 + 1.5) * 2.0)

    def test_a_chip_that_falls_silent(self, tmp_path: Path) -> None:
        root, clock = jetson(tmp_path), Clock()
        found = meter(root, clock=clock)
        (root / "sys/class/hwmon/hwmon2/curr1_input").unlink()
        found.start()
        clock.now += 1.0
        with pytest.raises(UnavailableError, match="gave no value"):
            found.stop()


class TestNvidia:
    def loop(self, programs: Path, *rows: str) -> None:
        """nvidia-smi that answers once, and with ``-lms`` for ever."""
        answer = f"printf '%s\\n' {' '.join(rows)}"
        script = (
            f'case "$*" in *-lms*) while :; do {answer}; /bin/sleep 0.02; done ;; esac; {answer}'
        )
        fake_program(programs, "nvidia-smi", script)

    def test_constant_power_times_time(self, tmp_path: Path, programs: Path) -> None:
        self.loop(programs, "60.50", "39.50")
        clock = Clock()
        found = meter(tmp_path / "empty", gpu=True, clock=clock)
        found.start()
        clock.now += 2.0
        assert found.stop() == pytest.approx(100.0 * 2.0)

    def test_its_process_ends(self, tmp_path: Path, programs: Path) -> None:
        self.loop(programs, "60.50")
        found = meter(tmp_path / "empty", gpu=True)
        found.start()
        time.sleep(0.1)
        assert found.stop() > 0
        assert found._process.poll() is not None  # type: ignore[attr-defined]

    def test_a_gpu_that_hides_its_power(self, tmp_path: Path, programs: Path) -> None:
        smi(programs, {"gpu=power.draw": "[N/A]"})
        found = find_meter(tmp_path / "empty", gpu=True)
        assert isinstance(found, Reading)
        assert "this GPU does not show its power" in (found.reason or "")

    def test_is_not_asked_about_the_cpu(self, tmp_path: Path, programs: Path) -> None:
        self.loop(programs, "60.50")
        assert isinstance(find_meter(tmp_path / "empty"), Reading)


def test_the_reason_names_everything_that_was_looked_for(tmp_path: Path) -> None:
    found = find_meter(tmp_path, gpu=True)
    assert isinstance(found, Reading)
    assert (found.value, found.source) == (None, None)
    assert found.reason is not None
    assert [part.split(":")[0] for part in found.reason.split("; ")] == [
        "INA3221",
        "nvidia-smi",
        "RAPL",
    ]
