"""Contrastive losses on a CPU: edgessl's chunked path beside eager PyTorch, in one run.

    python benchmarks/kernels/cpu.py [--json benchmarks/results/kernels_cpu.json]

Forward and backward of NT-Xent, CLIP's and SigLIP's loss at M = 8192 rows (of each of two towers)
of D = 128 in float32, with PyTorch's own number of threads: one for each core, unless
OMP_NUM_THREADS says otherwise. Both take turns; the figure is the ratio of neighbours, as a median
with a 95 % interval (bootstrap). The machine has to be idle otherwise: threads of an operation wait
for each other, and the chunked path has many short operations where eager PyTorch has few long
ones. Memory is the growth of the resident set's high-water mark (VmHWM) over what there was once
everything is imported and the inputs are made, each in a process of its own.

Exit codes: 0 the goals are reached by all three (as fast, at most 1/20 of the memory), 1 they are
not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgessl.kernels import clip_loss, nt_xent, siglip_loss

RESULTS = Path(__file__).parents[1] / "results" / "kernels_cpu.json"
ROWS, WIDTH = 8192, 128
TEMPERATURE, LOGIT_SCALE, LOGIT_BIAS = 0.1, 10.0, -10.0
LEAST_MEMORY_RATIO = 20.0
LARGEST_ERROR = 1e-4
OURS, THEIRS = "edgessl chunked", "eager PyTorch"
LOSSES = ("nt_xent", "clip", "siglip")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go as JSON")
    parser.add_argument("--repeats", type=int, default=15, help="pairs of timings for each loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS, help="M; of each of two towers too")
    parser.add_argument("--width", type=int, default=WIDTH, help="D")
    parser.add_argument("--peak", nargs=2, metavar=("LOSS", "WHO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_extra_bytes(*options.peak, options))
        return 0
    before = os.getloadavg()[0]
    rows = [measure(loss, options) for loss in LOSSES]
    reached = {
        "as fast as eager": all(row["speed_ratio"]["median"] >= 1 for row in rows),
        "at most 1/20 of its memory": all(
            row["memory_ratio"] >= LEAST_MEMORY_RATIO for row in rows
        ),
    }
    result = {
        "schema_version": 1,
        "what": "forward and backward of contrastive losses on a CPU, float32",
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rows": options.rows,
        "width": options.width,
        "repeats": options.repeats,
        "seed": options.seed,
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # More than there are cores after the run: something else was running.
        "load_average": {"before": before, "after": os.getloadavg()[0]},
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": {name: version(name) for name in ("torch", "edgessl")},
        "results": rows,
        "goals": reached,
    }
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        ratio = row["speed_ratio"]
        print(
            f"{row['loss']:8} {ratio['median']:.2f} times as fast as eager "
            f"[{ratio['low']:.2f}, {ratio['high']:.2f}], 1/{row['memory_ratio']:.1f} of its memory "
            f"({row[OURS]['peak_extra_bytes'] / 1e6:.1f} of "
            f"{row[THEIRS]['peak_extra_bytes'] / 1e6:.1f} MB)"
        )
    return 0 if all(reached.values()) else 1


def measure(loss: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both implementations of one loss: agreement, seconds in turns, peaks of memory."""
    inputs = make_inputs(loss, options.rows, options.width, options.seed)
    runs = {who: implementation(loss, who) for who in (OURS, THEIRS)}
    error = disagreement(*(step(run, inputs) for run in runs.values()))
    if not error <= LARGEST_ERROR:
        raise SystemExit(f"{loss}: the implementations differ by {error:.2g}")
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    order = list(runs)
    turns = random.Random(options.seed)
    for _ in range(options.repeats):
        turns.shuffle(order)
        for who in order:
            start = time.perf_counter()
            step(runs[who], inputs)
            seconds[who].append(time.perf_counter() - start)
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    peaks = {who: child_peak(loss, who, options) for who in runs}
    row: dict[str, Any] = {
        "loss": loss,
        "speed_ratio": median_interval(ratios, options.seed),
        "memory_ratio": peaks[THEIRS] / peaks[OURS],
        "largest_difference": error,
    }
    for who, found in seconds.items():
        row[who] = {
            "seconds": found,
            "median_seconds": statistics.median(found),
            "peak_extra_bytes": peaks[who],
        }
    return row


def make_inputs(loss: str, rows: int, width: int, seed: int) -> list[Tensor]:
    """One matrix of M rows, or two of M: pairs that resemble each other, as in training."""
    generator = torch.Generator().manual_seed(seed)
    pairs = rows // 2 if loss == "nt_xent" else rows
    first = torch.randn(pairs, width, generator=generator)
    second = first + 0.5 * torch.randn(pairs, width, generator=generator)
    inputs = [torch.cat([first, second])] if loss == "nt_xent" else [first, second]
    return [one.requires_grad_() for one in inputs]


def implementation(loss: str, who: str) -> Callable[..., Tensor]:
    """A loss as a function of its inputs."""
    if who == THEIRS:
        return {"nt_xent": eager_nt_xent, "clip": eager_clip, "siglip": eager_siglip}[loss]
    if loss == "nt_xent":
        return lambda z: nt_xent(z, TEMPERATURE, implementation="chunked")
    if loss == "clip":
        return lambda a, b: clip_loss(a, b, LOGIT_SCALE, implementation="chunked")
    return lambda a, b: siglip_loss(a, b, LOGIT_SCALE, LOGIT_BIAS, implementation="chunked")


def eager_nt_xent(z: Tensor) -> Tensor:
    z = F.normalize(z, dim=1)
    logits = (z / TEMPERATURE) @ z.T
    logits.fill_diagonal_(float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


def eager_clip(image: Tensor, text: Tensor) -> Tensor:
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = (image * LOGIT_SCALE) @ text.T
    own = torch.arange(len(image))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def eager_siglip(image: Tensor, text: Tensor) -> Tensor:
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = (image * LOGIT_SCALE) @ text.T + LOGIT_BIAS
    signs = 2 * torch.eye(len(image)) - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


def step(run: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Loss and gradients."""
    loss = run(*inputs)
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def disagreement(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference of loss and gradients, as a part of the largest magnitude of each."""
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )


def median_interval(values: list[float], seed: int) -> dict[str, float]:
    """Median, and its 95 % interval from 10 000 resamples."""
    draws = random.Random(seed)
    medians = sorted(statistics.median(draws.choices(values, k=len(values))) for _ in range(10_000))
    return {"median": statistics.median(values), "low": medians[250], "high": medians[9750]}


def child_peak(loss: str, who: str, options: argparse.Namespace) -> int:
    """`peak_extra_bytes` in a process of its own."""
    command = [sys.executable, __file__, "--peak", loss, who, "--seed", str(options.seed)]
    command += ["--rows", str(options.rows), "--width", str(options.width)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def peak_extra_bytes(loss: str, who: str, options: argparse.Namespace) -> int:
    """How far one step raises the resident memory above that of this process with its inputs.

    A step on few rows goes first, so that threads and libraries have what they keep.
    """
    run = implementation(loss, who)
    step(run, make_inputs(loss, 64, options.width, options.seed))
    inputs = make_inputs(loss, options.rows, options.width, options.seed)
    # The high-water mark starts again from what is resident now (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    kept = step(run, inputs)
    peak = resident("VmHWM")
    del kept
    return peak - before


def resident(mark: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{mark}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {mark}")


def cpu_model() -> str:
    """What the kernel calls the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
