"""The whole way on 1,000 photographs: kNN before and after each stage, and the student's latency.

    python benchmarks/trashnet.py [--data FOLDER] [--out runs/trashnet] [key=value …]

The folder holds ``train/``, ``test/`` and ``val/`` with one folder per class (TrashNet, 6 classes,
990 training photographs, scaled down to 192 pixels). About 25 minutes on two cores; unchanged
stages are taken from ``--out``. Writes ``benchmarks/results/trashnet.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgessl import __version__
from edgessl.benchmarking.environment import fingerprint
from edgessl.bundle.archive import open_bundle
from edgessl.config import parse_overrides
from edgessl.files import write_json
from edgessl.models import load_encoder
from edgessl.pipeline import PipelineReport, run_recipe
from edgessl.progress import ProgressEvent
from edgessl.recipe import read_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "trashnet.json"
SCORES = (
    "pixels",
    "random-teacher",
    "random-student",
    "teacher",
    "student",
    "onnxruntime-fp32",
    "onnxruntime-int8",
    "openvino-int8",
    "bundle",
)


def main() -> None:
    """Run the recipe and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "trashnet-192"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/trashnet"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"{arguments.data}: no such folder; left out. Pass --data")
        return
    recipe = read_recipe(HERE / "recipes" / "trashnet.toml")
    stages = run_recipe(
        recipe.model_copy(update={"data": str(arguments.data.absolute())}),
        out=arguments.out,
        overrides=parse_overrides(arguments.settings),
        progress=_say,
    )
    result = _collect(stages)
    write_json(arguments.json, result)
    for name, score in result["scores"].items():
        mean, deviation = (100 * score[f"knn_accuracy{end}"] for end in ("", "_std"))
        print(f"{name:20} kNN {mean:.1f} ± {deviation:.1f}")


def _collect(stages: PipelineReport) -> dict[str, Any]:
    scores = {name: _read(stages, f"score-{name}") for name in SCORES}
    for score in scores.values():
        del score["subject"]
    with open_bundle(stages.output("bundle")) as bundle:
        candidates = [c.model_dump(mode="json") for c in bundle.manifest.candidates]
    parameters = {
        name: sum(p.numel() for p in load_encoder(stages.output(name))[0].parameters())
        for name in ("teacher", "student")
    }
    return {
        "schema_version": 1,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "edgessl": __version__,
        "environment": fingerprint().model_dump(mode="json"),
        "data": "TrashNet, 990 training and 279 test photographs of up to 192 pixels, 6 classes",
        "recipe": (HERE / "recipes" / "trashnet.toml").read_text(encoding="utf-8"),
        "seconds": {s.name: round(s.seconds, 1) for s in stages.stages if s.status != "cached"},
        "parameters": parameters,
        "scores": scores,
        "candidates": candidates,
        "latency": _read(stages, "latency"),
    }


def _read(stages: PipelineReport, name: str) -> dict[str, Any]:
    values: Mapping[str, Any] = json.loads(stages.output(name).read_bytes())
    return dict(values)


def _say(event: ProgressEvent) -> None:
    if event.message is not None:
        print(f"{event.stage}: {event.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
