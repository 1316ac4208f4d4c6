"""What fake quantization costs: a training step for a target's integers beside a float step.

Both steps are forward, backward and AdamW on the same batch. The float step trains the timm model
with its batch norms in training mode; the other replays the target's QDQ graph, in which they are
folded. Steps of the arms alternate in one process, and a ratio is the median over rounds of
neighbouring steps, so that other work on the machine falls on all alike.

    python benchmarks/distillation/step_cost.py [--json FILE]

Needs the extras train and compile. Writes models to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("mobilenetv3_small_050", "resnet18")
SIZES = (64, 96)
THREADS = (1, 2)
BATCH = 64
LIMIT = 1.6
TARGET = "cpu-x86-64-vnni"
RESULTS = Path(__file__).parents[1] / "results" / "distillation_step_cost.json"


def main() -> None:
    """Measure each model, size and number of threads in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go as JSON")
    parser.add_argument("--rounds", type=int, default=20, help="steps per arm")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--threads", nargs="+", type=int, default=list(THREADS))
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        folder, model, threads = arguments.cell
        cell = measure(Path(folder), model, int(threads), arguments.rounds, arguments.sizes[0])
        sys.stdout.write(json.dumps(cell))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.models:
            for size in arguments.sizes:
                folder = Path(name) / f"{model}-{size}"
                make_graph(folder, model, size, arguments.target)
                for threads in arguments.threads:
                    rows.append(_in_a_process(folder, model, size, threads, arguments.rounds))
                    sys.stderr.write(f"{json.dumps(rows[-1])}\n")
    result = {
        "schema_version": 1,
        "what": "a training step with fake quantization divided by a float step",
        "how": "median over rounds of neighbouring steps, all arms in one process",
        "goal": f"at most {LIMIT}",
        "goal_met": all(row["ratio"]["moving_average"] <= LIMIT for row in rows),
        "target": arguments.target,
        "batch_size": BATCH,
        "rounds": arguments.rounds,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "timm", "onnx", "onnxruntime")},
        },
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def _in_a_process(folder: Path, model: str, size: int, threads: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--cell", str(folder), model, str(threads)]
    command += ["--rounds", str(rounds), "--sizes", str(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def make_graph(folder: Path, model: str, size: int, target: str) -> None:
    """Export a timm model and have the target's quantizer place its integers."""
    import torch

    from edgessl.compiler.integers import integer_graph

    folder.mkdir(parents=True, exist_ok=True)
    network = _network(model).eval()
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        opset_version=18,
        input_names=["images"],
        output_names=["embedding"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.save(str(folder / "model.onnx"))
    samples = np.random.default_rng(0).standard_normal((128, 3, size, size)).astype(np.float32)
    np.save(folder / "samples.npy", samples)
    integer_graph(
        folder / "model.onnx",
        target=target,
        calibration=str(folder / "samples.npy"),
        folder=folder,
        overrides={"engine": "onnxruntime", "samples": 64, "held_out": 16, "method": "minmax"},
    )


def _network(model: str) -> Any:
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=0)
    # As edgessl trains its students.
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def measure(folder: Path, model: str, threads: int, rounds: int, size: int) -> dict[str, Any]:
    """One row: milliseconds and ratios of all arms."""
    import torch

    from edgessl.distillation.integers import IntegerBackbone

    torch.set_num_threads(threads)
    files = (folder / "float.onnx", folder / "integers.onnx")
    frozen = IntegerBackbone.from_graph(*files)
    frozen.freeze_ranges()
    arms = {
        "float": _network(model),
        "moving_average": IntegerBackbone.from_graph(*files),
        "frozen": frozen,
        "learned": IntegerBackbone.from_graph(*files, ranges="learned"),
    }
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    steps = {name: _step(network.train(), images) for name, network in arms.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 3):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if round_ >= 3:
                times[name].append((time.perf_counter() - begin) * 1e3)
    ratios = {
        name: statistics.median(
            mine / base for mine, base in zip(values, times["float"], strict=True)
        )
        for name, values in times.items()
        if name != "float"
    }
    return {
        "model": model,
        "image_size": size,
        "threads": threads,
        "step_p50_ms": {n: round(statistics.median(v), 2) for n, v in times.items()},
        "step_min_ms": {n: round(min(v), 2) for n, v in times.items()},
        "ratio": {n: round(v, 3) for n, v in ratios.items()},
        "ratio_of_minima": {
            n: round(min(v) / min(times["float"]), 3) for n, v in times.items() if n != "float"
        },
    }


def _step(network: Any, images: Any) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    with torch.no_grad():
        target = torch.randn_like(network(images))

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(images), target)
        loss.backward()
        optimizer.step()

    return step


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
