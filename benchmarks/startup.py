"""How long the command line and the runtime take to start.

``python benchmarks/startup.py`` starts fresh interpreters in turns: an empty one, one that prints
``edgessl --help`` and one that imports ``edgessl.runtime``. The goals are 200 and 300 ms of wall
time. Beside wall time it records processor time, which other load on the machine changes little,
and checks that torch, onnx and the engines stay unloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from edgessl.benchmarking.environment import fingerprint
from edgessl.benchmarking.statistics import balanced_orders
from edgessl.files import write_json

RESULTS = Path(__file__).parent / "results" / "startup.json"
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "timm", "lightly", "datasets")
CASES = {
    "empty interpreter": "pass",
    "edgessl --help": "import sys; from edgessl.cli.main import main; main(['--help'])",
    "import edgessl.runtime": "import edgessl.runtime",
}
GOALS_MS = {"edgessl --help": 200.0, "import edgessl.runtime": 300.0}


def measure(code: str) -> tuple[float, float]:
    """Wall and processor time of one interpreter, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1e3, cpu * 1e3


def loaded(code: str) -> list[str]:
    """Heavy packages that the code leaves in ``sys.modules``."""
    probe = (
        f"{code}\nimport sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    return [name for name in HEAVY if f"'{name}'" in last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    names = list(CASES)
    for name in names:  # the first start compiles bytecode and fills the page cache
        measure(CASES[name])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for row in balanced_orders(len(names), words.rounds, seed=words.seed):
        for index in row:
            times[names[index]].append(measure(CASES[names[index]]))
    cases = {}
    for name in names:
        wall, cpu = np.array(times[name]).T
        goal = GOALS_MS.get(name)
        cases[name] = {
            "wall_p50_ms": round(float(np.median(wall)), 1),
            "wall_p90_ms": round(float(np.quantile(wall, 0.9)), 1),
            "wall_min_ms": round(float(wall.min()), 1),
            "cpu_p50_ms": round(float(np.median(cpu)), 1),
            "goal_wall_ms": goal,
            "goal_met_at_p50": None if goal is None else bool(np.median(wall) < goal),
            "heavy_packages_loaded": loaded(CASES[name]),
        }
    result = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": fingerprint().model_dump(mode="json"),
        "niceness": os.nice(0),
        "rounds": words.rounds,
        "seed": words.seed,
        "cases": cases,
    }
    write_json(words.out, result)
    print(json.dumps(cases, indent=2))


if __name__ == "__main__":
    main()
