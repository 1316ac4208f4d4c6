"""A real gate on this machine: equal arms must not fail, a busy wait of a tenth must.

`benchmarks/latency/gate_live.py` does this 60 times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.gate_arms import working
from edgessl.benchmarking import BenchmarkOptions, GateOptions, measure


def test_a_tenth_more_fails_and_nothing_more_does_not(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    # Workers are new interpreters; give them the path that pytest gives this one.
    monkeypatch.setenv("PYTHONPATH", str(root / "tests"))
    options = BenchmarkOptions(
        blocks=4,
        block_seconds=0.05,
        warm_up_seconds=0.1,
        cold_starts=1,
        gate=GateOptions(metrics=("p50",)),
    )
    measurement = measure(
        [working("slower", slowdown=0.1), working("equal")],
        against=[working("base")],
        options=options,
    )
    slower, equal = measurement.result.comparisons
    # A machine that changed meanwhile makes a run invalid; what was measured stays true.
    assert measurement.result.verdict in ("FAIL", "INVALID")
    p50 = slower.metric("p50")
    assert p50.verdict == "FAIL"
    assert p50.ratio_low is not None
    assert p50.ratio_low > 1.02
    assert equal.metric("p50").verdict != "FAIL"
    assert slower.min_cosine == equal.min_cosine == pytest.approx(1.0)
