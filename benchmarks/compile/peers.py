"""``--target host --precision auto`` against what a person would otherwise take, in one run.

    python benchmarks/compile/peers.py MODELS [--threads 1 2] [--json FILE] [name …]

MODELS is a folder that `timm_models.py` wrote. For each model and number of threads these arms run
side by side, in processes of their own with their blocks in turns: our bundle; onnxruntime in
float32; onnxruntime's static INT8 with the defaults of its API; OpenVINO with its defaults (which
are bfloat16 where the CPU has it); OpenVINO with NNCF's INT8; torch.compile. A peer counts only if
it passes the gate that our bundle has to pass, on the same held-out images. Goals: our time is at
most 1.02 times the best passing peer's on every model, and onnxruntime float32 takes at least 1.8
times ours in the geometric mean. Finished rows are kept, so that a run can be continued.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from model_names import MODELS
from numpy.typing import NDArray
from peer_files import default_int8, fix_batch, nncf_int8

from edgessl.benchmarking import ArmSpec, BenchmarkOptions, GateOptions, measure
from edgessl.benchmarking.environment import fingerprint
from edgessl.compiler import compile_model
from edgessl.compiler.calibration import split_indices
from edgessl.compiler.fidelity import Gate, measure_fidelity
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.files import write_json
from edgessl.runtime import load
from edgessl.runtime.session import open_session

RESULTS = Path(__file__).parents[1] / "results" / "compile_peers.json"
PAGE = Path(__file__).parents[2] / "docs" / "compile-peers.md"
PACKAGES = ("onnxruntime", "openvino", "nncf", "torch", "timm", "numpy")
SAMPLES, HELD_OUT, SEED = 180, 120, 0
BLOCKS = 5
GATE = Gate.of(0.98, neighbour_agreement=0.7)
Floats = NDArray[np.float32]


def main() -> None:
    """Measure what is not measured yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    # The workers of the benchmark import `peer_arms`.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    images = np.load(arguments.models / "images.npy")
    rows: dict[str, Any] = {}
    if arguments.json.exists():
        rows = json.loads(arguments.json.read_text("utf-8"))["rows"]
    for threads in arguments.threads:
        for name in arguments.names:
            key = f"{name} {threads}"
            if key in rows:
                continue
            with tempfile.TemporaryDirectory() as folder:
                model = arguments.models / f"{name}.onnx"
                rows[key] = _row(name, model, images, threads, Path(folder))
            write_json(arguments.json, _result(rows, images))
            print(_line(key, rows[key]), flush=True)
    print("\n".join(_summary(rows)))
    arguments.page.write_text(_page(_result(rows, images)), encoding="utf-8")


def _row(name: str, model: Path, images: Floats, threads: int, folder: Path) -> dict[str, Any]:
    fixed = fix_batch(model, folder / "fixed.onnx")
    quantizing, held = split_indices(len(images), samples=SAMPLES, held_out=HELD_OUT, seed=SEED)
    bundle = folder / "ours.edge"
    started = time.perf_counter()
    report = compile_model(
        model,
        target="host",
        calibration=images,
        out=bundle,
        overrides={"threads": threads, "samples": SAMPLES, "held_out": HELD_OUT, "seed": SEED},
    )
    seconds = time.perf_counter() - started
    files = {
        "onnxruntime fp32": fixed,
        "onnxruntime int8 default": default_int8(fixed, images[quantizing], folder),
        "openvino default": fixed,
        "openvino nncf int8": nncf_int8(
            fixed, images[quantizing], folder, transformer=name.startswith("vit_")
        ),
    }
    outputs = {k: _outputs(k, f, images[held], threads, folder) for k, f in files.items()}
    with load(bundle, threads=threads) as own:
        outputs["edgessl"] = own(images[held])
    specs = [
        ArmSpec(
            name="edgessl",
            factory="edgessl.benchmarking.arms:bundle_arm",
            arguments={"path": str(bundle)},
            threads=threads,
        ),
        *(_spec(peer, file, threads) for peer, file in files.items()),
        ArmSpec(
            name="torch.compile",
            factory="peer_arms:compiled_arm",
            arguments={"model": name, "size": int(images.shape[-1])},
            threads=threads,
        ),
    ]
    options = BenchmarkOptions(
        blocks=BLOCKS, cold_starts=1, gate=GateOptions(metrics=(), alpha=0.05, looks=(6,))
    )
    result = measure(specs[:1], against=specs[1:], options=options).result
    verdicts = {k: _judge(outputs["onnxruntime fp32"], v, folder / k) for k, v in outputs.items()}
    ratios = {
        c.against: {"ratio": p50.ratio, "low": p50.ratio_low, "high": p50.ratio_high}
        for c in result.comparisons
        for p50 in [c.metric("p50")]
    }
    passing = [p for p in ratios if p not in verdicts or verdicts[p]["objection"] is None]
    best = max(passing, key=lambda p: ratios[p]["ratio"])
    return {
        "chosen": report.chosen,
        "compile_seconds": round(seconds, 1),
        "p50_ms": {arm.name: arm.latency_p50_ms for arm in result.arms},
        "ratios_to_peers": ratios,
        "fidelity": verdicts,
        "best_passing_peer": best,
        "ratio_to_best": ratios[best]["ratio"],
        "speedup_over_onnxruntime_fp32": 1.0 / ratios["onnxruntime fp32"]["ratio"],
    }


def _outputs(name: str, model: Path, images: Floats, threads: int, folder: Path) -> Floats:
    if name.startswith("onnxruntime"):
        with open_session("onnxruntime", model, {"threads": threads}) as session:
            spec = session.inputs[0].name
            rows = [next(iter(session.run({spec: i[None]}).values())) for i in images]
        return np.concatenate(rows)
    held, out = folder / "held.npy", folder / "out.npy"
    np.save(held, images)
    script = Path(__file__).parent / "peer_arms.py"
    command = [sys.executable, script, model, str(threads), held, out]
    subprocess.run([str(c) for c in command], check=True)
    values: Floats = np.load(out)
    return values


def _spec(name: str, file: Path, threads: int) -> ArmSpec:
    if name.startswith("openvino"):
        factory, extra = "peer_arms:openvino_arm", {}
    else:
        factory, extra = "edgessl.benchmarking.arms:model_arm", {"engine": "onnxruntime"}
    arguments = {"path": str(file), **extra}
    return ArmSpec(name=name, factory=factory, arguments=arguments, threads=threads)


def _judge(reference: Floats, outputs: Floats, folder: Path) -> dict[str, Any]:
    stored = []
    for place, values in ((folder / "want", reference), (folder / "have", outputs)):
        stream = Stream(name="y", dtype="float32", shape=values.shape[1:], batched=True)
        with SampleWriter(place, (stream,), batch_size=1) as writer:
            writer.append({"y": values})
        stored.append(Samples(place))
    fidelity = measure_fidelity(*stored)
    return {
        "objection": GATE.objection(fidelity),
        "cosine_mean": fidelity.cosine_mean,
        "cosine_p1": fidelity.cosine_p1,
        "neighbour_agreement": fidelity.neighbour_agreement,
    }


def _result(rows: dict[str, Any], images: Floats) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "what": "edgessl --target host --precision auto against peers, batch 1",
        "environment": fingerprint().model_dump(mode="json"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "seed": SEED,
        "calibration_samples": SAMPLES,
        "held_out_samples": HELD_OUT,
        "image_size": int(images.shape[-1]),
        "blocks_per_restart": BLOCKS,
        "gate": GATE.model_dump(mode="json"),
        "rows": rows,
    }


def _line(key: str, row: dict[str, Any]) -> str:
    return (
        f"{key:28} {row['chosen']:34} {row['p50_ms']['edgessl']:8.3f} ms  "
        f"{row['ratio_to_best']:.3f} x {row['best_passing_peer']:26} "
        f"{row['speedup_over_onnxruntime_fp32']:.2f} times faster than onnxruntime fp32  "
        f"compiled in {row['compile_seconds']:.0f} s"
    )


def _summary(rows: dict[str, Any]) -> list[str]:
    lines = []
    for threads in sorted({key.split()[1] for key in rows}):
        chosen = [row for key, row in rows.items() if key.split()[1] == threads]
        speedups = [math.log(row["speedup_over_onnxruntime_fp32"]) for row in chosen]
        mean = math.exp(sum(speedups) / len(speedups))
        worst = max(row["ratio_to_best"] for row in chosen)
        lines.append(
            f"{threads} thread(s), {len(chosen)} models: in the geometric mean {mean:.2f} times "
            f"faster than onnxruntime fp32 (goal 1.8); at worst {worst:.3f} times the time of the "
            "best passing peer (goal 1.02)"
        )
    return lines


_PAGE = """\
# Compiled models against peers

Written by `benchmarks/compile/peers.py`; do not edit. `edgessl compile --target host` against what
a person would otherwise take, batch 1, {size} pixels, all arms of a row side by side in one run.
The timm models have random weights with batch-norm statistics set from real images. A peer counts
if it passes the gate that our bundle passes, on the same {held} held-out photographs; *ratio* is
our time over the best such peer's, with its 95 % interval. Where ours and the peer are the same
engine and precision the ratio is noise around 1.

{cpu}, {cores} cores; {versions}.

{summary}

| model | threads | chosen | p50, ms | best passing peer | ratio | times onnxruntime fp32's speed |
|---|---|---|---|---|---|---|
{rows}

INT8 is absent where it loses too much of these random weights. All arms and their fidelity stand in
[benchmarks/results/compile_peers.json](../benchmarks/results/compile_peers.json).
"""


def _page(result: dict[str, Any]) -> str:
    rows = []
    for key, row in result["rows"].items():
        name, threads = key.split()
        peer = row["best_passing_peer"]
        found = row["ratios_to_peers"][peer]
        interval = f"{found['low']:.2f} to {found['high']:.2f}"
        rows.append(
            f"| {name} | {threads} | {row['chosen']} | {row['p50_ms']['edgessl']:.2f} | {peer} "
            f"| {found['ratio']:.3f} ({interval}) "
            f"| {row['speedup_over_onnxruntime_fp32']:.2f} |"
        )
    return _PAGE.format(
        size=result["image_size"],
        held=result["held_out_samples"],
        cpu=result["environment"]["cpu"],
        cores=os.cpu_count(),
        versions=", ".join(f"{k} {v}" for k, v in result["versions"].items()),
        summary="\n".join(f"- {line}" for line in _summary(result["rows"])),
        rows="\n".join(rows),
    )


if __name__ == "__main__":
    main()
