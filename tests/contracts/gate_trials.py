"""Thousands of gates on resampled noise whose true ratio is known.

A restart's figure depends on that restart alone, so to draw restarts is to draw their figures;
`verdicts` does that for all trials at once, with the gate's own figures, intervals and verdicts.
`verdict_of_restarts` puts drawn restarts together and asks `judge`: the slow way to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgessl.benchmarking.gate import (
    decided,
    interval,
    judge,
    log_ratios,
    overall,
    verdict_of,
)
from edgessl.benchmarking.options import GateOptions, Metric
from edgessl.benchmarking.recording import ArmRecording, Recording, Restart
from edgessl.benchmarking.result import Verdict

__all__ = ["ARM", "BASE", "Draws", "figures", "heavy_tailed", "verdict_of_restarts", "verdicts"]

ARM, BASE = "arm", "base"
_METRICS: tuple[Metric, ...] = ("p50", "p90", "memory")


@dataclass(frozen=True)
class Draws:
    """Which restarts each trial sees.

    Attributes:
        restarts: ``(trials, restarts)`` int64, numbers of recorded restarts.
        signs: The same shape; −1 where arm and base have changed places. Both were the same
            program, so that nothing but chance says which is which, and the true ratio is 1.
    """

    restarts: NDArray[np.int64]
    signs: NDArray[np.float64]

    @classmethod
    def of(cls, recorded: int, *, trials: int, gate: GateOptions, seed: int) -> Draws:
        """Restarts at random, with replacement, as many as the last look takes."""
        rng = np.random.default_rng(seed)
        shape = (trials, gate.looks[-1])
        return cls(rng.integers(recorded, size=shape), rng.choice((-1.0, 1.0), size=shape))


def figures(recording: Recording) -> NDArray[np.float64]:
    """``(restarts, 3)`` float64: log ratios of p50, p90 and memory."""
    arm, base = recording.arms[ARM], recording.arms[BASE]
    return np.stack([log_ratios(metric, arm, base) for metric in _METRICS], axis=1)


def verdicts(
    noise: NDArray[np.float64],
    draws: Draws,
    gate: GateOptions,
    *,
    ratio: float,
    memory_ratio: float = 1.0,
) -> list[Verdict]:
    """How each trial ends.

    Args:
        noise: What `figures` gives.
        draws: Which restarts each trial sees.
        gate: Which metrics count; sizes do not, they are equal.
        ratio: True ratio of all times.
        memory_ratio: True ratio of the memory.
    """
    shift = np.log([ratio, ratio, memory_ratio])
    gated = [index for index, metric in enumerate(_METRICS) if metric in gate.metrics]
    samples = (noise[draws.restarts] * draws.signs[..., None] + shift)[..., gated]
    ends: list[Verdict] = ["INCONCLUSIVE"] * len(samples)
    for look in gate.looks:
        found = interval(np.moveaxis(samples[:, :look], 1, -1), gate, pairs=1)
        low, high = np.exp(found.low).tolist(), np.exp(found.high).tolist()
        for trial, end in enumerate(ends):
            if end == "INCONCLUSIVE":
                limits = zip(low[trial], high[trial], strict=True)
                ends[trial] = overall(verdict_of(*pair, gate) for pair in limits) or end
    return ends


def verdict_of_restarts(
    recording: Recording,
    restarts: Sequence[int],
    signs: Sequence[float],
    gate: GateOptions,
    *,
    ratio: float,
    memory_ratio: float = 1.0,
) -> Verdict | None:
    """How one trial ends, by `judge` on a recording that is put together from drawn restarts."""

    def arm(name: str, times: float, memory: float, look: int) -> ArmRecording:
        other = {ARM: BASE, BASE: ARM}[name]
        chosen = [
            recording.arms[name if sign > 0 else other].restarts[restart]
            for restart, sign in list(zip(restarts, signs, strict=True))[:look]
        ]
        return ArmRecording(
            [
                Restart(
                    [block * times for block in r.blocks],
                    # In parts of a byte, which the ratio is not rounded to.
                    None if r.peak_memory_bytes is None else r.peak_memory_bytes * memory,  # type: ignore[arg-type]
                )
                for r in chosen
            ],
            size_bytes=1000,
        )

    for look in gate.looks:
        judged = judge(
            Recording({ARM: arm(ARM, ratio, memory_ratio, look), BASE: arm(BASE, 1.0, 1.0, look)}),
            [(ARM, BASE)],
            gate,
        )
        if decided(judged):
            break
    return judged[0].verdict


def heavy_tailed(*, restarts: int, seed: int) -> Recording:
    """Equal arms on a bad machine: Student's t with 3 degrees of freedom at each level, and bursts.

    Log times are the sum of what both arms of a restart share, of what a process keeps to its end,
    of what a block keeps, and of each query's own. A burst slows a block by a fifth up to double;
    one process in fifty is slow for good, as one whose memory lies badly.
    """
    rng = np.random.default_rng(seed)
    blocks, queries = 5, 40
    shared = 0.05 * rng.standard_t(3, (restarts, 1, 1, 1))
    process = 0.006 * rng.standard_t(3, (restarts, 2, 1, 1))
    unlucky = (rng.random((restarts, 2, 1, 1)) < 0.02) * rng.uniform(0.02, 0.1, (restarts, 2, 1, 1))
    block = 0.006 * rng.standard_t(3, (restarts, 2, blocks, 1))
    burst = (rng.random((restarts, 2, blocks, 1)) < 0.05) * rng.uniform(
        np.log(1.2), np.log(2.0), (restarts, 2, blocks, 1)
    )
    query = 0.02 * np.abs(rng.standard_t(3, (restarts, 2, blocks, queries)))
    times = np.exp(shared + process + unlucky + block + burst + query)
    memory = np.exp(0.004 * rng.standard_t(3, (restarts, 2))) * 1e8
    return Recording(
        {
            name: ArmRecording(
                [
                    Restart(list(of), int(peak))
                    for of, peak in zip(times[:, index], memory[:, index], strict=True)
                ],
                size_bytes=1000,
            )
            for index, name in enumerate((ARM, BASE))
        }
    )
