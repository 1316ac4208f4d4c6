"""Every model × every target: does it compile, how long, how much memory, how large, how faithful.

    python benchmarks/compile/timm_models.py MODELS
    python benchmarks/compile/matrix.py MODELS [--model NAME …] [--target NAME …]
    python benchmarks/compile/matrix.py --page docs/compile-matrix.md

Each cell is `compile_model` in a process of its own, one after the other. The cells of a model
share a cache, as a user's do: ranges, integer graphs and latency measurements that two targets have
in common are made once, by the first of them in the alphabet. Peak
memory is that of the whole process tree: every 50 ms the high-water marks (VmHWM) of all live
processes are added up, and the largest sum counts; an upper bound, because two processes need not
reach their marks together. Cells that the result file has are not run again (`--again` runs them).
Ends with exit code 1 if a cell is not as it should be: a crash, a timeout, or `superres` compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matrix_cases import Case, cases
from matrix_page import write_page

from edgessl.benchmarking.environment import fingerprint
from edgessl.compiler import CompileReport, FidelityGateError, compile_model
from edgessl.data.calibration import open_media
from edgessl.errors import EdgeSSLError
from edgessl.files import write_json
from edgessl.targets import list_targets

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "compile_matrix.json"
PACKAGES = (
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-qnn",
    "onnxslim",
    "openvino",
    "timm",
)
SAMPLES, HELD_OUT, SEED = 64, 32, 0


def main() -> None:
    """Run what is not there yet, then write the page."""
    arguments = _arguments()
    if arguments.cell is not None:
        print(json.dumps(_cell(json.loads(arguments.cell))))
        return
    result = _load(arguments)
    if arguments.models is not None:
        todo = [
            (case, target)
            for case in cases(arguments.models, arguments.shared)
            if case.name in (arguments.model or [case.name])
            for target in arguments.target or list_targets()
        ]
        with tempfile.TemporaryDirectory(prefix="edgessl-matrix-") as arguments.cache:
            for number, (case, target) in enumerate(todo, 1):
                key = f"{case.name} {target}"
                if key in result["cells"] and not arguments.again:
                    continue
                result["cells"][key] = cell = _run(case, target, arguments)
                write_json(arguments.json, result)
                print(f"{number}/{len(todo)} {key}: {_line(cell)}", flush=True)
    write_page(result, arguments.page)
    wrong = [key for key, cell in result["cells"].items() if not cell["as_expected"]]
    print(f"{len(result['cells'])} cells, not as they should be: {', '.join(wrong) or 'none'}")
    sys.exit(1 if wrong else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="?", help="folder that timm_models.py wrote")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--model", nargs="+", help="only these models")
    parser.add_argument("--target", nargs="+", help="only these targets")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "compile-matrix.md")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds per cell")
    parser.add_argument("--again", action="store_true", help="run cells anew")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser.parse_args()


def _load(arguments: argparse.Namespace) -> dict[str, Any]:
    """The result file, or a new one; the settings of all its cells are the same."""
    settings = {
        "samples": arguments.samples,
        "held_out": arguments.held_out,
        "threads": arguments.threads,
        "seed": SEED,
    }
    if arguments.json.exists():
        result: dict[str, Any] = json.loads(arguments.json.read_text("utf-8"))
        if arguments.models is not None and result["settings"] != settings:
            raise SystemExit(f"{arguments.json}: made with {result['settings']}; use another file")
        return result
    return {
        "benchmark": "compile matrix",
        "settings": settings,
        "environment": fingerprint().model_dump(mode="json"),
        "versions": {name: _version(name) for name in PACKAGES},
        "cells": {},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _run(case: Case, target: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell, measured from outside."""
    with tempfile.TemporaryDirectory(prefix="edgessl-matrix-") as folder:
        request = {
            "model": str(case.model.absolute()),
            "calibration": str(case.calibration.absolute()),
            "target": target,
            "out": str(Path(folder) / "model.edge"),
            "overrides": {
                "samples": arguments.samples,
                "held_out": arguments.held_out,
                "threads": arguments.threads,
                "seed": SEED,
                **case.settings,
            },
        }
        command = [sys.executable, __file__, "--cell", json.dumps(request)]
        cache = {"EDGESSL_CACHE": str(Path(arguments.cache) / case.name)}
        log = Path(folder) / "log"
        start = time.monotonic()
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **cache}
            )
            peak, late = _watch(process, start + arguments.timeout)
            output, _ = process.communicate()
        seconds = time.monotonic() - start
        said = output.replace(str(case.model.absolute()).encode(), case.model.name.encode())
        cell = _answer(process.returncode, said, log.read_text("utf-8", "replace"), late)
    cell |= {
        "model": case.name,
        "target": target,
        "data": case.data,
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak,
        "model_bytes": case.model.stat().st_size,
    }
    good = ("refused",) if case.refused else ("compiled", "refused", "gate")
    cell["as_expected"] = cell["status"] in good
    return cell


def _answer(code: int, output: bytes, log: str, late: bool) -> dict[str, Any]:
    if code == 0 and not late:
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
        return answer
    lines = [line for line in log.splitlines() if line.strip()]
    what = "took longer than the limit" if late else f"ended with exit code {code}"
    last = lines[-1][:300] if lines else ""
    return {"status": "timeout" if late else "crashed", "message": f"{what}: {last}"}


def _watch(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, bool]:
    """Peak memory of the process tree until it ends, and whether it was stopped."""
    peak = 0
    while process.poll() is None:
        tree = _tree(process.pid)
        peak = max(peak, sum(_high_water_bytes(pid) for pid in tree))
        if time.monotonic() > deadline:
            for pid in reversed(tree):
                _kill(pid)
            return peak, True
        time.sleep(0.05)
    return peak, False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)


def _tree(root: int) -> list[int]:
    """A process and its descendants, parents first."""
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pending += [int(child) for child in children.read_text("ascii").split()]
            except OSError:
                continue  # the thread ended meanwhile
    return found


def _high_water_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else 0


def _cell(request: dict[str, Any]) -> dict[str, Any]:
    """Compile, in this process."""
    try:
        report = compile_model(
            request["model"],
            target=request["target"],
            calibration=request["calibration"],
            out=request["out"],
            overrides=request["overrides"],
            open_data=open_media,
        )
    except FidelityGateError as error:
        return {"status": "gate", "message": str(error), **_described(error.report)}
    except EdgeSSLError as error:
        return {"status": "refused", "message": str(error), "error": type(error).__name__}
    return {"status": "compiled", "message": "", **_described(report)}


def _described(report: CompileReport) -> dict[str, Any]:
    manifest = report.manifest
    judged = "device" if report.measured else "none"
    if manifest is not None and not report.measured and manifest.stand_ins:
        judged = manifest.stand_ins[0].kind
    return {
        "chosen": report.chosen,
        "kind": manifest.kind if manifest else None,
        "judged_on": judged,
        "bundle_bytes": report.size_bytes,
        "calibration_samples": report.calibration_samples,
        "held_out_samples": report.held_out_samples,
        "fidelity": manifest.fidelity.model_dump(mode="json")
        if manifest and manifest.fidelity
        else None,
        "candidates": [
            c.model_dump(mode="json", exclude={"fidelity"})
            | {
                "cosine_p1": c.fidelity.cosine_p1 if c.fidelity else None,
                "sqnr_db": c.fidelity.sqnr_db if c.fidelity else None,
            }
            for c in report.candidates
        ],
    }


def _line(cell: dict[str, Any]) -> str:
    what = cell.get("chosen") or cell["message"][:100]
    return (
        f"{cell['status']} {what} ({cell['seconds']} s, {cell['peak_memory_bytes'] / 1e6:.0f} MB)"
    )


if __name__ == "__main__":
    main()
