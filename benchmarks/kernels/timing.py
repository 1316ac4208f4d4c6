"""Measure rivals in turns: time as quantiles, memory as a peak, and the matmul ceiling."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = [
    "Clock",
    "CudaClock",
    "Passes",
    "WallClock",
    "captured",
    "in_turns",
    "matmul_flops",
    "peak_extra_bytes",
    "reason",
]

_QUANTILES = (0.2, 0.5, 0.8)
MOST_ROUNDS = 1000
_CACHE_BYTES = 256 << 20
_HEAD_START_CYCLES = 2_000_000
"""About a millisecond: time to launch all of a pass before its first kernel may run."""


class Clock(Protocol):
    """Something that times work."""

    def milliseconds(self, prepare: Callable[[], Any], work: Callable[[Any], Any]) -> float:
        """How long ``work`` takes, on what ``prepare`` gave; preparation does not count."""


class CudaClock:
    """CUDA events around work, with the cache emptied and the launches ahead of the GPU.

    So a figure is the GPU's time. The stream is synchronised before it is read.
    """

    def __init__(self) -> None:
        self._cache = torch.empty(_CACHE_BYTES, dtype=torch.int8, device="cuda")

    def milliseconds(self, prepare: Callable[[], Any], work: Callable[[Any], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        given = prepare()
        self._cache.zero_()
        torch.cuda._sleep(_HEAD_START_CYCLES)
        start.record()
        kept = work(given)
        end.record()
        torch.cuda.synchronize()
        del kept
        return float(start.elapsed_time(end))


class WallClock:
    """For machines without a GPU, to run this code at all."""

    def milliseconds(self, prepare: Callable[[], Any], work: Callable[[Any], Any]) -> float:
        given = prepare()
        start = time.perf_counter()
        work(given)
        return (time.perf_counter() - start) * 1e3


class Passes:
    """Forward, backward and both of one loss."""

    names = ("forward", "backward", "both")

    def __init__(self, loss: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self._loss = loss
        self._inputs = inputs

    def forward(self, _: Any = None) -> Tensor:
        """The loss, with what its backward needs."""
        return self._loss(*self._inputs)

    def backward(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all inputs."""
        return torch.autograd.grad(loss, self._inputs)

    def both(self, _: Any = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss and gradients."""
        loss = self.forward()
        return loss, self.backward(loss)

    def milliseconds(self, name: str, clock: Clock) -> float:
        """One measurement of the pass of this name."""
        if name == "backward":
            return clock.milliseconds(self.forward, self.backward)
        return clock.milliseconds(lambda: None, self.forward if name == "forward" else self.both)


def captured(passes: Passes) -> Callable[[Any], None]:
    """Both passes as a CUDA graph: replaying it costs one launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            passes.both()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = passes.both()

    def replay(_: Any) -> None:
        graph.replay()
        assert kept  # the graph writes into these tensors

    return replay


def in_turns(
    measurements: Mapping[str, Callable[[], float]], *, seconds: float, least: int, seed: int
) -> dict[str, dict[str, float]]:
    """Rounds in which each measurement is taken once, in a random order.

    Args:
        measurements: Name → a function that measures once, in milliseconds.
        seconds: How long all of it may take; decides how many rounds there are.
        least: Rounds at least.
        seed: Of the orders.

    Returns:
        Name → quantiles and the number of rounds, or why there are none.
    """
    rounds, began = least, time.perf_counter()
    found: dict[str, list[float]] = {name: [] for name in measurements}
    failed: dict[str, dict[str, Any]] = {}
    order = list(measurements)
    shuffle = random.Random(seed).shuffle
    done = 0
    while done < rounds:
        shuffle(order)
        for name in tuple(order):
            try:
                found[name].append(measurements[name]())
            # Memory that one rival needs may be short only beside what the others keep.
            except torch.OutOfMemoryError as error:
                order.remove(name)
                failed[name] = {"why": reason(error)}
        done += 1
        if done == 1:  # it still warms up: it only tells how many rounds there is time for
            found = {name: [] for name in measurements}
            rounds = max(least, int(seconds / (time.perf_counter() - began + 1e-9)))
            rounds = 1 + min(rounds, MOST_ROUNDS)
    return {name: failed.get(name) or _summary(times) for name, times in found.items()}


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _summary(times: Sequence[float]) -> dict[str, float]:
    values = torch.tensor(times, dtype=torch.float64)
    quantiles = torch.quantile(values, torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()
    named = {f"p{round(100 * q)}_ms": value for q, value in zip(_QUANTILES, quantiles, strict=True)}
    return {**named, "count": len(times)}


def peak_extra_bytes(work: Callable[[], Any]) -> int:
    """Most memory that PyTorch held on the GPU during work beyond what it held before.

    Results of the work are part of it.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = work()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del kept
    return peak - before


def matmul_flops(
    clock: Clock, dtype: torch.dtype, device: str, *, sizes: Sequence[int], seed: int
) -> dict[str, Any]:
    """FLOP per second of square products of random matrices, best of some sizes."""
    generator = torch.Generator(device).manual_seed(seed)
    best: dict[str, Any] = {"flops": 0.0}
    for size in sizes:
        a, b = (
            torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2)
        )
        times = [clock.milliseconds(lambda: None, lambda _, a=a, b=b: a @ b) for _ in range(30)]
        p50 = _summary(times[5:])["p50_ms"]
        if 2 * size**3 / p50 * 1e3 > best["flops"]:
            best = {"flops": 2 * size**3 / p50 * 1e3, "size": size, "p50_ms": p50}
    return best
