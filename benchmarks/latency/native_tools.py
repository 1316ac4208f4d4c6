"""How far our p50 and that of native tools lie apart, for the same file in the same engine.

    python benchmarks/latency/native_tools.py MODELS [--repeats 5] [name …]

MODELS is a folder that `timm_models.py` wrote. In each repetition, in random order: our benchmark
of the model in OpenVINO and onnxruntime, float32, one thread; OpenVINO's ``benchmark_app``, told
the same; and MLPerf's LoadGen, SingleStream, with both engines. The disagreement is taken within
each repetition. Writes ``benchmarks/results/latency_native_tools.json``; `peers.py` puts it on the
page.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import files, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "compile"))

from peer_files import fix_batch  # noqa: E402 - the folder above must be known first

from edgessl.benchmarking import BenchmarkOptions, GateOptions, benchmark  # noqa: E402
from edgessl.benchmarking.benchmark import mlperf_logs  # noqa: E402
from edgessl.benchmarking.environment import fingerprint  # noqa: E402
from edgessl.files import write_json  # noqa: E402

MODELS = ("mobilenetv3_small_100", "resnet18")
RESULTS = HERE.parent / "results" / "latency_native_tools.json"
SECONDS = 5.0
SEED = 0
OPTIONS = BenchmarkOptions(
    threads=1,
    restarts=1,
    blocks=10,
    block_seconds=0.3,
    cold_starts=1,
    gate=GateOptions(metrics=()),
)
ENGINES = ("openvino", "onnxruntime")
OURS, LOADGEN = "edgessl", "LoadGen SingleStream"
BENCHMARK_APP, FILLED = "benchmark_app", "benchmark_app, inputs filled each time"

Found = dict[tuple[str, str], float]
"""(tool, engine) → p50 in milliseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS)
    words = parser.parse_args()
    shuffle = random.Random(SEED)
    rows: list[dict[str, Any]] = []
    for name in words.names:
        with tempfile.TemporaryDirectory() as folder:
            model = fix_batch(words.models / f"{name}.onnx", Path(folder) / "model.onnx")
            found = [_repetition(model, shuffle) for _ in range(words.repeats)]
        rows += _rows(name, found)
        write_json(words.json, _result(rows, words.repeats))
        for row in rows:
            print(json.dumps(row), flush=True)


def _repetition(model: Path, shuffle: random.Random) -> Found:
    tools: list[Callable[[Path], Found]] = [_ours, _benchmark_app, _loadgen]
    found: Found = {}
    for tool in shuffle.sample(tools, len(tools)):
        found.update(tool(model))
    return found


def _ours(model: Path) -> Found:
    result = benchmark([model], options=OPTIONS).result
    return {(OURS, arm.engine): arm.latency_p50_ms for arm in result.arms}


def _loadgen(model: Path) -> Found:
    logs = mlperf_logs([model], model.with_name("logs"), options=OPTIONS, seconds=SECONDS)
    p50s = {(LOADGEN, name.split()[-1]): summary.p50_ms for name, summary in logs.items()}
    return {key: p50 for key, p50 in p50s.items() if p50 is not None}


def _benchmark_app(model: Path) -> Found:
    """As it comes, with inputs filled once; and filling them for each inference, as we do."""
    found: Found = {}
    for tool, inference_only in ((BENCHMARK_APP, "true"), (FILLED, "false")):
        command = [str(Path(sys.executable).with_name("benchmark_app")), "-m", str(model)]
        command += ["-d", "CPU", "-hint", "none", "-nstreams", "1", "-nthreads", "1"]
        command += ["-api", "sync", "-infer_precision", "f32", "-t", str(round(SECONDS))]
        command += ["-inference_only", inference_only, "-report_type", "no_counters"]
        command += ["-json_stats", "-report_folder", str(model.parent)]
        subprocess.run(command, check=True, capture_output=True)
        report = json.loads((model.parent / "benchmark_report.json").read_text("utf-8"))
        found[tool, "openvino"] = float(report["execution_results"]["latency (ms)"])
    return found


def _rows(name: str, found: list[Found]) -> list[dict[str, Any]]:
    rows = []
    for tool, engine in sorted(key for key in found[0] if key[0] != OURS):
        ours = [repetition[OURS, engine] for repetition in found]
        theirs = [repetition[tool, engine] for repetition in found]
        apart = [100 * (t / o - 1) for t, o in zip(theirs, ours, strict=True)]
        rows.append(
            {
                "model": name,
                "engine": engine,
                "tool": tool,
                "ours_p50_ms": median(ours),
                "tool_p50_ms": median(theirs),
                "median_percent": median(apart),
                "low_percent": min(apart),
                "high_percent": max(apart),
                "own_spread_percent": 100 * (max(ours) / min(ours) - 1),
                "ours_p50s_ms": ours,
                "tool_p50s_ms": theirs,
            }
        )
    return rows


def _result(rows: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": fingerprint().model_dump(mode="json"),
        "versions": {p: version(p) for p in ("openvino", "onnxruntime", "mlcommons_loadgen")},
        "threads": OPTIONS.threads,
        "seconds": SECONDS,
        "seed": SEED,
        "repeats": repeats,
        "missing": _missing(),
        "rows": rows,
    }


def _missing() -> dict[str, str]:
    if any(Path(file).stem == "onnxruntime_perf_test" for file in files("onnxruntime") or []):
        return {}
    reason = f"the wheel of onnxruntime {version('onnxruntime')} does not hold the program"
    return {"onnxruntime_perf_test": reason}


if __name__ == "__main__":
    main()
