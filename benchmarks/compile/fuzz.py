"""Thousands of damaged and hostile ONNX files and bundles through edgessl's real entry points.

Models go through the compile workers (inspect, simplify, build, run, compare) with both CPU
engines; bundles through `edgessl.runtime.verify`, `edgessl.load` and inference in a process that
must survive. What must not be: a traceback, a result that differs from the file's own, a caller
that dies, a file outside the output folder, an error that is not one printable line.

    python benchmarks/compile/fuzz.py [--models 3900] [--bundles 1960] [--seed 1]

Needs the extra compile. Takes about 15 minutes on 2 cores. Exit code 1 if something must not be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"
sys.path.insert(0, str(ROOT / "tests"))

from contracts import (  # noqa: E402 - the tests are no package that is installed
    bundle_process,
    hostile_bundles,
    hostile_onnx,
    hostile_trial,
    tiny_bundle,
)

_SURVIVED = ("refused", "differs", "runs")


def main() -> None:
    """Run all cases and write how they ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=3900)
    parser.add_argument("--bundles", type=int, default=1960)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the result goes")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        models = fuzz_models(Path(name) / "models", arguments.models, arguments.seed)
        bundles = fuzz_bundles(Path(name) / "bundles", arguments.bundles, arguments.seed)
    result = {
        "schema_version": 1,
        "what": "damaged and hostile models and bundles, by how they ended",
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("edgessl", "onnx", "onnxruntime", "openvino")},
        "models": models,
        "bundles": bundles,
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for what in (models, bundles):
        print({key: value for key, value in what.items() if key != "by_kind"})
    sys.exit(1 if models["undue"] or bundles["undue"] else 0)


def fuzz_models(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Counts by verdict and kind, seconds and memory; ``undue`` lists what must not be."""
    tally = _Tally()
    with hostile_trial.HostileTrial(folder) as trial:
        for index, mutant in enumerate(hostile_onnx.mutants(count, seed=seed)):
            start = time.monotonic()
            try:
                verdict, reason = (ended := trial.run(mutant)).verdict, ended.reason
            except hostile_trial.Undue as error:
                verdict, reason = "undue", str(error)
                tally.undue.append(f"{index} {mutant.kind} {mutant.base}: {error}"[:300])
            tally.add(mutant.kind, verdict, reason, time.monotonic() - start, trial.memory_bytes())
    return tally.summary("hostile ONNX files", hostile_trial.MEMORY_BYTES)


def fuzz_bundles(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """The same for bundles."""
    tally = _Tally()
    folder.mkdir()
    path = tiny_bundle.write_bundle(folder / "case.edge")
    good = path.read_bytes()
    with bundle_process.BundleProcess(folder / "temporary") as process:
        whole = process.open(path)
        for index, bundle in enumerate(hostile_bundles.hostile_bundles(good, count, seed=seed)):
            path.write_bytes(bundle.data)
            start = time.monotonic()
            ended = process.open(path)
            seconds = time.monotonic() - start
            wrong = _objection(ended, whole, process.folder, folder)
            if wrong:
                tally.undue.append(f"{index} {bundle.kind}: {wrong}"[:300])
            tally.add(
                bundle.kind, ended["verdict"], ended["reason"], seconds, process.memory_bytes()
            )
    return tally.summary("hostile bundles", bundle_process.MEMORY_BYTES)


def _objection(
    ended: dict[str, Any], whole: dict[str, Any], temporary: Path, folder: Path
) -> str | None:
    if ended["verdict"] not in _SURVIVED or not ended["reason"].isprintable():
        return f"{ended['verdict']}: {ended['reason']!r}"
    if ended["verdict"] == "runs" and ended["output"] != whole["output"]:
        return "gives another result"
    if list(temporary.iterdir()) or len(list(folder.iterdir())) != 2:
        return "leaves files behind"
    return None


class _Tally:
    """Counts cases."""

    def __init__(self) -> None:
        self.undue: list[str] = []
        self._verdicts: Counter[str] = Counter()
        self._kinds: dict[str, Counter[str]] = {}
        self._seconds: list[float] = []
        self._peak_bytes = 0
        self._slowest = ("", 0.0)

    def add(self, kind: str, verdict: str, reason: str, seconds: float, memory: int) -> None:
        self._verdicts[verdict] += 1
        self._kinds.setdefault(kind, Counter())[verdict] += 1
        self._seconds.append(seconds)
        self._peak_bytes = max(self._peak_bytes, memory)
        if seconds > self._slowest[1]:
            self._slowest = (f"{kind}: {verdict} {reason[:100]}", seconds)

    def summary(self, what: str, limit_bytes: int) -> dict[str, Any]:
        ordered = sorted(self._seconds)
        return {
            "what": what,
            "cases": len(ordered),
            "verdicts": dict(self._verdicts.most_common()),
            "undue": self.undue,
            "seconds_p50": round(ordered[len(ordered) // 2], 4),
            "seconds_p99": round(ordered[int(len(ordered) * 0.99)], 2),
            "seconds_max": round(ordered[-1], 2),
            "slowest": self._slowest[0],
            "peak_memory_bytes": self._peak_bytes,
            "address_space_limit_bytes": limit_bytes,
            "by_kind": {kind: dict(counts) for kind, counts in sorted(self._kinds.items())},
        }


if __name__ == "__main__":
    main()
