"""Results that were written earlier: judge one again, or set two side by side.

Two stored results cannot gate: a machine drifts by more from one session to the next than what a
gate looks for. What they can tell is a ratio in units of the control arm, which ran in both
sessions and never changes:

    log ratio = mean over restarts of log(p50 / control p50), this session − the other one

with Welch's interval, as restarts of two sessions are not pairs.

Source: B. L. Welch, The generalization of 'Student's' problem when several different population
variances are involved, Biometrika 34 (1947), 28-35.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pydantic
from numpy.typing import NDArray

from edgessl.benchmarking.environment import differences
from edgessl.benchmarking.gate import Judgement, judge, overall
from edgessl.benchmarking.options import GateOptions, Metric
from edgessl.benchmarking.recording import Recording, load_recording
from edgessl.benchmarking.result import (
    SCHEMA_VERSION,
    ArmResult,
    BenchmarkResult,
    Comparison,
    MetricRatio,
    Verdict,
)
from edgessl.benchmarking.statistics import student_t_quantile
from edgessl.config import Options, describe_validation
from edgessl.errors import DataError, UnavailableError, UsageError

__all__ = [
    "StoredComparison",
    "StoredPair",
    "compare_stored",
    "load_result",
    "load_samples",
    "rejudge",
]

_LARGEST_BYTES = 64 << 20
_LARGEST_LOG = 700.0
"""Beyond it the exponential overflows; two restarts alone reach that far."""
_ADVICE = "between sessions a machine drifts; for a verdict measure both artifacts in one job"


class StoredPair(Options):
    """An arm of one result and an arm of another.

    Attributes:
        metrics: p50 and p90 in units of the control arm, size, memory; no verdicts.
    """

    arm: str
    base: str
    metrics: tuple[MetricRatio, ...]


class StoredComparison(Options):
    """Two results side by side; there is no verdict.

    Attributes:
        control_ratio: The control arm's median, this result over the base: what the machine alone
            did.
        confidence: Of every interval.
        remark: Why there is no verdict, and how to get one.
    """

    created_utc: str
    base_created_utc: str
    control_ratio: float
    confidence: float
    pairs: tuple[StoredPair, ...]
    remark: str = _ADVICE


def load_result(path: str | Path) -> BenchmarkResult:
    """Read what ``edgessl benchmark --json`` wrote.

    Raises:
        DataError: The file is missing, damaged, too large or of another schema version.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
        if len(data) > _LARGEST_BYTES:
            raise DataError(f"{path}: is larger than 64 MiB, so it is no result of a benchmark")
        value: Any = json.loads(data, parse_constant=_refuse)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: is not JSON ({error}); name what edgessl benchmark --json wrote"
        ) from error
    if not isinstance(value, dict) or not {"schema_version", "arms"} <= value.keys():
        raise DataError(f"{path}: is not a result of edgessl benchmark; name what --json wrote")
    version = value["schema_version"]
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: has schema version {version!r:.20}, this edgessl reads {SCHEMA_VERSION}; "
            "measure again"
        )
    try:
        return BenchmarkResult.model_validate(value)
    except pydantic.ValidationError as error:
        raise DataError(f"{path}: {describe_validation(error)}; measure again") from error


def load_samples(result: BenchmarkResult, path: str | Path) -> Recording:
    """Read the queries behind a result.

    Args:
        result: As `load_result` gives it.
        path: Of the result; the samples lie beside it.

    Raises:
        DataError: They were not written, or are missing, damaged or those of another result.
    """
    path = Path(path)
    samples = result.samples
    if samples is None:
        raise DataError(
            f"{path}: names no samples, which judging again takes; measure with --json FILE"
        )
    if Path(samples.file).name != samples.file:
        raise DataError(f"{path}: names samples in another folder, {samples.file!r:.80}")
    place = path.with_name(samples.file)
    if not place.is_file():
        raise DataError(
            f"{place}: is missing, and judging {path.name} again takes it; keep both files together"
        )
    return load_recording(place, sha256=samples.sha256)


def rejudge(result: BenchmarkResult, recording: Recording, gate: GateOptions) -> BenchmarkResult:
    """Judge a result's comparisons again, by all of its restarts.

    An invalid run stays invalid.

    Args:
        result: Its verdicts are replaced.
        recording: Its queries.
        gate: Metrics and margins; the looks still share the error probability.

    Raises:
        DataError: The recording is not that of the result.
        UsageError: The result compares nothing.
    """
    if not result.comparisons:
        raise UsageError(
            "the result compares no arms, so there is nothing to judge; measure with --against"
        )
    pairs = [(c.arm, c.against) for c in result.comparisons]
    invalid = bool(result.harness.problems)

    def judged(before: Comparison, found: Judgement) -> Comparison:
        gated = found.verdict is not None
        verdict: Verdict | None = "INVALID" if invalid and gated else found.verdict
        return before.model_copy(
            update={
                "metrics": found.metrics,
                "confidence": found.confidence,
                "verdict": verdict,
            }
        )

    comparisons = tuple(map(judged, result.comparisons, judge(recording, pairs, gate)))
    return result.model_copy(
        update={
            "protocol": result.protocol.model_copy(update={"gate": gate}),
            "comparisons": comparisons,
            "verdict": overall(c.verdict for c in comparisons),
        }
    )


def compare_stored(
    result: BenchmarkResult, base: BenchmarkResult, *, confidence: float = 0.95
) -> StoredComparison:
    """Set two sessions side by side.

    Args:
        result: Its figures are the numerators.
        base: Compared are arms of equal names, or the only arm of each.
        confidence: Two-sided coverage of every interval.

    Raises:
        DataError: A result holds no sound figures.
        UnavailableError: A run was invalid, or the sessions ran under different conditions; the
            message names them.
        UsageError: No arm of one belongs to an arm of the other.
    """
    for side in (result, base):
        _require_sound(side)
    pairs = _pairs(result, base)
    _require_alike(result, base, pairs)
    return StoredComparison(
        created_utc=result.created_utc,
        base_created_utc=base.created_utc,
        control_ratio=_control_ms(result) / _control_ms(base),
        confidence=confidence,
        pairs=tuple(
            StoredPair(arm=a.name, base=b.name, metrics=_metrics(a, b, result, base, confidence))
            for a, b in pairs
        ),
    )


def _pairs(result: BenchmarkResult, base: BenchmarkResult) -> list[tuple[ArmResult, ArmResult]]:
    named = {arm.name: arm for arm in base.arms}
    found = [(arm, named[arm.name]) for arm in result.arms if arm.name in named]
    if found:
        return found
    if len(result.arms) == len(base.arms) == 1:
        return [(result.arms[0], base.arms[0])]
    raise UsageError(
        f"the results share no arm: {', '.join(a.name for a in result.arms)} here, "
        f"{', '.join(a.name for a in base.arms)} there; measure arms of equal file names"
    )


def _require_alike(
    result: BenchmarkResult,
    base: BenchmarkResult,
    pairs: Sequence[tuple[ArmResult, ArmResult]],
) -> None:
    for name, side in (("first", result), ("second", base)):
        if side.harness.problems:
            raise UnavailableError(
                f"the {name} result is invalid: {side.harness.problems[0]}; measure again"
            )
    found = differences(result.environment, base.environment)
    if not found and result.env_hash != base.env_hash:
        found = {"env_hash": (result.env_hash, base.env_hash)}
    here, there = _conditions(result), _conditions(base)
    found |= {name: (here[name], there[name]) for name in here if here[name] != there[name]}
    for a, b in pairs:
        if a.threads != b.threads:
            found[f"threads of {a.name}"] = (a.threads, b.threads)
    if found:
        listed = "; ".join(f"{name}: {a!r:.60} and {b!r:.60}" for name, (a, b) in found.items())
        raise UnavailableError(
            f"the results were measured under different conditions ({listed}); measure both "
            "artifacts in one job"
        )


def _conditions(result: BenchmarkResult) -> dict[str, object]:
    protocol = result.protocol
    scenario = protocol.scenario
    return {
        "scenario": scenario.scenario,
        "samples per query": scenario.query_size,
        "period_ms": scenario.period_ms if scenario.scenario == "paced" else None,
        "affinity of the arms": protocol.affinity,
        "control arm": result.harness.control,
    }


def _require_sound(result: BenchmarkResult) -> None:
    control = result.harness.control_p50_ms
    figures = [*control, *(p50 for arm in result.arms for p50 in arm.restart_p50_ms() if p50)]
    restarts = {len(control), *(len(arm.block_p50_ms) for arm in result.arms)}
    if not control or len(restarts) > 1 or not all(0 < f < math.inf for f in figures):
        raise DataError(
            f"the result of {result.created_utc} has no sound figure of each restart; measure again"
        )


def _control_ms(result: BenchmarkResult) -> float:
    return float(np.median(result.harness.control_p50_ms))


def _metrics(
    arm: ArmResult,
    other: ArmResult,
    result: BenchmarkResult,
    base: BenchmarkResult,
    confidence: float,
) -> tuple[MetricRatio, ...]:
    p90 = (arm.latency_p90_ms / _control_ms(result)) / (other.latency_p90_ms / _control_ms(base))
    one = "a result keeps one 90th percentile of all restarts, so there is no interval"
    p50s = _logs_by_control(arm, result), _logs_by_control(other, base)
    memory = _logs_of_memory(arm), _logs_of_memory(other)
    return (
        _unpaired("p50", *p50s, confidence),
        _without_interval("p90", p90, one),
        _size(arm.size_bytes, other.size_bytes),
        _unpaired("memory", *memory, confidence),
    )


def _logs_by_control(arm: ArmResult, result: BenchmarkResult) -> NDArray[np.float64]:
    """Median of each restart in units of the control arm's, as logarithms."""
    both = zip(arm.restart_p50_ms(), result.harness.control_p50_ms, strict=True)
    return np.array([math.log(p50 / control) for p50, control in both if p50])


def _logs_of_memory(arm: ArmResult) -> NDArray[np.float64]:
    return np.array([math.log(peak) for peak in arm.peak_memory_by_restart if peak])


def _unpaired(
    metric: Metric, a: NDArray[np.float64], b: NDArray[np.float64], confidence: float
) -> MetricRatio:
    if not a.size or not b.size:
        return _without_interval(metric, None, "one of the results does not tell")
    mean = float(a.mean() - b.mean())
    if min(a.size, b.size) < 2:
        return _without_interval(
            metric, _exp(mean), "one of the results has a single restart, so there is no interval"
        )
    reach = _welch_reach(a, b, confidence)
    return MetricRatio(
        metric=metric,
        ratio=_exp(mean),
        ratio_low=_exp(mean - reach),
        ratio_high=_exp(mean + reach),
        restarts=min(a.size, b.size),
        verdict=None,
    )


def _welch_reach(a: NDArray[np.float64], b: NDArray[np.float64], confidence: float) -> float:
    """Half the width of the interval of the difference of means.

    The degrees of freedom are rounded down, which can only widen it.
    """
    parts = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    total = float(sum(parts))
    if total == 0.0:
        return 0.0
    degrees = total**2 / (parts[0] ** 2 / (a.size - 1) + parts[1] ** 2 / (b.size - 1))
    return student_t_quantile((1 + confidence) / 2, max(1, int(degrees))) * math.sqrt(total)


def _size(arm: int | None, base: int | None) -> MetricRatio:
    if not arm or not base:
        return _without_interval("size", None, "an arm has no file")
    return _without_interval("size", arm / base, None).model_copy(
        update={"ratio_low": arm / base, "ratio_high": arm / base}
    )


def _without_interval(metric: Metric, ratio: float | None, reason: str | None) -> MetricRatio:
    return MetricRatio(
        metric=metric,
        ratio=ratio,
        ratio_low=None,
        ratio_high=None,
        restarts=0,
        verdict=None,
        reason=reason,
    )


def _exp(value: float) -> float | None:
    """None where a ratio is beyond all numbers."""
    return math.exp(value) if value < _LARGEST_LOG else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
