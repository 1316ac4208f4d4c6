"""Peak memory of ``edgessl compile``: at most 3 times the model plus 500 MB.

The peak is that of the whole process tree: every 10 ms the high-water marks (VmHWM) of all live
processes are added up, and the largest sum counts. That is an upper bound, because the marks of
two processes need not be reached at the same moment.

    python benchmarks/compile_memory.py [--json benchmarks/results/compile_memory.json]

Needs the extras train and compile. Writes models and samples to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
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

MODELS = ("resnet18", "resnet50", "mobilenetv3_small_100", "vit_tiny_patch16_224")
RESULTS = Path(__file__).parent / "results" / "compile_memory.json"
SAMPLES = 500
SIZE = 224
MB = 1_000_000
EXPORT = """
import sys, timm, torch
torch.manual_seed(0)
model = timm.create_model(sys.argv[1], pretrained=False, num_classes=0).eval()
program = torch.onnx.export(
    model, (torch.randn(1, 3, {size}, {size}),), dynamo=True, input_names=["images"],
    output_names=["embeddings"], external_data=False, verbose=False,
)
program.save(sys.argv[2])
"""


def main() -> None:
    """Measure each model and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go as JSON")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration = folder / "calibration.npy"
        _write_samples(calibration, arguments.samples)
        rows = [_measure(model, folder, calibration) for model in MODELS]
    result = {
        "schema_version": 1,
        "what": "peak memory of the process tree of edgessl compile",
        "limit": "3 * model_bytes + 500 MB",
        "samples": arguments.samples,
        "image_size": SIZE,
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": {
            p: version(p) for p in ("onnx", "onnxruntime", "openvino", "nncf", "onnxslim")
        },
        "models": rows,
    }
    for row in rows:
        print(
            f"{row['model']:24} model {row['model_bytes'] / MB:6.1f} MB  peak "
            f"{row['peak_bytes'] / MB:6.1f} MB  limit {row['limit_bytes'] / MB:6.1f} MB  "
            f"{row['seconds']:.0f} s"
        )
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(r["peak_bytes"] <= r["limit_bytes"] for r in rows) else 1)


def _write_samples(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(count, 3, SIZE, SIZE)
    )
    for index in range(count):
        images[index] = rng.standard_normal((3, SIZE, SIZE)) * (0.2 + 2 * index / count)
    images.flush()


def _measure(model: str, folder: Path, calibration: Path) -> dict[str, Any]:
    path = folder / f"{model}.onnx"
    export = [sys.executable, "-c", EXPORT.format(size=SIZE), model, str(path)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = [sys.executable, "-m", "edgessl", "compile", str(path), "--target", "cpu-x86-64"]
    command += ["--calibration", str(calibration), "--out", str(folder / f"{model}.edge")]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _tree_peak(process.pid))
        time.sleep(0.01)
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"compile of {model} ended with exit code {process.returncode}")
    return {
        "model": model,
        "model_bytes": path.stat().st_size,
        "peak_bytes": peak,
        "limit_bytes": 3 * path.stat().st_size + 500 * MB,
        "seconds": round(time.monotonic() - start, 1),
        "chosen": json.loads(output)["chosen"],
    }


def _tree_peak(root: int) -> int:
    """Sum of the high-water marks of a process and its descendants, bytes."""
    total, pending = 0, [root]
    while pending:
        pid = pending.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except OSError:
            continue  # it ended meanwhile
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
        pending += [int(child) for child in children.split()]
    return total


if __name__ == "__main__":
    main()
