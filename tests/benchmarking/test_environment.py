"""What a machine is, told by made-up trees of system files and made-up programs."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import psutil
import pytest

from contracts.benchmark_results import environment
from contracts.machine import fake_program, jetson, smi, tree
from edgessl.benchmarking import probing
from edgessl.benchmarking.environment import (
    Environment,
    StealMeter,
    differences,
    env_hash,
    fingerprint,
)

X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu avx2"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def look(tmp_path: Path, files: dict[str, object]) -> Environment:
    return fingerprint(tree(tmp_path / "root", files))


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    found = fingerprint(tmp_path / "empty")
    unknown = ("module", "gpu", "driver", "jetpack", "nvpmodel", "jetson_clocks", "governor")
    assert {getattr(found, name) for name in unknown} == {None}
    assert (found.cgroup_cpus, found.virtual, found.throttle_events) == (None, None, None)
    assert found.temperatures_c == {}
    assert StealMeter(tmp_path / "empty").percent() is None


def test_this_machine_by_other_means() -> None:
    found = fingerprint()
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.affinity == tuple(psutil.Process().cpu_affinity() or ())
    assert found.system.split() == [platform.system(), platform.release(), platform.machine()]
    assert found.packages["numpy"]


def test_no_names_of_hosts_or_people(tmp_path: Path) -> None:
    words = {platform.node(), os.environ.get("USER", ""), str(Path.home())} - {"", "/", "root"}
    text = fingerprint(jetson(tmp_path)).model_dump_json() + fingerprint().model_dump_json()
    assert not [word for word in words if len(word) > 2 and word in text]


class TestJetson:
    def test_all_that_it_says(self, tmp_path: Path, programs: Path) -> None:
        fake_program(
            programs, "nvpmodel", "echo 'NVPM WARN: fan'; echo 'NV Power Mode: 15W'; echo 0"
        )
        found = fingerprint(jetson(tmp_path / "root"))
        assert found.module == "NVIDIA Jetson Orin Nano Developer Kit"
        assert (found.gpu, found.driver) == ("Jetson Orin Nano", "36.4.3")
        assert (found.jetpack, found.nvpmodel) == ("36.4.3", "15W")
        assert (found.jetson_clocks, found.governor) == (True, "schedutil")
        # The zone's twin in hwmon is left out; two excess currents were counted.
        assert found.temperatures_c == {
            "cpu-thermal": 48.312,
            "gpu-thermal": 51.5,
            "PMIC-Die": 100.0,
        }
        assert found.throttle_events == 2
        assert found.virtual is False

    def test_without_the_program_the_mode_is_a_number(self, tmp_path: Path) -> None:
        assert fingerprint(jetson(tmp_path / "root")).nvpmodel == "mode 2"

    @pytest.mark.parametrize(
        "limit",
        [
            "sys/class/devfreq/17000000.gpu/min_freq",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq",
        ],
    )
    def test_one_free_clock_is_not_pinned(self, tmp_path: Path, limit: str) -> None:
        root = tree(jetson(tmp_path / "root"), {limit: 306000})
        assert fingerprint(root).jetson_clocks is False

    def test_a_throttle_that_is_active_counts(self, tmp_path: Path) -> None:
        state = "sys/class/thermal/cooling_device2/cur_state"
        root = tree(jetson(tmp_path / "root"), {state: 1})
        assert fingerprint(root).throttle_events == 3


class TestNvidia:
    FIELDS = "gpu=name,driver_version,temperature.gpu"

    def test_what_the_program_says(self, tmp_path: Path, programs: Path) -> None:
        smi(
            programs,
            {
                self.FIELDS: "NVIDIA RTX A2000, 550.54.14, 61",
                # Idle, and slowed down by heat in software.
                "gpu=clocks_throttle_reasons.active": "0x0000000000000021",
            },
        )
        found = look(tmp_path, {"proc/cpuinfo": X86})
        assert (found.gpu, found.driver) == ("NVIDIA RTX A2000", "550.54.14")
        assert found.temperatures_c == {"GPU": 61.0}
        assert found.throttle_events == 1

    def test_what_it_does_not_know(self, tmp_path: Path, programs: Path) -> None:
        smi(programs, {self.FIELDS: "Orin (nvgpu), [N/A], [Not Supported]"})
        found = look(tmp_path, {"proc/cpuinfo": X86})
        assert (found.gpu, found.driver) == ("Orin (nvgpu)", None)
        assert found.temperatures_c == {}

    def test_without_the_program_the_kernel_says(self, tmp_path: Path) -> None:
        version = (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
            "GCC version:  gcc version 12.3.0"
        )
        found = look(
            tmp_path,
            {
                "proc/driver/nvidia/version": version,
                "proc/driver/nvidia/gpus/0000:01:00.0/information": (
                    "Model: \t\t NVIDIA H200\nIRQ:   \t\t 100"
                ),
            },
        )
        assert (found.gpu, found.driver) == ("NVIDIA H200", "570.86.15")

    def test_a_program_that_hangs_is_given_up(
        self, tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probing, "_TIMEOUT_S", 0.2)
        fake_program(programs, "nvidia-smi", "exec /bin/sleep 60")
        begin = time.monotonic()
        assert look(tmp_path, {"proc/cpuinfo": X86}).gpu is None
        assert time.monotonic() - begin < 30

    def test_a_program_that_fails(self, tmp_path: Path, programs: Path) -> None:
        fake_program(programs, "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
        assert look(tmp_path, {"proc/cpuinfo": X86}).gpu is None


class TestCpu:
    def test_intel_counts_each_core_and_each_package_once(self, tmp_path: Path) -> None:
        files: dict[str, object] = {}
        for cpu, core in ((0, 0), (1, 1), (2, 0), (3, 1)):
            place = f"sys/devices/system/cpu/cpu{cpu}"
            files |= {
                f"{place}/topology/core_id": core,
                f"{place}/topology/physical_package_id": 0,
                f"{place}/thermal_throttle/core_throttle_count": 10 + core,
                f"{place}/thermal_throttle/package_throttle_count": 100,
            }
        assert look(tmp_path, files).throttle_events == 10 + 11 + 100

    def test_groups_with_different_governors(self, tmp_path: Path) -> None:
        place = "sys/devices/system/cpu"
        files = {
            f"{place}/cpufreq/policy0/scaling_governor": "schedutil",
            f"{place}/cpufreq/policy4/scaling_governor": "performance",
        }
        assert look(tmp_path, {**files}).governor == "performance, schedutil"

    def test_an_old_kernel_has_clocks_per_cpu(self, tmp_path: Path) -> None:
        files = {
            f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor": "powersave" for n in (0, 1)
        }
        assert look(tmp_path, {**files}).governor == "powersave"

    @pytest.mark.parametrize(
        ("files", "virtual"),
        [
            ({"proc/cpuinfo": X86}, False),
            ({"proc/cpuinfo": X86 + " hypervisor"}, True),
            ({"proc/device-tree/model": "linux,dummy-virt\0"}, True),
            ({"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}, False),
            ({"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd"}, None),
        ],
    )
    def test_virtual(self, tmp_path: Path, files: dict[str, object], virtual: bool | None) -> None:
        assert look(tmp_path, files).virtual is virtual

    def test_a_raspberry_pi_says_when_it_throttles(self, tmp_path: Path) -> None:
        place = "sys/devices/platform/soc/soc:firmware/get_throttled"
        # Under-voltage now and before; then only before.
        assert look(tmp_path, {place: "50005"}).throttle_events == 1
        assert look(tmp_path, {place: "50000"}).throttle_events == 0


class TestCgroup:
    def test_version_2_takes_the_least_of_all_levels(self, tmp_path: Path) -> None:
        files = {
            "proc/self/cgroup": "0::/slice/unit",
            "sys/fs/cgroup/slice/unit/cpu.max": "max 100000",
            "sys/fs/cgroup/slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/other/cpu.max": "10000 100000",
        }
        assert look(tmp_path, {**files}).cgroup_cpus == 1.5

    def test_a_container_sees_its_own_root(self, tmp_path: Path) -> None:
        files = {"proc/self/cgroup": "0::/../../x", "sys/fs/cgroup/cpu.max": "50000 100000"}
        assert look(tmp_path, {**files}).cgroup_cpus == 0.5

    @pytest.mark.parametrize(("quota", "cpus"), [(250000, 2.5), (-1, None)])
    def test_version_1(self, tmp_path: Path, quota: int, cpus: float | None) -> None:
        files = {
            "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a/b\n0::/",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": quota,
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": 100000,
        }
        assert look(tmp_path, {**files}).cgroup_cpus == cpus


def test_steal(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/stat": "cpu  100 0 50 800 10 0 5 20 7 0\ncpu0 1 1"})
    meter = StealMeter(root)
    assert meter.percent() is None  # no time has passed
    # 30 more of 200 ticks; guest time is contained in user time.
    tree(tmp_path, {"proc/stat": "cpu  150 0 60 910 10 0 5 50 57 0\ncpu0 1 1"})
    assert meter.percent() == pytest.approx(15.0)


class TestCompared:
    def test_what_changes_by_itself_is_no_difference(self) -> None:
        a = environment()
        b = environment(
            load_average=7.0,
            temperatures_c={"package": 90.0},
            throttle_events=12,
            steal_percent=4.0,
            memory_bytes=a.memory_bytes - 100_000_000,
            affinity=(4, 5, 6, 7),
        )
        assert differences(a, b) == {}
        assert env_hash(a) == env_hash(b)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("governor", "powersave"),
            ("nvpmodel", "15W"),
            ("jetson_clocks", True),
            ("driver", "550.54.14"),
            ("system", "Linux 6.8 x86_64"),
            ("cgroup_cpus", 2.0),
            ("python", "3.12.1"),
            ("packages", {"numpy": "2.3.0", "onnxruntime": "1.30.0"}),
            ("virtual", True),
        ],
    )
    def test_what_must_agree(self, field: str, value: object) -> None:
        a, b = environment(), environment(**{field: value})
        assert differences(a, b) == {field: (getattr(a, field), value)}
        assert env_hash(a) != env_hash(b)

    def test_memory_and_affinity_in_coarse_steps(self) -> None:
        b = environment(memory_bytes=8 << 30, affinity=(0,))
        assert differences(environment(), b) == {"memory_gib": (16, 8), "affinity_cpus": (4, 1)}
