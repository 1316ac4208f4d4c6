"""Ratios and verdicts of made-up recordings whose answer is known."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgessl.benchmarking.gate import (
    Judgement,
    control_problems,
    decided,
    interval_confidence,
    judge,
    overall,
)
from edgessl.benchmarking.options import GateOptions, Metric
from edgessl.benchmarking.recording import (
    ArmRecording,
    Recording,
    Restart,
    load_recording,
    save_recording,
)
from edgessl.benchmarking.result import MetricRatio, Verdict
from edgessl.errors import DataError

GATE = GateOptions()
MB = 1_000_000


def recorded(
    factor: float = 1.0,
    *,
    restarts: int = 6,
    blocks: int = 5,
    queries: int = 40,
    noise: float = 0.002,
    memory: float | None = 1.0,
    size: float | None = 1.0,
    seed: int = 0,
) -> Recording:
    """An arm and its base on a machine that becomes up to three times slower from block to block.

    What slows both in a round must not matter.
    """
    rng = np.random.default_rng(seed)
    drift = rng.uniform(1, 3, (restarts, blocks))

    def arm(times: float, size: float | None, memory: float | None) -> ArmRecording:
        made = [
            Restart(
                [times * d * np.exp(rng.normal(0, noise, queries)) for d in row],
                None if memory is None else int(100 * MB * memory) + index,
            )
            for index, row in enumerate(drift)
        ]
        return ArmRecording(made, None if size is None else int(MB * size))

    return Recording({"arm": arm(factor, size, memory), "base": arm(1.0, 1.0, 1.0)})


def judged(recording: Recording, gate: GateOptions = GATE) -> Judgement:
    (found,) = judge(recording, [("arm", "base")], gate)
    return found


def metric(judgement: Judgement, name: Metric) -> MetricRatio:
    return next(m for m in judgement.metrics if m.metric == name)


def gating(*metrics: Metric) -> GateOptions:
    return GateOptions(metrics=metrics)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.5, "PASS"), (1.0, "PASS"), (1.1, "FAIL"), (3.0, "FAIL")]
)
def test_a_known_ratio_is_found_and_judged(factor: float, verdict: Verdict) -> None:
    found = judged(recorded(factor))
    assert [m.metric for m in found.metrics] == ["p50", "p90", "size", "memory"]
    assert found.verdict == verdict
    assert found.confidence == pytest.approx(1 - 0.01 / 3 / 3)
    for name in ("p50", "p90"):
        ratio = metric(found, name)
        assert ratio.ratio == pytest.approx(factor, rel=0.01)
        assert ratio.ratio_low is not None
        assert ratio.ratio_high is not None
        assert ratio.ratio_low < factor < ratio.ratio_high < 1.05 * ratio.ratio_low
        assert (ratio.restarts, ratio.verdict, ratio.reason) == (6, verdict, None)
    assert metric(found, "memory").ratio == pytest.approx(1.0)
    assert metric(found, "memory").verdict == "PASS"


def test_a_slow_tail_moves_p90_and_leaves_p50() -> None:
    recording = recorded(queries=80)
    for restart in recording.arms["arm"].restarts:
        for block in restart.blocks:
            block[:16] *= 1.5  # a fifth of the queries
    found = judged(recording)
    assert metric(found, "p50").verdict == "PASS"
    assert metric(found, "p90").verdict == "FAIL"
    assert metric(found, "p90").ratio == pytest.approx(1.5, rel=0.01)
    assert found.verdict == "FAIL"


def test_figures_of_a_restart_by_hand() -> None:
    """The median over rounds of log ratios of block medians, then their mean over restarts."""
    blocks_of = [[(1.0, 1.0), (2.0, 1.0), (9.0, 1.0)], [(4.0, 1.0), (4.0, 1.0), (1.0, 2.0)]]
    arms = [
        ArmRecording([Restart([np.full(3, pair[side]) for pair in r]) for r in blocks_of])
        for side in (0, 1)
    ]
    found = metric(judged(Recording({"arm": arms[0], "base": arms[1]})), "p50")
    assert found.ratio == pytest.approx(math.sqrt(2 * 4))
    # Half the distance of the logarithms is both the deviation of the mean and the reach / t.
    tail = 0.01 / 9 / 2
    t = math.tan(math.pi * (0.5 - tail))  # of one degree of freedom
    assert found.ratio_low == pytest.approx(math.exp(math.log(8) / 2 - t * math.log(2) / 2))


@pytest.mark.parametrize(("restarts", "verdict"), [(6, "INCONCLUSIVE"), (12, "PASS")])
def test_processes_that_are_slow_for_life(restarts: int, verdict: Verdict) -> None:
    """Of twelve, two at each end are left out; of six, all count."""
    recording = recorded(restarts=restarts)
    for name in ("arm", "base"):
        for block in recording.arms[name].restarts[0 if name == "arm" else 1].blocks:
            block *= 1.15
    p50 = metric(judged(recording), "p50")
    assert p50.verdict == verdict
    assert p50.restarts == restarts


def test_dropped_blocks_take_their_round_with_them() -> None:
    recording = recorded(blocks=3)
    slow = recording.arms["arm"].restarts[0].blocks
    base = recording.arms["base"].restarts[0].blocks
    # Without its partner this would be the median of two rounds.
    slow[0][:] *= 100
    base[0] = base[0][:0]  # type: ignore[index]
    assert judged(recording).verdict == "PASS"
    assert metric(judged(recording), "p50").restarts == 6


def test_a_restart_without_a_round_is_left_out() -> None:
    recording = recorded(restarts=7)
    blocks = recording.arms["arm"].restarts[3].blocks
    for index in range(len(blocks)):
        blocks[index] = blocks[index][:0]  # type: ignore[index]
    found = judged(recording)
    assert metric(found, "p50").restarts == metric(found, "p90").restarts == 6
    assert metric(found, "memory").restarts == 7


def test_without_any_round_nothing_passes() -> None:
    recording = recorded(queries=0)
    found = judged(recording)
    assert found.verdict == "INCONCLUSIVE"
    assert metric(found, "p50").verdict == "INCONCLUSIVE"
    assert metric(found, "p50").ratio is None
    assert "no round" in str(metric(found, "p50").reason)
    assert metric(found, "size").verdict == "PASS"
    assert judged(recording, gating("size")).verdict == "PASS"


def test_p90_pools_rounds_up_to_64_queries() -> None:
    # 5 blocks of 13 queries make 65: one pool.
    assert metric(judged(recorded(1.1, queries=13)), "p90").verdict == "FAIL"
    found = judged(recorded(1.0, queries=12))
    p90 = metric(found, "p90")
    assert (p90.ratio, p90.ratio_low, p90.ratio_high, p90.restarts) == (None, None, None, 0)
    assert p90.verdict is None
    assert "takes 64 queries of a restart and there are 60" in str(p90.reason)
    assert "--blocks" in str(p90.reason)
    assert found.verdict == "PASS"


def test_the_last_pool_takes_the_rest() -> None:
    recording = recorded(queries=30, noise=0.0)  # pools of rounds 1 to 3 and 4 to 5 make one
    for restart in recording.arms["arm"].restarts:
        restart.blocks[4][:] *= 5  # a fifth of the only pool: its 90th percentile
    assert metric(judged(recording), "p90").ratio > 1.2  # type: ignore[operator]


def test_what_cannot_be_read_is_not_gated() -> None:
    found = judged(recorded(memory=None, size=None))
    assert metric(found, "memory").ratio is None
    assert metric(found, "memory").verdict is None
    assert "peak memory" in str(metric(found, "memory").reason)
    assert "no file" in str(metric(found, "size").reason)
    assert found.verdict == "PASS"
    # Asked for size alone, and there is none: that is no PASS.
    assert judged(recorded(size=None), gating("size")).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("size", "verdict"),
    [(1.0, "PASS"), (1.02, "PASS"), (1.03, "FAIL"), (1.06, "FAIL"), (0.2, "PASS")],
)
def test_size_is_exact(size: float, verdict: Verdict) -> None:
    found = judged(recorded(size=size))
    ratio = metric(found, "size")
    assert ratio.ratio == ratio.ratio_low == ratio.ratio_high == size
    assert found.verdict == ratio.verdict == verdict


@pytest.mark.parametrize(("memory", "verdict"), [(1.0, "PASS"), (1.2, "FAIL")])
def test_memory(memory: float, verdict: Verdict) -> None:
    found = judged(recorded(memory=memory))
    assert metric(found, "memory").ratio == pytest.approx(memory, rel=1e-6)
    assert found.verdict == metric(found, "memory").verdict == verdict


def test_fail_first_between_both_margins() -> None:
    assert judged(recorded(1.035, restarts=24)).verdict == "FAIL"


def test_equal_times_have_no_spread() -> None:
    found = judged(recorded(noise=0.0))
    p50 = metric(found, "p50")
    assert (p50.ratio, p50.ratio_low, p50.ratio_high) == (1.0, 1.0, 1.0)
    assert found.verdict == "PASS"


def test_noise_that_is_too_large_decides_nothing() -> None:
    assert judged(recorded(1.03, noise=1.0)).verdict == "INCONCLUSIVE"


def test_one_restart_decides_nothing() -> None:
    found = judged(recorded(50.0, restarts=1), gating("p50"))
    p50 = metric(found, "p50")
    assert p50.ratio == pytest.approx(50, rel=0.01)
    assert (p50.ratio_low, p50.ratio_high) == (0.0, None)
    assert found.verdict == p50.verdict == "INCONCLUSIVE"


def test_two_restarts_far_apart_stay_finite_or_say_none() -> None:
    recording = recorded(restarts=2)
    recording.arms["arm"].restarts[0].blocks[0][:] *= 1e9
    for block in recording.arms["arm"].restarts[1].blocks:
        block *= 1e-9
    p50 = metric(judged(recording), "p50")
    assert p50.ratio_high is None
    assert p50.ratio_low == 0.0
    assert p50.verdict == "INCONCLUSIVE"


def test_times_of_zero_are_no_times() -> None:
    recording = recorded(restarts=7)
    for block in recording.arms["arm"].restarts[0].blocks:
        block[:] = 0.0
    found = judged(recording)
    assert metric(found, "p50").restarts == 6
    assert found.verdict == "PASS"


def test_stored_times_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "r.samples.json.gz"
    recording = recorded()
    save_recording(recording, place)
    assert judged(load_recording(place)).verdict == "PASS"
    text = gzip.decompress(place.read_bytes()).decode()
    for wrong in ("Infinity", "NaN", "-1.0"):
        place.write_bytes(gzip.compress(text.replace("[[", f"[[{wrong},", 1).encode()))
        with pytest.raises(DataError, match="blocks_ms"):
            load_recording(place)


def test_nothing_gated_has_no_verdict() -> None:
    found = judged(recorded(9.0), gating())
    assert found.verdict is None
    assert {m.verdict for m in found.metrics} == {None}
    assert metric(found, "p50").ratio == pytest.approx(9, rel=0.01)
    assert decided([found])


def test_errors_are_divided_among_looks_metrics_and_pairs() -> None:
    assert interval_confidence(GATE, 1) == pytest.approx(1 - 0.01 / 3 / 3)
    assert interval_confidence(GATE, 4) == pytest.approx(1 - 0.01 / 3 / 3 / 4)
    assert interval_confidence(GateOptions(metrics=("p50", "size"), looks=(6,)), 2) == 0.995
    for gate in (gating("size"), gating()):
        assert interval_confidence(gate, 1) == pytest.approx(1 - 0.01 / 3)
    pairs = [("arm", "base"), ("base", "arm")]
    found = judge(recorded(1.1), pairs, GATE)
    assert [(f.arm, f.against, f.verdict) for f in found] == [
        ("arm", "base", "FAIL"),
        ("base", "arm", "PASS"),
    ]
    assert {f.confidence for f in found} == {interval_confidence(GATE, 2)}


def test_arms_that_were_not_measured_in_turns() -> None:
    recording = recorded()
    with pytest.raises(DataError, match=r"'else' is not among the recorded arms \['arm', 'base'\]"):
        judge(recording, [("else", "base")], GATE)
    shorter = ArmRecording(recording.arms["base"].restarts[:-1])
    with pytest.raises(DataError, match="cannot be paired"):
        judged(Recording({"arm": recording.arms["arm"], "base": shorter}))


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ((), None),
        ((None, None), None),
        ((None, "PASS"), "PASS"),
        (("PASS", "INCONCLUSIVE", None), "INCONCLUSIVE"),
        (("INCONCLUSIVE", "FAIL", "PASS"), "FAIL"),
        (("FAIL", "INVALID"), "INVALID"),
    ],
)
def test_the_worst_verdict_counts(
    verdicts: Sequence[Verdict | None], worst: Verdict | None
) -> None:
    assert overall(verdicts) == worst


@pytest.mark.parametrize(
    ("verdicts", "done"),
    [
        (("PASS", "PASS"), True),
        (("PASS", "INCONCLUSIVE"), False),
        (("FAIL", "INCONCLUSIVE"), True),
        (("INCONCLUSIVE",), False),
    ],
)
def test_when_to_stop(verdicts: Sequence[Verdict], done: bool) -> None:
    some = judged(recorded())
    assert decided(some.model_copy(update={"verdict": v}) for v in verdicts) == done


def test_a_control_arm_that_moved_says_how_far() -> None:
    ratio, problems = control_problems([2.0, 1.9, 2.2], GATE)
    assert ratio == pytest.approx(2.2 / 1.9)
    assert problems == []
    ratio, (problem,) = control_problems([2.0, 1.0, 1.5], GATE)
    assert ratio == 2.0
    assert "1 ms in one restart and 2 ms in another" in problem
    assert control_problems([3.0], GATE) == (1.0, [])
