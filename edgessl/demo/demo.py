"""`run_demo()`: run the demo's recipe, and lay out what it found."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.benchmarking import BenchmarkResult
from edgessl.config import Options
from edgessl.demo.picture import draw
from edgessl.files import atomic_path, output_errors
from edgessl.optional import require
from edgessl.pipeline import PipelineReport, run_recipe
from edgessl.progress import Progress, silent

__all__ = ["DemoReport", "EngineRow", "Score", "run_demo"]

SHOTS = 5

_SCORES = {
    "raw pixels": "score-pixels",
    "random features": "score-random",
    "pretrained teacher": "score-teacher",
    "distilled student": "score-student",
    "student, INT8 onnxruntime": "score-onnxruntime-int8",
    "student, INT8 OpenVINO": "score-openvino-int8",
}

_ENGINES = {
    "PyTorch fp32": ("student", "score-student"),
    "onnxruntime fp32": ("onnxruntime-fp32", "score-onnxruntime-fp32"),
    "onnxruntime INT8": ("onnxruntime-int8", "score-onnxruntime-int8"),
    "OpenVINO fp32": ("openvino-fp32", "score-openvino-fp32"),
    "OpenVINO INT8": ("openvino-int8", "score-openvino-int8"),
}


class Score(Options):
    """Accuracy with five labels per class: mean and deviation over draws, in [0, 1]."""

    name: str
    accuracy: float
    deviation: float


class EngineRow(Options):
    """The student in one engine; latencies in milliseconds at batch 1."""

    name: str
    size_bytes: int
    latency_p50_ms: float
    latency_p90_ms: float
    accuracy: float
    runs: int
    threads: int


class DemoReport(Options):
    """What the demo found.

    Attributes:
        chosen: The candidate that `compile` chose by itself, and why.
        out: Folder of all artifacts.
        picture: The PNG.
    """

    scores: tuple[Score, ...]
    engines: tuple[EngineRow, ...]
    chosen: str
    cpu: str
    out: str
    bundle: str
    picture: str


def run_demo(
    out: Path, *, overrides: Mapping[str, Any] | None = None, progress: Progress = silent
) -> DemoReport:
    """Pretrain, distil, export, compile, evaluate and measure on handwritten digits.

    Args:
        out: Folder of the recipe, the data and all artifacts; run again, unchanged stages are
            taken from there.
        overrides: As for `run_recipe`.
        progress: Told of every step.

    Raises:
        UnavailableError: scikit-learn, PyTorch or an engine is missing.
        OutputError: ``out`` cannot be written.
    """
    require("matplotlib", extra="report")
    out = Path(out)
    recipe = out / "recipe.toml"
    with output_errors(out), as_file(files("edgessl.demo") / "recipe.toml") as packaged:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(recipe) as temporary:
            shutil.copyfile(packaged, temporary)
    _write_digits(out / "digits.npz")
    stages = run_recipe(recipe, out=out, overrides=overrides, progress=progress)
    report = _report(stages, out)
    with atomic_path(Path(report.picture)) as temporary:
        draw(report, temporary)
    return report


def _write_digits(path: Path) -> None:
    """1,797 grey digits of 8x8 pixels; a third of them, drawn from a seed, is the test part.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998,
    as distributed with scikit-learn.
    """
    digits = require("sklearn.datasets", extra="train").load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1200], order[1200:]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        x_train=images[train],
        y_train=digits.target[train],
        x_test=images[test],
        y_test=digits.target[test],
    )
    if path.is_file() and path.read_bytes() == buffer.getvalue():
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _report(stages: PipelineReport, out: Path) -> DemoReport:
    latency = BenchmarkResult.model_validate_json(stages.output("latency").read_bytes())
    scores = {name: json.loads(stages.output(s).read_bytes()) for name, s in _SCORES.items()}
    bundle = stages.output("bundle")
    return DemoReport(
        scores=tuple(_score(name, values) for name, values in scores.items()),
        engines=tuple(
            _engine_row(name, arm, score, stages, latency)
            for name, (arm, score) in _ENGINES.items()
        ),
        chosen=_chosen(bundle),
        cpu=latency.environment.cpu,
        out=str(out),
        bundle=str(bundle),
        picture=str(out / "demo.png"),
    )


def _score(name: str, values: Mapping[str, Any]) -> Score:
    key = f"fewshot_{SHOTS}_accuracy"
    return Score(name=name, accuracy=values[key], deviation=values[f"{key}_std"])


def _engine_row(
    name: str, stage: str, score: str, stages: PipelineReport, latency: BenchmarkResult
) -> EngineRow:
    path = stages.output(stage)
    arm = latency.arm(f"{path.name} pytorch" if path.is_dir() else path.name)
    values = json.loads(stages.output(score).read_bytes())
    return EngineRow(
        name=name,
        size_bytes=arm.size_bytes or 0,
        latency_p50_ms=arm.latency_p50_ms,
        latency_p90_ms=arm.latency_p90_ms,
        accuracy=_score(name, values).accuracy,
        runs=arm.runs,
        threads=arm.threads,
    )


def _chosen(bundle: Path) -> str:
    from edgessl.bundle.archive import open_bundle

    with open_bundle(bundle) as opened:
        winner = next(c for c in opened.manifest.candidates if c.status == "chosen")
    return f"{winner.name}: {winner.reason}"
