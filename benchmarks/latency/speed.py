"""How long a gate takes to decide, what the harness costs per query, how fast `compare` is.

    python benchmarks/latency/speed.py

The gate is the default one (p50, p90, size, memory; looks at 6, 12 and 24 restarts), and the same
without p90, on two equal bundles of a network of about a millisecond in onnxruntime, one thread.
The
goal, 30 s, is for a quiet machine: the load average stands in the result. `compare` runs as a
command, interpreter and imports included, on two results of the same arms.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgessl.benchmarking import BenchmarkOptions, GateOptions, benchmark
from edgessl.benchmarking.environment import fingerprint
from edgessl.benchmarking.options import Metric
from edgessl.compiler import compile_model
from edgessl.files import write_json

RESULTS = Path(__file__).parents[1] / "results" / "benchmark_speed.json"
CHANNELS, SIZE, LAYERS = 64, 32, 4
COMPARES = 5
GATES: tuple[tuple[Metric, ...], ...] = (
    ("p50", "p90", "size", "memory"),
    ("p50", "size", "memory"),
)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    environment = fingerprint()
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder))
        gates = {",".join(metrics): _gate(bundle, Path(folder), metrics) for metrics in GATES}
        value = {
            "environment": environment.model_dump(mode="json"),
            "gates": gates,
            "compare": _compare(Path(folder)),
            "seed": 0,
        }
    write_json(out, value)
    print(value["gates"], value["compare"])


def _bundle(folder: Path) -> Path:
    """A stack of 3x3 convolutions, float32 in onnxruntime."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for layer in range(LAYERS):
        scale = np.sqrt(2 / (9 * CHANNELS))
        values = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * scale
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = f"r{layer}"
    shape = [1, CHANNELS, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "stack.onnx")
    compile_model(
        folder / "stack.onnx",
        target="host",
        calibration=rng.standard_normal((64, *shape[1:])).astype(np.float32),
        out=folder / "stack.edge",
        overrides={
            "engine": "onnxruntime",
            "precision": "fp32",
            "threads": 1,
            "samples": 32,
            "held_out": 32,
        },
    )
    return folder / "stack.edge"


def _gate(bundle: Path, folder: Path, metrics: tuple[Metric, ...]) -> dict[str, Any]:
    options = BenchmarkOptions(threads=1, gate=GateOptions(metrics=metrics))
    decided_s: list[float] = []
    start = time.monotonic()
    measurement = benchmark(
        [bundle],
        against=[bundle],
        options=options,
        checkpoint=lambda _: decided_s.append(time.monotonic() - start),
    )
    whole_s = time.monotonic() - start
    for name in ("a.json", "b.json"):
        measurement.write(folder / name)
    found = measurement.result
    return {
        "arm_p50_ms": found.arms[0].latency_p50_ms,
        "verdict": found.verdict,
        "restarts": found.protocol.restarts,
        "seconds_until_decided": round(decided_s[-1], 1),
        "seconds_in_all": round(whole_s, 1),
        "cold_starts": found.arms[0].cold_start.processes,
        "queries": sum(arm.runs for arm in found.arms),
        "harness_null_p50_us": found.harness.null_p50_us,
        "harness_null_p90_us": found.harness.null_p90_us,
    }


def _compare(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgessl", "compare", "a.json"]
    seconds: dict[str, list[float]] = {"judge again": [], "two results": []}
    for _ in range(COMPARES):
        for label, words in (("judge again", command), ("two results", [*command, "b.json"])):
            start = time.perf_counter()
            subprocess.run(words, cwd=folder, check=False, capture_output=True)
            seconds[label].append(time.perf_counter() - start)
    return {label: round(statistics.median(values), 2) for label, values in seconds.items()}


if __name__ == "__main__":
    main()
