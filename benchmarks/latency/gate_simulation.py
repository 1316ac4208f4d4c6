"""How often the gate ends how, on resampled noise whose true ratio is known.

``python benchmarks/latency/gate_simulation.py`` draws restarts of the noise that
``record_noise.py`` recorded, and of made-up heavy-tailed noise, and runs the gate with its looks
on each draw. The tests do the same with fewer trials.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from edgessl.benchmarking import GateOptions
from edgessl.benchmarking.recording import load_recording
from edgessl.benchmarking.result import SampleFile
from edgessl.files import write_json

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "benchmarking" / "recorded" / "noise.json"
RESULTS = ROOT / "benchmarks" / "results" / "gate_simulation.json"
sys.path.insert(0, str(ROOT / "tests"))

from contracts.gate_trials import (  # noqa: E402 - the tests are no package that is installed
    Draws,
    figures,
    heavy_tailed,
    verdicts,
)

RATIOS = (1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.1)
GATES = (GateOptions(), GateOptions(metrics=("p50", "size", "memory")))
VERDICTS = ("PASS", "INCONCLUSIVE", "FAIL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    facts = json.loads(RECORDED.read_text(encoding="utf-8"))
    samples = SampleFile.model_validate(facts["samples"])
    recording = load_recording(RECORDED.with_name(samples.file), sha256=samples.sha256)
    noises = {
        "recorded": figures(recording),
        "heavy-tailed": figures(heavy_tailed(restarts=4000, seed=1)),
    }
    cases = []
    for (name, noise), gate, ratio in itertools.product(noises.items(), GATES, RATIOS):
        draws = Draws.of(len(noise), trials=words.trials, gate=gate, seed=words.seed)
        # Memory is at the margin too where a FAIL would be wrong, and equal where it is right.
        memory_ratio = ratio if ratio <= gate.fail_above else 1.0
        ends = Counter(verdicts(noise, draws, gate, ratio=ratio, memory_ratio=memory_ratio))
        cases.append(
            {
                "noise": name,
                "gated": gate.metrics,
                "ratio": ratio,
                "memory_ratio": memory_ratio,
                **{f"{end}_percent": 100 * ends[end] / words.trials for end in VERDICTS},
            }
        )
        print(json.dumps(cases[-1]))
    write_json(
        words.out,
        {
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "trials": words.trials,
            "seed": words.seed,
            "gate": GateOptions().model_dump(mode="json", exclude={"metrics"}),
            "noise": {
                name: {
                    "restarts": len(noise),
                    "deviation_of_log_ratio": dict(
                        zip(("p50", "p90", "memory"), np.std(noise, axis=0).tolist(), strict=True)
                    ),
                }
                for name, noise in noises.items()
            },
            "recorded": {key: facts[key] for key in ("created_utc", "note", "environment")},
            "cases": cases,
        },
    )


if __name__ == "__main__":
    main()
