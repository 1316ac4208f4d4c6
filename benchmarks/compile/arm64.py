"""Compile for `cpu-arm64` on this machine and run the bundles on an emulated Cortex-A76.

Under qemu's user mode (see `arm64_machine`), with edgessl's own command line: `edgessl finalize`
makes the bundle native, `edgessl verify` must pass with its canaries, and `edgessl infer` must give
what onnxruntime gives here for the same file. Emulated time says nothing about a device, so it is
not among the results.

    python benchmarks/compile/arm64.py [--json benchmarks/results/arm64.json] [--cache FOLDER]

Needs the extras train and compile, and photographs to calibrate with (``--data``). Sets the machine
up in the cache folder the first time. Exit code 1 if a bundle fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from arm64_machine import DEFAULT_FOLDER, ArmMachine

from edgessl.bundle.archive import open_bundle
from edgessl.compiler import compile_model
from edgessl.runtime.session import open_session
from edgessl.targets import Target, load_target

RESULTS = Path(__file__).parents[1] / "results" / "arm64.json"
MODELS = ("mobilenetv3_small_100", "resnet18")
_FED = 4
# One process, because the emulator takes seconds to start Python.
_COMMANDS = """
import contextlib, io, json, sys
from edgessl.cli.main import main
said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(words)
    if code:
        sys.exit(code)
    said.append(out.getvalue())
print(json.dumps(said))
"""


def main() -> None:
    """Run each model and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--cache", type=Path, default=DEFAULT_FOLDER, help="where the machine is")
    parser.add_argument("--data", type=Path, default=None, help="a folder of photographs")
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    from timm_models import DATA, write_images, write_model

    machine = ArmMachine(arguments.cache)
    start = time.monotonic()
    machine.set_up()
    set_up_s = round(time.monotonic() - start, 1)
    result: dict[str, Any] = {
        "schema_version": 1,
        "what": "bundles for cpu-arm64, compiled on x86-64, run by edgessl under qemu's user mode",
        "machine": machine.facts,
        "set_up_s": set_up_s,
        "compiled_on": platform.machine(),
        "versions": {name: version(name) for name in ("edgessl", "onnxruntime", "numpy")},
        "bundles": [],
    }
    arguments.json.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = arguments.data or DATA
        write_images(data, arguments.size, folder / "images.npy")
        for model in arguments.models:
            write_model(model, data, arguments.size, folder / f"{model}.onnx")
            for precision in ("int8", "fp32"):
                row = run(machine, folder / f"{model}.onnx", folder / "images.npy", precision)
                result["bundles"].append(row)
                print(json.dumps(row), flush=True)
                arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(row["passed"] for row in result["bundles"]) else 1)


def run(machine: ArmMachine, model: Path, samples: Path, precision: str) -> dict[str, Any]:
    """Compile one model, verify and run it on the Arm machine, compare with this machine.

    Args:
        machine: Set up.
        model: The ``.onnx`` file, with one input.
        samples: Its calibration samples, ``.npy``; the first few are also fed.
        precision: ``"int8"`` or ``"fp32"``.
    """
    bundle = model.with_suffix(f".{precision}.edge")
    report = compile_model(
        model,
        target=_ungated(),
        calibration=samples,
        out=bundle,
        overrides={"precision": precision, "threads": 1},
    )
    fed = np.load(samples, mmap_mode="r")[:_FED]
    inputs, outputs = model.with_suffix(".inputs.npy"), model.with_suffix(".outputs.npy")
    np.save(inputs, fed)
    native = bundle.with_suffix(".native.edge")
    steps = (
        ["finalize", str(bundle), "--out", str(native), "--threads", "1", "--rounds", "3"],
        ["verify", str(native), "--json"],
        ["infer", str(native), str(inputs), "--out", str(outputs)],
    )
    row: dict[str, Any] = {
        "model": model.stem,
        "precision": precision,
        "scheme": report.chosen,
        "size_bytes": bundle.stat().st_size,
        "samples": len(fed),
    }
    done = machine.python(["-c", _COMMANDS, json.dumps(steps)])
    if done.returncode:
        return {**row, "passed": False, "reason": done.stderr.strip()[-300:]}
    said = json.loads(done.stdout)
    canaries = json.loads(said[1])["canaries"]
    here, there = _here(bundle, np.asarray(fed)), np.load(outputs)
    cosine = (here * there).sum(1) / np.linalg.norm(here, axis=1) / np.linalg.norm(there, axis=1)
    return {
        **row,
        "passed": bool(canaries["finite"] and cosine.min() > 0.999),
        "canaries": canaries,
        "min_cosine_to_x86": round(float(cosine.min()), 7),
        "max_abs_difference_to_x86": float(np.abs(here - there).max()),
        "largest_value": float(np.abs(here).max()),
        "equal_values": round(float((here == there).mean()), 4),
    }


def _ungated() -> Target:
    """The target without its gate: here it counts that both machines compute the same."""
    gate = {"min_fidelity": 0.01, "min_neighbour_agreement": 0.0, "min_sqnr_db": 0.0}
    return load_target("cpu-arm64").model_copy(update=gate)


def _here(bundle: Path, fed: Any) -> Any:
    """The same file in this machine's onnxruntime, ``(N, D)``."""
    with tempfile.TemporaryDirectory() as folder, open_bundle(bundle) as opened:
        model = opened.extract(Path(folder))
        with open_session("onnxruntime", model, {"threads": 1}) as session:
            name = session.inputs[0].name
            rows = [next(iter(session.run({name: one[None]}).values())) for one in fed]
    return np.concatenate(rows).reshape(len(fed), -1)


if __name__ == "__main__":
    main()
