"""Record what noise a machine adds to two equal arms, for the simulation of the gate.

``python benchmarks/latency/record_noise.py --note "what else ran"`` measures the same numpy network
twice, in turns, and writes every query to ``tests/benchmarking/recorded/noise.samples.json.gz`` and
the machine's facts to ``noise.json`` beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from edgessl.benchmarking import BenchmarkOptions, GateOptions, measure
from edgessl.benchmarking.recording import save_recording
from edgessl.files import write_json

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "benchmarking" / "recorded"
sys.path.insert(0, str(ROOT / "tests"))

from contracts.gate_arms import working  # noqa: E402 - the tests are no package that is installed
from contracts.gate_trials import ARM, BASE  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restarts", type=int, default=80)
    parser.add_argument("--block-seconds", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", required=True, help="what else the machine did")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    words = parser.parse_args()
    paths = (str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for the worker processes
    options = BenchmarkOptions(
        restarts=words.restarts,
        block_seconds=words.block_seconds,
        cold_starts=1,
        seed=words.seed,
        gate=GateOptions(metrics=()),
    )
    start = time.monotonic()
    measurement = measure([working(ARM)], against=[working(BASE)], options=options)
    result = measurement.result
    samples = save_recording(measurement.recording, words.folder / "noise.samples.json.gz")
    facts = {
        "note": words.note,
        "created_utc": result.created_utc,
        "seconds": round(time.monotonic() - start),
        "samples": samples.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
        "environment": result.environment.model_dump(mode="json"),
        "control_p50_ms": result.harness.control_p50_ms,
        "problems": result.harness.problems,
        "dropped": result.protocol.dropped,
        "remarks": result.remarks,
    }
    write_json(words.folder / "noise.json", facts)
    for metric in result.comparisons[0].metrics:
        print(metric.model_dump_json())


if __name__ == "__main__":
    main()
