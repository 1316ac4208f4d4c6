"""Real gates on this machine: arms with a busy wait of a tenth, and equal ones.

``python benchmarks/latency/gate_live.py`` runs 20 gates of the first kind, which should all FAIL,
and 40 of the second, of which none should. It writes how each ended as soon as it has.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgessl.benchmarking import BenchmarkOptions, BenchmarkResult, measure
from edgessl.files import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gate_live.json"
sys.path.insert(0, str(ROOT / "tests"))

from contracts.gate_arms import working  # noqa: E402 - the tests are no package that is installed

SLOWDOWN = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slower", type=int, default=20)
    parser.add_argument("--equal", type=int, default=40)
    parser.add_argument("--block-seconds", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    paths = (str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for the worker processes
    # Both kinds in a random order, so that neither has the quieter hour.
    kinds = ["slower"] * words.slower + ["equal"] * words.equal
    random.Random(words.seed).shuffle(kinds)
    gates: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        options = BenchmarkOptions(
            block_seconds=words.block_seconds, cold_starts=1, seed=words.seed + number
        )
        start = time.monotonic()
        slowdown = SLOWDOWN if kind == "slower" else 0.0
        result = measure(
            [working("head", slowdown=slowdown)], against=[working("base")], options=options
        ).result
        gates.append(_facts(kind, result, time.monotonic() - start))
        print(f"{number + 1}/{len(kinds)}", json.dumps(gates[-1]), flush=True)
        write_json(words.out, _summary(gates, result, options))


def _facts(kind: str, result: BenchmarkResult, seconds: float) -> dict[str, Any]:
    (comparison,) = result.comparisons
    return {
        "kind": kind,
        "verdict": result.verdict,
        "restarts": result.protocol.restarts,
        "seconds": round(seconds, 1),
        "metrics": {
            m.metric: {
                "verdict": m.verdict,
                "ratio": m.ratio,
                "ratio_low": m.ratio_low,
                "ratio_high": m.ratio_high,
            }
            for m in comparison.metrics
        },
        "control_ratio": round(result.harness.control_ratio, 4),
        "problems": result.harness.problems,
        "load_average": result.environment.load_average,
        "steal_percent": result.environment.steal_percent,
    }


def _summary(
    gates: list[dict[str, Any]], last: BenchmarkResult, options: BenchmarkOptions
) -> dict[str, Any]:
    counts = {
        kind: dict(Counter(str(g["verdict"]) for g in gates if g["kind"] == kind))
        for kind in ("slower", "equal")
    }
    return {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "slowdown": SLOWDOWN,
        "verdicts": counts,
        "options": options.model_dump(mode="json", exclude={"seed"}),
        "environment": last.environment.model_dump(mode="json"),
        "gates": gates,
    }


if __name__ == "__main__":
    main()
