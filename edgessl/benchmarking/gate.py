"""The gate: whether an arm is slower or larger than its base, as far as the data can tell.

Both arms of a pair are measured in turns, so that what slows the machine for a while slows both.
The figure of a restart is the logarithm of a ratio: for p50 the median over rounds of
log(median of the arm's block / median of the base's block); for p90 the same of 90th percentiles
over rounds that are pooled until both sides have 64 queries; for memory log(peak / peak). Restarts
are fresh processes and thus independent, queries and blocks of one process are not: Student's t
interval is over restarts, and its limits are those of the ratio.

Its confidence is 1 − alpha / looks / (gated metrics with an interval × pairs), two-sided. By
Bonferroni a run whose ratios all are at most `fail_above` ends in FAIL with probability alpha / 2
or less, however its looks and metrics depend on each other, for only lower limits make it fail; a
metric whose ratio is at least `pass_below` passes as rarely. The other half of alpha is kept in
reserve, because noise is not normal and such far tails of t are approximate.

The noise of a CI runner has heavy tails. Medians over blocks take out what disturbs a block. What
remains is other work that lasts for several, and a process that is slow for its whole life: one in
20, by 8 to 16 %, on the machine where this was developed. Both arms are treated alike, so such
noise is symmetric, and for symmetric heavy tails Student's t is conservative: it raises no false
alarms, but it overlooked one in eight arms that were 5 % slower. So from 12 restarts on a sixth of
them is left out at each end, and the interval is that of the trimmed mean. Of 6 restarts none is
left out: the degrees of freedom are worth more. The price: an arm of which fewer than one process
in six is slower is as good as equal. Simulations on recorded and on heavy-tailed noise are in the
tests.

Source: Y. Benjamini, Is the t test really conservative when the parent distribution is long-tailed?
Journal of the American Statistical Association 78 (1983), 645-654.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgessl.benchmarking.options import GateOptions, Metric
from edgessl.benchmarking.recording import ArmRecording, Recording, Restart
from edgessl.benchmarking.result import MetricRatio, Verdict
from edgessl.benchmarking.statistics import Interval, trimmed_t_interval
from edgessl.config import Options
from edgessl.errors import DataError

__all__ = [
    "Judgement",
    "control_problems",
    "decided",
    "interval",
    "interval_confidence",
    "judge",
    "log_ratios",
    "overall",
    "verdict_of",
]

_INTERVAL_METRICS: tuple[Metric, ...] = ("p50", "p90", "memory")
_METRICS: tuple[Metric, ...] = ("p50", "p90", "size", "memory")
_P90_QUERIES = 64
"""Source: MLPerf Inference rules, early stopping: least queries for a 90th percentile."""
_TRIMMED_PART = 6
_LEAST_TRIMMED = 12
_LARGEST_LOG = 700.0
"""Beyond it the exponential overflows; two restarts alone reach that far."""
_WORST_FIRST: tuple[Verdict, ...] = ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")

_Round = tuple[NDArray[np.float64], NDArray[np.float64]]


class Judgement(Options):
    """An arm against a base.

    Attributes:
        metrics: p50, p90, size and memory, gated or not.
        confidence: Of every interval.
        verdict: The worst of the gated metrics; INCONCLUSIVE if metrics are gated and none could
            be taken; None if none is gated.
    """

    arm: str
    against: str
    metrics: tuple[MetricRatio, ...]
    confidence: float
    verdict: Verdict | None


def judge(
    recording: Recording, pairs: Sequence[tuple[str, str]], gate: GateOptions
) -> tuple[Judgement, ...]:
    """Judge every pair by all restarts so far.

    Args:
        recording: Both arms of each pair have the same restarts and rounds.
        pairs: Names of an arm and of its base.
        gate: When a comparison fails.

    Raises:
        DataError: The recording lacks an arm, or arms were not measured in turns.
    """

    def judgement(names: tuple[str, str]) -> Judgement:
        arm, base = (_arm(recording, name) for name in names)
        metrics = tuple(_metric(name, arm, base, gate, len(pairs)) for name in _METRICS)
        verdict = overall(metric.verdict for metric in metrics)
        if verdict is None and gate.metrics:
            verdict = "INCONCLUSIVE"
        return Judgement(
            arm=names[0],
            against=names[1],
            metrics=metrics,
            confidence=interval_confidence(gate, len(pairs)),
            verdict=verdict,
        )

    return tuple(judgement(names) for names in pairs)


def decided(judgements: Iterable[Judgement]) -> bool:
    """Whether more restarts would change nothing: one pair has failed, or all have passed."""
    return overall(judgement.verdict for judgement in judgements) != "INCONCLUSIVE"


def overall(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """The worst: INVALID, FAIL, INCONCLUSIVE, PASS, None."""
    found = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in found), None)


def control_problems(control_p50_ms: Sequence[float], gate: GateOptions) -> tuple[float, list[str]]:
    """Whether the control arm, which never changes, shows that the machine did.

    Args:
        control_p50_ms: Its median in each restart, at least one.
        gate: Says how much is too much.

    Returns:
        Largest over smallest, and a sentence if that is too much.
    """
    slowest, fastest = max(control_p50_ms), min(control_p50_ms)
    ratio = slowest / fastest
    if ratio <= gate.max_control_ratio:
        return ratio, []
    return ratio, [
        f"the control arm took {fastest:.4g} ms in one restart and {slowest:.4g} ms in another, a "
        f"ratio of {ratio:.3f}; above {gate.max_control_ratio:g} the machine changed meanwhile: "
        "run again on a quieter one"
    ]


def interval_confidence(gate: GateOptions, pairs: int) -> float:
    """Confidence of one interval at one look."""
    gated = sum(metric in gate.metrics for metric in _INTERVAL_METRICS)
    return 1 - gate.alpha / len(gate.looks) / max(gated * pairs, 1)


def interval(log_ratios: NDArray[np.float64], gate: GateOptions, *, pairs: int) -> Interval:
    """Where the logarithm of the true ratio lies.

    Args:
        log_ratios: ``(..., restarts)`` float64, all finite.
        gate: Gives the confidence.
        pairs: Arms and bases of the run.
    """
    restarts = log_ratios.shape[-1]
    return trimmed_t_interval(
        log_ratios,
        confidence=interval_confidence(gate, pairs),
        trimmed=restarts // _TRIMMED_PART if restarts >= _LEAST_TRIMMED else 0,
    )


def verdict_of(low: float, high: float, gate: GateOptions) -> Verdict:
    """What an interval of a ratio says; FAIL first, for narrow intervals between both margins."""
    if low > gate.fail_above:
        return "FAIL"
    if high < gate.pass_below:
        return "PASS"
    return "INCONCLUSIVE"


def log_ratios(metric: Metric, arm: ArmRecording, base: ArmRecording) -> NDArray[np.float64]:
    """Logarithm of arm over base in each restart.

    Args:
        metric: p50, p90 or memory.
        arm: Measured in turns with the base.
        base: What it is compared with.

    Returns:
        ``(restarts,)`` float64, NaN where a restart cannot tell.
    """
    pairs = zip(arm.restarts, base.restarts, strict=True)
    if metric == "memory":
        return np.array([_log(a.peak_memory_bytes, b.peak_memory_bytes) for a, b in pairs])
    figure = _p50 if metric == "p50" else _p90
    return np.array([figure(_rounds(a, b)) for a, b in pairs])


def _arm(recording: Recording, name: str) -> ArmRecording:
    if name not in recording.arms:
        raise DataError(
            f"'{name}' is not among the recorded arms {sorted(recording.arms)}; measure again"
        )
    return recording.arms[name]


def _metric(
    name: Metric, arm: ArmRecording, base: ArmRecording, gate: GateOptions, pairs: int
) -> MetricRatio:
    if [len(r.blocks) for r in arm.restarts] != [len(r.blocks) for r in base.restarts]:
        raise DataError("arms with different restarts or rounds cannot be paired; measure again")
    if name == "size":
        return _size(arm.size_bytes, base.size_bytes, len(arm.restarts), gate)
    found = log_ratios(name, arm, base)
    found = found[~np.isnan(found)]
    if not found.size:
        # A system may not tell memory, a short run has no p90; without a median nothing is known.
        blind = name == "p50" and name in gate.metrics
        return _missing(name, _why_missing(name, arm, base), "INCONCLUSIVE" if blind else None)
    mean, low, high = (float(limit) for limit in interval(found, gate, pairs=pairs))
    return MetricRatio(
        metric=name,
        ratio=math.exp(mean),
        ratio_low=_exp(low),
        ratio_high=None if math.isinf(_exp(high)) else _exp(high),
        restarts=found.size,
        verdict=verdict_of(_exp(low), _exp(high), gate) if name in gate.metrics else None,
    )


def _size(arm: int | None, base: int | None, restarts: int, gate: GateOptions) -> MetricRatio:
    if not arm or not base:
        return _missing("size", "an arm has no file whose size could be compared")
    ratio = arm / base
    return MetricRatio(
        metric="size",
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        restarts=restarts,
        verdict=verdict_of(ratio, ratio, gate) if "size" in gate.metrics else None,
    )


def _missing(name: Metric, reason: str, verdict: Verdict | None = None) -> MetricRatio:
    return MetricRatio(
        metric=name,
        ratio=None,
        ratio_low=None,
        ratio_high=None,
        restarts=0,
        verdict=verdict,
        reason=reason,
    )


def _why_missing(name: Metric, arm: ArmRecording, base: ArmRecording) -> str:
    if name == "memory":
        return "this system does not tell the peak memory of a process"
    if name == "p50":
        return "there is no round in which blocks of both arms count"
    most = max(
        (
            min(sum(x.size for x, _ in rounds), sum(y.size for _, y in rounds))
            for rounds in map(_rounds, arm.restarts, base.restarts)
        ),
        default=0,
    )
    return (
        f"a 90th percentile takes {_P90_QUERIES} queries of a restart and there are {most}; "
        "not gated: use more --blocks or longer --block-seconds"
    )


def _rounds(arm: Restart, base: Restart) -> list[_Round]:
    """Rounds in which neither block was dropped."""
    both = zip(arm.blocks, base.blocks, strict=True)
    return [(a, b) for a, b in both if a.size and b.size]


def _p50(rounds: Sequence[_Round]) -> float:
    ratios = [_log(float(np.median(a)), float(np.median(b))) for a, b in rounds]
    return float(np.median(ratios)) if ratios else math.nan


def _p90(rounds: Sequence[_Round]) -> float:
    ratios = [
        _log(float(np.quantile(a, 0.9)), float(np.quantile(b, 0.9))) for a, b in _pools(rounds)
    ]
    return float(np.median(ratios)) if ratios else math.nan


def _pools(rounds: Sequence[_Round]) -> list[_Round]:
    """Join consecutive rounds until both sides have enough queries; the last takes the rest."""
    pools: list[list[_Round]] = []
    pool: list[_Round] = []
    for a, b in rounds:
        pool.append((a, b))
        if all(sum(r[side].size for r in pool) >= _P90_QUERIES for side in (0, 1)):
            pools.append(pool)
            pool = []
    if pools:
        pools[-1] += pool
    return [(np.concatenate([a for a, _ in p]), np.concatenate([b for _, b in p])) for p in pools]


def _log(arm: float | None, base: float | None) -> float:
    """NaN without two positive figures: a clock too coarse, a system that does not tell."""
    if not arm or not base:
        return math.nan
    return math.log(arm / base)


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST_LOG else math.inf
