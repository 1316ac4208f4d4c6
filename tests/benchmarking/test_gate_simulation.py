"""How often the gate is wrong: 3,000 gates each on noise whose true ratio is known.

The recorded noise is that of a virtual machine with other work on it, `benchmarks/latency/
record_noise.py` wrote it; the heavy-tailed one is worse than that. `benchmarks/latency/
gate_simulation.py` runs more trials and writes what it finds to `benchmarks/results/`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from contracts.gate_trials import (
    Draws,
    figures,
    heavy_tailed,
    verdict_of_restarts,
    verdicts,
)
from edgessl.benchmarking import gate
from edgessl.benchmarking.options import GateOptions
from edgessl.benchmarking.recording import Recording, load_recording

TRIALS = 3000
GATE = GateOptions()


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load_recording(Path(__file__).with_name("recorded") / "noise.samples.json.gz")


@pytest.fixture(scope="module")
def made_up() -> Recording:
    return heavy_tailed(restarts=2000, seed=1)


@pytest.fixture(params=["recorded", "made_up"])
def noise(request: pytest.FixtureRequest) -> Recording:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Recording)
    return found


def shares(
    recording: Recording, options: GateOptions = GATE, *, ratio: float, memory_ratio: float = 1.0
) -> dict[str, float]:
    found = figures(recording)
    draws = Draws.of(len(found), trials=TRIALS, gate=options, seed=0)
    ends = Counter(verdicts(found, draws, options, ratio=ratio, memory_ratio=memory_ratio))
    return {name: count / TRIALS for name, count in ends.items()}


@pytest.mark.parametrize("ratio", [1.0, 1.02])
def test_at_most_one_in_a_hundred_fails_by_mistake(noise: Recording, ratio: float) -> None:
    assert shares(noise, ratio=ratio, memory_ratio=ratio).get("FAIL", 0.0) <= 0.01


def test_five_percent_more_is_found(recorded: Recording) -> None:
    assert shares(recorded, ratio=1.05)["FAIL"] >= 0.99


def test_five_percent_more_never_passes(noise: Recording) -> None:
    assert shares(noise, ratio=1.05).get("PASS", 0.0) <= 0.01


def test_equal_arms_mostly_pass(recorded: Recording) -> None:
    assert shares(recorded, ratio=1.0)["PASS"] > 0.5
    # What remains is the noise of the 90th percentile.
    without_p90 = GateOptions(metrics=("p50", "size", "memory"))
    assert shares(recorded, without_p90, ratio=1.0)["PASS"] > 0.99


def test_a_careless_gate_is_found_out(noise: Recording) -> None:
    careless = GateOptions(alpha=0.4)
    assert shares(noise, careless, ratio=1.02, memory_ratio=1.02)["FAIL"] > 0.05


def test_untrimmed_the_recorded_noise_would_hide_five_percent(
    recorded: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_LEAST_TRIMMED", 1000)
    assert shares(recorded, ratio=1.05)["FAIL"] < 0.9


@pytest.mark.parametrize("ratio", [1.0, 1.02, 1.05])
def test_drawn_figures_end_as_drawn_restarts_do(noise: Recording, ratio: float) -> None:
    found = figures(noise)
    draws = Draws.of(len(found), trials=12, gate=GATE, seed=3)
    fast = verdicts(found, draws, GATE, ratio=ratio, memory_ratio=ratio)
    slow = [
        verdict_of_restarts(noise, restarts, signs, GATE, ratio=ratio, memory_ratio=ratio)
        for restarts, signs in zip(draws.restarts.tolist(), draws.signs.tolist(), strict=True)
    ]
    assert fast == slow
