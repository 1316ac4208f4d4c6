"""Nine models for four generations of Qualcomm NPUs, compiled and emulated without a device.

    python benchmarks/compile/qualcomm.py [--data IMAGES] [--models FOLDER] [name …]

Each cell is one ``compile_model`` with an empty cache: 32 calibration images and 8 others, on
which the HTP emulator is compared with float32 onnxruntime. The goal: everything compiles, and
16-bit activations reach a mean cosine of 0.98; on v68, which is int8 only, they are refused.
Cells that ``benchmarks/results/qualcomm.json`` holds already are left out; ``--again`` repeats
them. About a minute each; the models (see ``timm_models.py``) are kept in ``--models``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from model_names import DATA, MODELS

from edgessl import __version__
from edgessl.benchmarking.environment import fingerprint
from edgessl.compiler import compile_model
from edgessl.compiler.backends import BuildRequest
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.process import WorkerFailure, ask
from edgessl.errors import EdgeSSLError, TargetError
from edgessl.files import write_json, write_text
from edgessl.progress import silent
from edgessl.targets import CandidateSpec, load_target

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "qualcomm.json"
PAGE = HERE.parents[1] / "docs" / "targets-qualcomm.md"
MARKS = ("<!-- the matrix -->\n", "<!-- end of the matrix -->\n")
TARGETS = {
    73: "npu-qualcomm-qcs8550",
    68: "npu-qualcomm-qcs6490",
    75: "npu-qualcomm-8gen3",
    79: "npu-qualcomm-8elite",
}
PRECISIONS = ("a16w8", "int8")
GOAL = 0.98
CALIBRATION, EMULATED, SEED, SIZE = 32, 8, 0, 224
PACKAGES = ("onnx", "onnxruntime", "onnxruntime-qnn", "onnxslim", "timm", "torch")

EXPORT_UNFUSED = """
import sys, timm, torch
torch.manual_seed(0)
model = timm.create_model("repvit_m1", pretrained=False, num_classes=0).eval()
program = torch.onnx.export(
    model, (torch.randn(1, 3, 224, 224),), dynamo=True, input_names=["images"],
    output_names=["embeddings"], external_data=False, verbose=False,
)
program.save(sys.argv[1])
"""


def main() -> None:
    """Fill in the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=Path("runs/timm-models"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="repeat cells that are there")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"{arguments.data}: no such folder; left out. Pass --data")
        return
    export = [sys.executable, str(HERE / "timm_models.py"), str(arguments.models)]
    subprocess.run([*export, *arguments.names, "--data", str(arguments.data)], check=True)
    images = np.load(arguments.models / "images.npy")[: CALIBRATION + EMULATED]
    cells, traps = _known(arguments.json)
    for precision in PRECISIONS:
        for arch in TARGETS:
            for name in arguments.names:
                key = f"{name} v{arch} {precision}"
                if key in cells and not arguments.again:
                    continue
                cells[key] = _cell(arguments.models / f"{name}.onnx", arch, precision, images)
                write_json(arguments.json, _result(cells, traps))
                print(f"{key:44} {_line(cells[key])}", flush=True)
    if "repvit_m1 unfused" not in traps or arguments.again:
        traps["repvit_m1 unfused"] = _unfused(images)
        write_json(arguments.json, _result(cells, traps))
    _write_table(cells)
    summary = _result(cells, traps)["summary"]
    print(json.dumps(summary, indent=2))
    sys.exit(0 if summary["met"] else 1)


def _cell(model: Path, arch: int, precision: str, images: np.ndarray) -> dict[str, Any]:
    # The gate is open, so that a poor result is measured and not refused.
    target = load_target(TARGETS[arch]).model_copy(update={"min_neighbour_agreement": 0.0})
    cell: dict[str, Any] = {"target": target.name, "model_bytes": model.stat().st_size}
    with tempfile.TemporaryDirectory() as folder, _Peak() as peak:
        os.environ["EDGESSL_CACHE"] = str(Path(folder) / "cache")
        start = time.monotonic()
        try:
            report = compile_model(
                model,
                target=target,
                calibration={"images": images},
                out=Path(folder) / "model.edge",
                overrides={
                    "precision": precision,
                    "samples": CALIBRATION,
                    "held_out": EMULATED,
                    "seed": SEED,
                    "threads": 1,
                    "min_fidelity": 0.01,
                    "max_float_layers": 0,
                },
            )
        except TargetError as error:
            return {**cell, "status": "refused", "reason": str(error)}
        except EdgeSSLError as error:
            return {**cell, "status": "failed", "reason": str(error)}
        seconds = time.monotonic() - start
    manifest = report.manifest
    if manifest is None or manifest.fidelity is None:
        raise SystemExit(f"{model.name}: compiled without a manifest")
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    fidelity = manifest.fidelity
    return {
        **cell,
        "status": "compiled",
        "seconds": round(seconds, 1),
        "worker_peak_memory_bytes": peak.bytes,
        "binary_bytes": sizes["ctx.onnx"],
        "htp_arch": manifest.requirements.htp_arch,
        "qairt": manifest.provenance.toolchain["qairt"],
        "emulated_samples": fidelity.samples,
        "cosine_mean": fidelity.cosine_mean,
        "cosine_p1": fidelity.cosine_p1,
        "centred_cosine_mean": fidelity.centred_cosine_mean,
        "sqnr_db": fidelity.sqnr_db,
    }


class _Peak:
    """Largest high-water mark (VmHWM) of a child of this process, sampled every 50 ms."""

    bytes = 0

    def __enter__(self) -> _Peak:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            for task in Path("/proc/self/task").iterdir():
                try:
                    children = (task / "children").read_text(encoding="ascii").split()
                    marks = [_high_water(int(child)) for child in children]
                except OSError:
                    continue  # it ended meanwhile
                self.bytes = max([self.bytes, *marks])


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _unfused(images: np.ndarray) -> dict[str, str]:
    """The compiler's crash on branches that were not fused, without the graph's preparation.

    `edgessl compile` fuses them, so it is met only by going past it.
    """
    spec = CandidateSpec(engine="qnn", precision="a16w8", scheme="qnn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-c", EXPORT_UNFUSED, str(folder / "unfused.onnx")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        graph = prepare_graph(folder / "unfused.onnx", folder / "prepared.onnx", batch_size=1)
        source = ArrayCalibration({"images": images[:8]})
        store(source, np.arange(8), graph, folder / "samples", progress=silent)
        (folder / "build").mkdir()
        request = BuildRequest(
            graph=graph,
            candidate=spec,
            target=load_target(TARGETS[73]),
            here=False,
            calibration=str(folder / "samples"),
            folder=str(folder / "build"),
            threads=1,
            reduce_range=False,
        )
        try:
            ask(folder / "build", "build", request=request.model_dump(mode="json"))
        except WorkerFailure as failure:
            return {"outcome": failure.summary}
    return {"outcome": "compiled"}


def _result(cells: dict[str, Any], traps: dict[str, Any]) -> dict[str, Any]:
    compiled = {k: c for k, c in cells.items() if c["status"] == "compiled"}
    wide = {k: c["cosine_mean"] for k, c in compiled.items() if k.endswith("a16w8")}
    narrow = {k: c["cosine_mean"] for k, c in compiled.items() if k.endswith("int8")}
    refused = [k for k, c in cells.items() if c["status"] == "refused"]
    failed = [k for k, c in cells.items() if c["status"] == "failed"]
    whole = len(cells) == len(MODELS) * len(TARGETS) * len(PRECISIONS)
    rightly = all(" v68 a16w8" in key for key in refused)
    return {
        "schema_version": 1,
        "what": "context binaries for Qualcomm NPUs, fidelity on the HTP emulator",
        "goal": f"all compile; a16w8: mean cosine to float32 at least {GOAL}; none on v68",
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {
            "calibration_samples": CALIBRATION,
            "emulated_samples": EMULATED,
            "image_size": SIZE,
            "seed": SEED,
            "weights": "random, batch-norm statistics from 256 real images",
        },
        "versions": {"edgessl": __version__, **{name: version(name) for name in PACKAGES}},
        "environment": fingerprint().model_dump(mode="json"),
        "cells": dict(sorted(cells.items())),
        "traps": traps,
        "summary": {
            "compiled": len(compiled),
            "refused": len(refused),
            "failed": failed,
            "least_cosine_a16w8": min(wide.values(), default=None),
            "below_goal_a16w8": sorted(k for k, value in wide.items() if value < GOAL),
            "least_cosine_int8": min(narrow.values(), default=None),
            "median_cosine_int8": float(np.median(list(narrow.values()))) if narrow else None,
            "most_seconds": max((c["seconds"] for c in compiled.values()), default=None),
            "met": whole and not failed and rightly and min(wide.values(), default=0) >= GOAL,
        },
    }


def _write_table(cells: dict[str, Any]) -> None:
    """Put the means into the page, between its marks."""
    columns = [(p, arch) for p in PRECISIONS for arch in sorted(TARGETS)]
    heads = [f"{precision} v{arch}" for precision, arch in columns]
    rows = [f"| model | {' | '.join(heads)} |", "|---|" + "---|" * len(columns)]
    for name in MODELS:
        found = [cells.get(f"{name} v{arch} {precision}", {}) for precision, arch in columns]
        values = [
            f"{c['cosine_mean']:.4f}" if "cosine_mean" in c else c.get("status", "") for c in found
        ]
        rows.append(f"| {name} | {' | '.join(values)} |")
    text = PAGE.read_text("utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    write_text(PAGE, before + MARKS[0] + "\n".join(rows) + "\n" + MARKS[1] + after)


def _known(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        return {}, {}
    known = json.loads(path.read_text("utf-8"))
    return known["cells"], known.get("traps", {})


def _line(cell: dict[str, Any]) -> str:
    if cell["status"] != "compiled":
        return f"{cell['status']}: {cell['reason']}"
    return (
        f"cosine {cell['cosine_mean']:.4f} (p1 {cell['cosine_p1']:.4f}), "
        f"{cell['binary_bytes'] / 1e6:.1f} MB, {cell['seconds']:.0f} s, "
        f"{cell['worker_peak_memory_bytes'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
