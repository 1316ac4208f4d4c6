"""Shares of peaks: by hand, from targets' published figures, and measured on this CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgessl.benchmarking import peak
from edgessl.benchmarking.result import Workload
from edgessl.benchmarking.roofline import Peaks, measure_peaks, roofline, target_peaks
from edgessl.errors import UnavailableError

PEAKS = Peaks(flops_per_s=100e9, bytes_per_s=10e9, source="made up")


class TestShare:
    def test_arithmetic_limits(self) -> None:
        # 1 ms of arithmetic, 0.2 ms of memory, 4 ms in all.
        found = roofline(Workload(flops=1e8, bytes=2e6), 4e-3, PEAKS)
        assert found.value == pytest.approx(0.25)
        assert found.source == "arithmetic; made up"

    def test_memory_limits(self) -> None:
        found = roofline(Workload(flops=1e8, bytes=3e7), 4e-3, PEAKS)
        assert found.value == pytest.approx(0.75)
        assert found.source == "memory; made up"

    def test_memory_of_unknown_speed_limits_nothing(self) -> None:
        peaks = Peaks(flops_per_s=100e9, bytes_per_s=None, source="made up")
        assert roofline(Workload(flops=1e8, bytes=3e9), 4e-3, peaks).value == pytest.approx(0.25)

    def test_without_a_time_there_is_none(self) -> None:
        found = roofline(Workload(flops=1, bytes=1), 0.0, PEAKS)
        assert (found.value, found.reason) == (None, "no time was measured")


class TestTargets:
    def test_published_figures_and_their_units(self) -> None:
        found = target_peaks("jetson-orin-nano", "int8")
        assert found is not None
        assert (found.flops_per_s, found.bytes_per_s) == (33e12, 102e9)
        assert "33 TOPS in int8 and 102 GB/s" in found.source
        half = target_peaks("jetson-orin-nano", "fp16")
        assert half is not None
        assert half.flops_per_s == 17e12

    def test_without_a_bandwidth(self) -> None:
        found = target_peaks("npu-intel-4000", "int8")
        assert found is not None
        assert (found.flops_per_s, found.bytes_per_s) == (48e12, None)

    @pytest.mark.parametrize(
        ("target", "precision"),
        [
            ("jetson-orin-nano", "fp32"),
            ("jetson-agx-orin-dla", "int8"),  # the GPU's figure is not the accelerator's
            ("jetson-orin-nx", "int8"),  # only sparse ones are published
            ("cpu-x86-64", "int8"),
            ("somebodys-own-target", "int8"),
        ],
    )
    def test_what_nobody_published(self, target: str, precision: str) -> None:
        assert target_peaks(target, precision) is None


class TestMeasured:
    def test_a_plain_product_reaches_no_more_than_the_peak(self) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        found = measure_peaks(1, cpus[:1])
        # Any CPU of this century, and no CPU yet, with one thread.
        assert 1e8 < found.flops_per_s < 2e12
        assert found.bytes_per_s is not None
        assert 1e8 < found.bytes_per_s < 1e12
        assert "1 thread:" in found.source
        assert "float32" in found.source

    def test_cpus_that_are_not_here(self) -> None:
        with pytest.raises(UnavailableError, match="cannot be measured with 1 threads"):
            measure_peaks(1, [4095])

    def test_the_triad_is_one(self) -> None:
        b, c = (np.arange(2 * peak._CHUNK, dtype=np.float32) for _ in range(2))
        a = np.zeros_like(b)
        peak._one_triad((a, b, c))
        np.testing.assert_array_equal(a, b + np.float32(3) * c)

    def test_others_on_the_machine_lower_no_peak(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr("time.perf_counter", lambda: now[0])
        took = iter([9.0, 0.5, 0.25, 0.75, 0.5, 0.5])  # the first call is no measurement

        def call() -> None:
            now[0] += next(took)

        assert peak._least_seconds(call) == 0.25


def test_arrays_are_larger_than_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(peak, "_cache_bytes", lambda: 16 << 20)
    monkeypatch.setattr(peak, "_one_triad", lambda arrays: sizes.append(arrays[0].nbytes))
    monkeypatch.setattr(peak, "_SECONDS", 0.0)
    assert peak._triad(2) > 0
    assert sum(sizes[:2]) == 64 << 20
