"""A machine that moves while it is watched, and one that has to cool down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contracts.benchmark_results import environment
from contracts.machine import jetson, smi, tree
from edgessl.benchmarking.conditions import Watch, hottest_c, problems_of_run, wait_until_cool
from edgessl.errors import UnavailableError
from edgessl.progress import ProgressEvent, silent

POLICY = "sys/devices/system/cpu/cpufreq/policy0"
GPU = "sys/class/devfreq/17000000.gpu"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return jetson(tmp_path / "root")


def x86(root: Path, *, driver: str = "intel_pstate") -> Path:
    files: dict[str, object] = {
        f"{POLICY}/affected_cpus": 0,
        f"{POLICY}/scaling_driver": driver,
        f"{POLICY}/scaling_governor": "performance",
        f"{POLICY}/scaling_min_freq": 800000,
        f"{POLICY}/scaling_max_freq": 4000000,
        f"{POLICY}/scaling_cur_freq": 4000000,
    }
    for cpu in (0, 1):
        place = f"sys/devices/system/cpu/cpu{cpu}"
        files |= {
            f"{place}/topology/core_id": cpu,
            f"{place}/topology/physical_package_id": 0,
            f"{place}/thermal_throttle/core_throttle_count": 7,
            f"{place}/thermal_throttle/package_throttle_count": 9,
        }
    return tree(root, files)


class TestWatch:
    def test_a_machine_that_holds_still(self, board: Path) -> None:
        with Watch(board) as watch:
            for _ in range(3):
                watch.begin()
                assert watch.problem() is None

    def test_a_machine_that_says_nothing(self, tmp_path: Path) -> None:
        with Watch(tmp_path / "empty") as watch:
            watch.begin()
            assert watch.problem() is None
            watch.begin_restart()
            assert watch.restart_problem() is None

    @pytest.mark.parametrize(
        ("file", "value", "said"),
        [
            ("sys/class/hwmon/hwmon1/oc3_event_cnt", 3, "throttled: over-current oc3 counted 1"),
            (
                "sys/class/thermal/cooling_device2/cur_state",
                1,
                "throttled: gpu-throttle-alert is at 1",
            ),
            (
                f"{POLICY}/scaling_governor",
                "powersave",
                "scaling_governor of policy0 changed from schedutil to powersave",
            ),
            (
                f"{POLICY}/scaling_max_freq",
                1190400,
                "scaling_max_freq of policy0 changed from 1510400 to 1190400",
            ),
            (
                f"{POLICY}/scaling_cur_freq",
                1420800,
                "the clock of policy0 (kHz) is pinned and went from 1510400 to 1420800",
            ),
            (
                f"{GPU}/cur_freq",
                510000000,
                "the clock of 17000000.gpu (Hz) is pinned and went from 624750000 to 510000000",
            ),
            (f"{GPU}/max_freq", 510000000, "max_freq of 17000000.gpu changed"),
        ],
    )
    def test_what_spoils_a_block(self, board: Path, file: str, value: object, said: str) -> None:
        with Watch(board, cpus=[0]) as watch:
            watch.begin()
            tree(board, {file: value})
            assert (watch.problem() or "").startswith(said)

    @pytest.mark.parametrize(
        ("file", "value"),
        [
            (f"{POLICY}/scaling_cur_freq", 1500000),  # 0.7 % less
            ("sys/class/thermal/cooling_device0/cur_state", 7),  # the fan
            ("sys/class/thermal/thermal_zone0/temp", 90000),
            # Of CPUs that nothing is bound to.
            ("sys/devices/system/cpu/cpufreq/policy4/scaling_governor", "powersave"),
        ],
    )
    def test_what_does_not(self, board: Path, file: str, value: object) -> None:
        with Watch(board, cpus=[0]) as watch:
            watch.begin()
            tree(board, {file: value})
            assert watch.problem() is None

    def test_a_counter_spoils_its_block_and_a_setting_all_that_follow(self, board: Path) -> None:
        counter = "sys/class/hwmon/hwmon1/oc1_event_cnt"
        with Watch(board, cpus=[0]) as watch:
            watch.begin()
            tree(board, {counter: 1})
            assert watch.problem() is not None
            watch.begin()
            assert watch.problem() is None
            tree(board, {f"{POLICY}/scaling_governor": "powersave"})
            watch.begin()
            assert watch.problem() is not None

    def test_a_free_clock_may_move(self, board: Path) -> None:
        tree(board, {f"{POLICY}/scaling_min_freq": 115200, f"{GPU}/min_freq": 306000000})
        with Watch(board, cpus=[0]) as watch:
            watch.begin()
            tree(board, {f"{POLICY}/scaling_cur_freq": 729600, f"{GPU}/cur_freq": 306000000})
            assert watch.problem() is None

    def test_x86_is_judged_by_its_counters(self, tmp_path: Path) -> None:
        root = x86(tmp_path / "root")
        with Watch(root, cpus=[0, 1]) as watch:
            watch.begin()
            # An average over the last ticks: says nothing of an idle core.
            tree(root, {f"{POLICY}/scaling_cur_freq": 2600000})
            assert watch.problem() is None
            count = "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count"
            tree(root, {count: 12})
            assert watch.problem() == "throttled: package 0 core 1 counted 5 more"

    def test_the_governor_performance_pins_where_the_kernel_sets_the_clock(
        self, tmp_path: Path
    ) -> None:
        root = x86(tmp_path / "root", driver="cpufreq-dt")
        with Watch(root, cpus=[0]) as watch:
            watch.begin()
            tree(root, {f"{POLICY}/scaling_cur_freq": 2600000})
            assert "is pinned and went from 4000000 to 2600000" in (watch.problem() or "")

    def test_a_raspberry_pi(self, tmp_path: Path) -> None:
        place = "sys/devices/platform/soc/soc:firmware/get_throttled"
        root = tree(tmp_path / "root", {place: "50000"})
        with Watch(root) as watch:
            watch.begin()
            assert watch.problem() is None
            tree(root, {place: "50008"})
            assert "the firmware says so" in (watch.problem() or "")

    def test_a_large_server_needs_few_files(self, tmp_path: Path) -> None:
        place = "sys/devices/system/cpu/cpufreq"
        files: dict[str, object] = {}
        for cpu in range(128):
            files |= {
                f"{place}/policy{cpu}/affected_cpus": cpu,
                f"{place}/policy{cpu}/scaling_governor": "powersave",
                f"{place}/policy{cpu}/scaling_max_freq": 3000000,
            }
        root = tree(tmp_path / "root", files)
        before = len(os.listdir("/proc/self/fd"))
        with Watch(root, cpus=range(128)) as watch:
            assert len(os.listdir("/proc/self/fd")) - before <= 64
            watch.begin()
            tree(root, {f"{place}/policy{cpu}/scaling_max_freq": 2000000 for cpu in range(128)})
            assert "changed from 3000000 to 2000000" in (watch.problem() or "")
        assert len(os.listdir("/proc/self/fd")) == before


class TestGpuByRestart:
    COUNTERS = "gpu=" + ",".join(
        f"clocks_event_reasons_counters.{name}"
        for name in ("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
    )

    def test_time_that_was_counted(self, tmp_path: Path, programs: Path) -> None:
        told = tmp_path / "told"
        told.write_text("1000, 0, 0\n")
        smi(programs, {"gpu=clocks_event_reasons.active": "0x1", self.COUNTERS: f"@{told}"})
        watch = Watch(tmp_path / "empty")
        watch.begin_restart()
        assert watch.restart_problem() is None
        told.write_text("251000, 0, 0\n")
        assert watch.restart_problem() == "the GPU was slowed down for 250 ms"

    def test_an_older_driver_says_what_is_so_now(self, tmp_path: Path, programs: Path) -> None:
        told = tmp_path / "told"
        told.write_text("0x0000000000000004\n")  # the power cap is no fault
        smi(programs, {"gpu=clocks_throttle_reasons.active": f"@{told}"})
        watch = Watch(tmp_path / "empty")
        watch.begin_restart()
        assert watch.restart_problem() is None
        told.write_text("0x0000000000000048\n")
        assert watch.restart_problem() == (
            "the GPU is slowed down: hardware slowdown, hardware thermal slowdown"
        )


class TestRun:
    def test_nothing_changed(self) -> None:
        assert problems_of_run(environment(), environment(load_average=9.0)) == []

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"governor": "powersave"}, "governor changed from performance to powersave"),
            ({"affinity": (0, 1)}, "affinity_cpus changed from 4 to 2"),
            ({"throttle_events": 3}, "processors throttled 3 times"),
        ],
    )
    def test_what_changed(self, change: dict[str, object], said: str) -> None:
        (found,) = problems_of_run(environment(), environment(**change))
        assert found == f"{said} during the run"

    def test_what_could_not_be_read_is_no_change(self) -> None:
        begin = environment(nvpmodel="15W", driver="550.54.14", throttle_events=4)
        end = environment(nvpmodel=None, driver=None, throttle_events=None)
        assert problems_of_run(begin, end) == []


class TestTemperature:
    def test_the_hottest_processor(self, board: Path) -> None:
        assert hottest_c(board) == 51.5  # the PMIC always says 100

    def test_a_gpu_counts(self, board: Path, programs: Path) -> None:
        smi(programs, {"gpu=temperature.gpu": "44\n63"})
        assert hottest_c(board) == 63.0

    def test_disks_and_radios_do_not(self, tmp_path: Path) -> None:
        files: dict[str, object] = {
            "sys/class/hwmon/hwmon0/name": "nvme",
            "sys/class/hwmon/hwmon0/temp1_input": 70000,
            "sys/class/hwmon/hwmon1/name": "k10temp",
            "sys/class/hwmon/hwmon1/temp1_input": 41125,
            "sys/class/hwmon/hwmon1/temp1_label": "Tctl",
        }
        assert hottest_c(tree(tmp_path / "root", files)) == 41.125

    def test_waiting_ends_as_soon_as_it_is_cool(self, board: Path) -> None:
        zone = "sys/class/thermal/thermal_zone1/temp"
        falling = iter([50000, 47000, 46000, 45000, 44000])
        tree(board, {"sys/class/thermal/thermal_zone0/temp": 30000})
        events: list[ProgressEvent] = []

        def sleep(seconds: float) -> None:
            tree(board, {zone: next(falling)})

        wait_until_cool(45.0, progress=events.append, root=board, sleep=sleep)
        assert [e.metrics["hottest_c"] for e in events] == [51.5, 50.0, 47.0, 46.0]
        assert next(falling) == 44000

    def test_one_that_stays_hot(self, board: Path) -> None:
        slept: list[float] = []
        with pytest.raises(UnavailableError, match=r"gpu-thermal is at 51\.5 °C after 20 s"):
            wait_until_cool(45, progress=silent, timeout_s=20, root=board, sleep=slept.append)
        assert sum(slept) == 20

    def test_one_without_sensors(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="shows no temperature"):
            wait_until_cool(45, progress=silent, root=tmp_path, sleep=lambda seconds: None)
