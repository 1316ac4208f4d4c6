"""The page about peers and native tools, from the JSON of both benchmarks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from peer_preparation import OURS

from edgessl.files import write_text

__all__ = ["NATIVE", "PAGE", "RESULTS", "write_page"]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "latency_peers.json"
NATIVE = ROOT / "benchmarks" / "results" / "latency_native_tools.json"
PAGE = ROOT / "docs" / "benchmark-peers.md"

_HEAD = """\
# Latency against peers

Written by `benchmarks/latency/peers.py`; do not edit. Our bundle, as
`edgessl compile --target host` makes it, against what a person would otherwise deploy: batch 1,
{size} pixels, equal threads, all arms of a row in one run, in processes of their own, with their
blocks in turns ({restarts} restarts of {blocks} blocks). The timm models have random weights,
because no published ones were at hand; their batch-norm statistics come from photographs.
{samples} photographs calibrate every INT8, {held} others are compared with onnxruntime's float32:
*cosine* is the mean over these, and an arm below {least} is marked †: it computes something else.
Random weights bear INT8 worse than trained ones, and our bundle takes no precision that fails its
fidelity gate. *Times ours* is the arm's p50 over our bundle's; above 1 it is slower. Means over
models are geometric.

{date}; {cpu}, {cpus} CPUs, a virtual machine that other work shares; edgessl's side:
{versions}.

- `openvino fp32` is told to compute in float32; `openvino default` and `nncf int8` are left to
  choose, which on a CPU with bfloat16 is bfloat16. Our bundle is often the same engine at the same
  precision: the ratio is then noise around 1.
- `executorch` and `litert` (both XNNPACK) and `olive` run in environments of their own:
  {isolated}.
- LiteRT is given NHWC, and at INT8 integers, as its users have images; making them from NCHW floats
  is not timed. All others are given NCHW floats.
- ExecuTorch's Python runtime imports PyTorch, which is most of its memory.
- `olive optimize` is Olive's automatic optimisation, at fp32: its INT8 calibrates on a text data
  set, which has nothing to say about images. `olive auto-opt int8`, the older command, quantizes
  dynamically.
- onnxruntime's static INT8 is `quantize_static` with its defaults.
"""

_NATIVE = """\

## Agreement with native tools

The same files in the same engine, one thread, {repeats} repetitions of each tool in random order
beside ours ([the JSON](../benchmarks/results/latency_native_tools.json)): *disagreement* is the
tool's p50 over ours of the same repetition, less 1. `benchmark_app` by default fills its inputs
once, where our times and LoadGen's contain their copy, and it prints two decimals. *Own spread* is
our largest p50 over our smallest, less 1: what one process differs from the next on this machine,
and a disagreement below it says little. {missing}

| model | engine | tool | ours, p50 ms | tool, p50 ms | disagreement, median | range | own spread |
|---|---|---|---|---|---|---|---|
{rows}
"""


def write_page(result: dict[str, Any], native: Path, page: Path) -> None:
    """Write the page; native tools are left out where they have not been measured yet."""
    text = _head(result)
    for threads in sorted({key.split()[1] for key in result["rows"]}, key=int):
        rows = {k.split()[0]: r for k, r in result["rows"].items() if k.split()[1] == threads}
        text += f"\n## {threads} thread(s)\n\n{_summary(rows, result['least_cosine'])}\n"
        for model, row in rows.items():
            text += f"\n### {model}\n\n{_model(row, result['least_cosine'])}\n"
    text += "\nEverything, with memory, sizes and versions by arm, stands in\n"
    text += "[benchmarks/results/latency_peers.json](../benchmarks/results/latency_peers.json).\n"
    if native.exists():
        text += _native(json.loads(native.read_text("utf-8")))
    write_text(page, text)


def _head(result: dict[str, Any]) -> str:
    versions = dict(result["versions"])
    own = versions.pop("edgessl's")
    isolated = "; ".join(
        ", ".join(f"{package} {number}" for package, number in found.items())
        for found in versions.values()
    )
    return _HEAD.format(
        size=result["image_size"],
        restarts=result["options"]["restarts"],
        blocks=result["options"]["blocks"],
        samples=result["calibration_samples"],
        held=result["held_out_samples"],
        least=result["least_cosine"],
        date=max(row["created_utc"] for row in result["rows"].values())[:10],
        cpu=result["environment"]["cpu"],
        cpus=result["cpus"],
        versions=", ".join(f"{package} {number}" for package, number in own.items()),
        isolated=isolated,
    )


def _summary(rows: dict[str, Any], least: float) -> str:
    """Geometric means over the models, by peer, the fastest first."""
    lines: list[tuple[float, str]] = []
    for arm in sorted({a for row in rows.values() for a in row["ratios_to_peers"]}):
        have = [r for r in rows.values() if arm in r["ratios_to_peers"]]
        times = [1 / r["ratios_to_peers"][arm]["ratio"] for r in have]
        faithful = [t for t, r in zip(times, have, strict=True) if r["cosine_mean"][arm] >= least]
        cells = (
            arm,
            f"{_mean(faithful):.2f}" if faithful else "",
            str(len(faithful)),
            f"{_mean(times):.2f}",
            f"{min(times):.2f} to {max(times):.2f}",
            str(len(have)),
        )
        rank = _mean(faithful) if faithful else math.inf
        lines.append((rank, "| " + " | ".join(cells) + " |"))
    head = (
        f"| peer | times ours where its cosine is ≥ {least} | models | times ours, all "
        "| range | models |\n|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(line for _, line in sorted(lines))


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _model(row: dict[str, Any], least: float) -> str:
    lines = []
    for arm, p50 in sorted(row["p50_ms"].items(), key=lambda pair: pair[1]):
        cosine = row["cosine_mean"][arm]
        mark = "" if cosine >= least else " †"
        name = f"**{OURS}: {row['chosen']}**" if arm == OURS else arm
        lines.append(
            f"| {name}{mark} | {p50:.2f} | {_times(row, arm)} | {cosine:.4f} "
            f"| {_mega(row['size_bytes'][arm])} | {_mega(row['peak_memory_bytes'][arm])} |"
        )
    head = (
        "| arm | p50, ms | times ours (95 % interval) | cosine | file, MB | peak memory, MB |\n"
        "|---|---|---|---|---|---|\n"
    )
    notes = [f"\n`{arm}` is missing: {reason}" for arm, reason in sorted(row["missing"].items())]
    notes += [f"\nThe run was not sound: {problem}" for problem in row["problems"]]
    return head + "\n".join([*lines, *notes])


def _times(row: dict[str, Any], arm: str) -> str:
    if arm == OURS:
        return "1"
    found = row["ratios_to_peers"][arm]
    highest = f"{1 / found['low']:.2f}" if found["low"] else "unbounded"
    lowest = f"{1 / found['high']:.2f}" if found["high"] else "0"
    return f"{1 / found['ratio']:.2f} ({lowest} to {highest})"


def _mega(size: float | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _native(result: dict[str, Any]) -> str:
    rows = [
        f"| {row['model']} | {row['engine']} | {row['tool']} | {row['ours_p50_ms']:.3f} "
        f"| {row['tool_p50_ms']:.3f} | {row['median_percent']:+.1f} % "
        f"| {row['low_percent']:+.1f} to {row['high_percent']:+.1f} % "
        f"| {row['own_spread_percent']:.1f} % |"
        for row in result["rows"]
    ]
    missing = " ".join(f"{tool}: {reason}." for tool, reason in result["missing"].items())
    return _NATIVE.format(repeats=result["repeats"], missing=missing, rows="\n".join(rows))
