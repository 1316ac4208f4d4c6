"""Our bundle and what a person would otherwise deploy, side by side in one run.

    python benchmarks/compile/timm_models.py MODELS
    python benchmarks/latency/peers.py MODELS [--threads 1 2] [--folder F] [--prepare] [name …]

MODELS is a folder that `timm_models.py` wrote. For each model and number of threads all arms run in
processes of their own with their blocks in turns, batch 1. Peers that do not install beside the
others get environments of their own, which the first run makes in FOLDER. Outputs of every arm on
the same held-out photographs are compared with onnxruntime's in float32. What is in the JSON
already is not run again; ``--prepare`` only makes environments and files. Writes
``benchmarks/results/latency_peers.json`` and ``docs/benchmark-peers.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
# Also for the worker processes, which import the arms.
PATHS = [str(HERE), str(HERE.parent / "compile")]
sys.path[1:1] = PATHS[1:]
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)

from peer_environments import (  # noqa: E402 - the folders above must be known first
    ENVIRONMENTS,
    PeerError,
    make_environment,
    versions,
)
from peer_page import NATIVE, PAGE, RESULTS, write_page  # noqa: E402
from peer_preparation import (  # noqa: E402
    HELD_OUT,
    REFERENCE,
    SAMPLES,
    SEED,
    Preparation,
    prepare,
)

from edgessl.benchmarking import (  # noqa: E402
    ArmSpec,
    BenchmarkOptions,
    BenchmarkResult,
    GateOptions,
    measure,
)
from edgessl.benchmarking.environment import fingerprint  # noqa: E402
from edgessl.benchmarking.options import ScenarioOptions  # noqa: E402
from edgessl.benchmarking.process import WorkerProcess  # noqa: E402
from edgessl.bundle.archive import open_bundle  # noqa: E402
from edgessl.bundle.arrays import load_arrays, save_arrays  # noqa: E402
from edgessl.errors import EdgeSSLError  # noqa: E402
from edgessl.files import cache_directory, write_json  # noqa: E402

MODELS = (
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_lite0",
    "repvit_m1",
    "fastvit_t8",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "resnet18",
)
LEAST_COSINE = 0.99
OPTIONS = BenchmarkOptions(
    restarts=3,
    blocks=5,
    block_seconds=0.1,
    warm_up_seconds=0.25,
    cold_starts=1,
    gate=GateOptions(metrics=(), alpha=0.05, looks=(3,)),  # intervals of 95 %
)
PACKAGES = ("onnxruntime", "openvino", "nncf", "torch", "timm", "numpy")
Floats = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path, default=cache_directory("peers"))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    words = parser.parse_args()
    folder, models = words.folder.resolve(), words.models.resolve()
    results, page = words.json.resolve(), words.page.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # A worker prefers the edgessl of its working directory to that of its environment.
    os.chdir(folder)
    result = json.loads(results.read_text("utf-8")) if results.exists() else {"rows": {}}
    pythons, broken = _environments(folder)
    failed: list[str] = []
    for threads in words.threads:
        for name in words.names:
            key = f"{name} {threads}"
            if key in result["rows"]:
                continue
            files = folder / "files" / name
            prepared = prepare(models / f"{name}.onnx", threads, files, pythons, broken)
            if words.prepare:
                print(key, prepared.missing, flush=True)
                continue
            try:
                rows = {**result["rows"], key: _row(prepared)}
            except EdgeSSLError as error:
                failed.append(key)
                print(key, error, file=sys.stderr, flush=True)
                continue
            result = _result(rows, pythons)
            write_json(results, result)
            write_page(result, NATIVE, page)
            print(key, json.dumps(rows[key]["p50_ms"]), flush=True)
    if not words.prepare:
        write_page(result, NATIVE, page)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _environments(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Environment → interpreter, and environment → why there is none."""
    pythons, broken = {}, {}
    for name in ENVIRONMENTS:
        try:
            pythons[name] = make_environment(name, folder)
        except PeerError as error:
            broken[name] = f"cannot be installed: {error}"
    return pythons, broken


def _row(prepared: Preparation) -> dict[str, Any]:
    """Outputs of every arm first: one that cannot run must not end the measurement."""
    outputs, missing = {}, dict(prepared.missing)
    for spec in prepared.specs:
        try:
            outputs[spec.name] = _outputs(spec, prepared.held_out)
        except EdgeSSLError as error:
            missing[spec.name] = str(error)
    specs = [spec for spec in prepared.specs if spec.name in outputs]
    reference = outputs[REFERENCE]
    return {
        **_figures(measure(specs[:1], against=specs[1:], options=OPTIONS).result),
        "chosen": _chosen(prepared.specs[0]),
        "cosine_mean": {name: _cosine(reference, found) for name, found in outputs.items()},
        "missing": missing,
    }


def _figures(result: BenchmarkResult) -> dict[str, Any]:
    ratios = {
        c.against: {"ratio": p50.ratio, "low": p50.ratio_low, "high": p50.ratio_high}
        for c in result.comparisons
        for p50 in [c.metric("p50")]
    }
    return {
        "created_utc": result.created_utc,
        "p50_ms": {arm.name: arm.latency_p50_ms for arm in result.arms},
        "p90_ms": {arm.name: arm.latency_p90_ms for arm in result.arms},
        "ratios_to_peers": ratios,
        "confidence": result.comparisons[0].confidence,
        "load_ms": {arm.name: arm.cold_start.load_ms.median for arm in result.arms},
        "peak_memory_bytes": {arm.name: arm.peak_memory_bytes for arm in result.arms},
        "size_bytes": {arm.name: arm.size_bytes for arm in result.arms},
        "versions": {arm.name: arm.versions for arm in result.arms},
        "steal_percent": result.environment.steal_percent,
        "control_ratio": result.harness.control_ratio,
        "problems": result.harness.problems,
        "remarks": result.remarks,
    }


def _outputs(spec: ArmSpec, images: Floats) -> Floats:
    """Embeddings of images, computed by the arm's worker in the arm's environment."""
    with tempfile.TemporaryDirectory() as scratch:
        feeds, place = Path(scratch) / "images.npz", Path(scratch) / "outputs.npz"
        feeds.write_bytes(save_arrays({"images": images}))
        with WorkerProcess(spec, seed=SEED, folder=Path(scratch)) as worker:
            worker.call("load")
            if not worker.call("take_samples", path=str(feeds))["taken"]:
                raise EdgeSSLError(f"{spec.name}: does not take images of {images.shape[1:]}")
            worker.call("first", scenario=ScenarioOptions().model_dump(mode="json"))
            worker.call("outputs", path=str(place))
        found = load_arrays(place.read_bytes(), where=spec.name)
    (values,) = found.values()
    return np.asarray(values, np.float32).reshape(len(images), -1)


def _cosine(want: Floats, have: Floats) -> float:
    lengths = np.linalg.norm(want, axis=1) * np.linalg.norm(have, axis=1)
    return float(((want * have).sum(axis=1) / lengths).mean())


def _chosen(spec: ArmSpec) -> str:
    with open_bundle(str(spec.arguments["path"]), verify=False) as bundle:
        return f"{bundle.manifest.engine.name} {bundle.manifest.precision}"


def _result(rows: dict[str, Any], pythons: dict[str, Path]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "what": "our bundle (edgessl compile --target host) against peers, batch 1",
        "environment": fingerprint().model_dump(mode="json"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": {
            "edgessl's": {name: version(name) for name in PACKAGES},
            **{name: versions(python, name) for name, python in pythons.items()},
        },
        "weights": "random; batch-norm statistics from photographs",
        "seed": SEED,
        "calibration_samples": SAMPLES,
        "held_out_samples": HELD_OUT,
        "image_size": 224,
        "least_cosine": LEAST_COSINE,
        "options": OPTIONS.model_dump(mode="json"),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
