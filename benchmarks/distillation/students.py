"""Students of several architectures: float, quantized after training, trained for their target.

    python benchmarks/distillation/students.py [--data FOLDER] [--quick]
        [--data-set NAME …] [--student NAME …] [--target NAME …] [--seed N …]
        [--arm float post-training trained] [--collect]

Teachers come from `teachers.py`, which is run first where they are missing. Every cell (data set,
student, seed, arm, target) is kept in the cache folder (``EDGESSL_CACHE``) when it is done, and is
not run again; several processes may share the work by ``--seed`` or ``--data-set``. Whatever is
done goes into ``benchmarks/results/distillation.json`` and ``docs/benchmark-distillation.md``.
``--quick`` is a smoke test of minutes whose results go nowhere. One thread per process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from arms import TARGETS, Student, run_float, run_post_training, run_trained
from data_sets import DATA, DATA_SETS, ROOT
from student_page import PAGE, RESULTS, write_page
from teachers import BACKBONE, teacher

from edgessl import __version__
from edgessl.benchmarking.environment import fingerprint
from edgessl.files import write_json

STUDENTS = ("resnet18@0.25", "mobilenetv3_small_050", "efficientvit_b0")
SEEDS = (0, 1, 2)
ARMS = ("float", "post-training", "trained")
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-qnn", "timm", "torch")
COMMON = {"learning_rate": 2e-3, "view_seeds": 4, "threads": 1, "probe_epochs": 0}
INTEGER: dict[str, Any] = {}
CALIBRATION, EMULATED = 300, 32


def main() -> None:
    """Run what is missing, write what is there."""
    arguments = _arguments()
    torch.set_num_threads(1)
    if not arguments.collect:
        for student in _students(arguments):
            for arm in arguments.arm:
                for target in [""] if arm == "float" else arguments.target:
                    _cell(student, arm, target)
    if arguments.quick:
        return
    result = _collect(arguments)
    write_json(RESULTS, result)
    write_page(json.loads(RESULTS.read_text("utf-8")), PAGE)
    print(f"{len(result['cells'])} cells in {RESULTS.relative_to(ROOT)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--data-set", nargs="+", choices=sorted(DATA_SETS), default=list(DATA_SETS))
    parser.add_argument("--student", nargs="+", default=list(STUDENTS))
    parser.add_argument("--target", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--arm", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--collect", action="store_true", help="run nothing, write the results")
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes no results")
    return parser.parse_args()


def _students(arguments: argparse.Namespace) -> Iterator[Student]:
    """All students of the first seed come before any of the second."""
    quick = arguments.quick
    for seed in arguments.seed[:1] if quick else arguments.seed:
        for name in arguments.data_set[:1] if quick else arguments.data_set:
            data_set = DATA_SETS[name]
            for student in arguments.student[:1] if quick else arguments.student:
                yield Student(
                    data_set=data_set,
                    data=data_set.samples(arguments.data),
                    teacher=teacher(data_set, arguments.data, epochs=1 if quick else None),
                    name=student,
                    seed=seed,
                    settings={
                        **COMMON,
                        **data_set.views,
                        "image_size": data_set.size,
                        "batch_size": data_set.batch_size,
                        "epochs": 2 if quick else data_set.epochs,
                    },
                    integer_settings={"integer_epochs": 1} if quick else INTEGER,
                    calibration_samples=32 if quick else CALIBRATION,
                    emulated_samples=4 if quick else EMULATED,
                )


def _cell(student: Student, arm: str, target: str) -> dict[str, Any]:
    started = time.monotonic()
    if arm == "float":
        result = run_float(student)
    else:
        result = (run_post_training if arm == "post-training" else run_trained)(student, target)
    scores = ", ".join(f"{k} {100 * v:.1f}" for k, v in result["scores"].items() if v <= 1)
    where = f"{student.data_set.name} {student.name} seed {student.seed} {arm} {target}".strip()
    print(f"{where}: {scores} ({time.monotonic() - started:.0f} s)", flush=True)
    return result


def _collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """All cells that are done, with the present settings."""
    cells: dict[str, Any] = {}
    arguments.seed, arguments.data_set = list(SEEDS), list(DATA_SETS)
    arguments.student = list(STUDENTS)
    for student in _students(arguments):
        where = f"{student.data_set.name}/{student.name}/{student.seed}"
        for arm, target, path in student.results():
            if path.exists():
                key = "/".join(part for part in (where, arm, target) if part)
                cells[key] = json.loads(path.read_text("utf-8"))
    return {
        "benchmark": "distillation: students",
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "edgessl": __version__,
        "environment": fingerprint().model_dump(mode="json"),
        "versions": {name: version(name) for name in PACKAGES},
        "teacher": {
            "backbone": BACKBONE,
            "trained": "from labels",
            "epochs": {name: one.teacher_epochs for name, one in DATA_SETS.items()},
            "size": {name: one.teacher_size for name, one in DATA_SETS.items()},
        },
        "data_sets": {name: one.says for name, one in DATA_SETS.items()},
        "settings": {
            name: {
                **COMMON,
                **one.views,
                "image_size": one.size,
                "batch_size": one.batch_size,
                "epochs": one.epochs,
                **INTEGER,
            }
            for name, one in DATA_SETS.items()
        },
        "calibration_samples": CALIBRATION,
        "emulated_samples": EMULATED,
        "seeds": list(SEEDS),
        "cells": cells,
    }


if __name__ == "__main__":
    main()
