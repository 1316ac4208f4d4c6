"""The arms of the student benchmark: float, quantized after training, trained for the target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_sets import CACHE, DataSet
from scores import Embedded, accuracies, embed_bundle, embed_subject, fidelity, spread

from edgessl.compiler import compile_model
from edgessl.data.calibration import open_media
from edgessl.distillation import distill
from edgessl.exporting import export
from edgessl.files import sha256_file, sha256_json, write_json
from edgessl.run_directory import RunDirectory
from edgessl.targets import Target, load_target

__all__ = ["TARGETS", "Student", "run_float", "run_post_training", "run_trained"]


@dataclass(frozen=True)
class On:
    """A target of the benchmark.

    Attributes:
        target: Name.
        engine: The engine that is asked for.
        place: Where its integers are computed here for all samples.
        emulator: True if the vendor's emulator is asked about some samples too.
    """

    target: str
    engine: str
    place: Any
    emulator: bool = False

    def load(self) -> Target:
        """The target, with a gate that lets every result pass: the benchmark wants to see it."""
        found = load_target(self.target)
        return found.model_copy(update={"min_fidelity": 1e-3, "min_neighbour_agreement": 0.0})


TARGETS = {
    "cpu-x86-64": On("cpu-x86-64", "onnxruntime", "device"),
    "npu-qualcomm-qcs6490": On("npu-qualcomm-qcs6490", "qnn", "host", emulator=True),
    "jetson-agx-orin-dla": On("jetson-agx-orin-dla", "tensorrt", "host"),
}
"""Name → target; accelerators are scored in onnxruntime, which computes what the graph says;
Qualcomm's is compared with the vendor's emulator on some samples."""


@dataclass(frozen=True)
class Student:
    """One student on one data set with one seed.

    Attributes:
        name: Backbone.
        settings: Of `distill`.
        integer_settings: Of its second phase.
    """

    data_set: DataSet
    data: Path
    teacher: Path
    name: str
    seed: int
    settings: Mapping[str, Any]
    integer_settings: Mapping[str, Any]
    calibration_samples: int
    emulated_samples: int

    @property
    def folder(self) -> Path:
        """Where its runs and bundles are: another one for other settings."""
        identity = [self.data_set.name, self.name, self.seed, dict(self.settings)]
        key = sha256_json([*identity, sha256_file(self.teacher)])[:12]
        return CACHE / "students" / f"{self.data_set.name}-{self.name}-{self.seed}-{key}"

    def result(self, arm: str, target: str) -> Path:
        """Where the result of a cell is kept."""
        if arm == "float":
            return self.folder / "float.json"
        key = sha256_json(dict(self.integer_settings))[:8]
        end = f"-{key}" if arm == "trained" else ""
        return self.folder / f"{arm}-{target}{end}.json"

    def results(self) -> Iterator[tuple[str, str, Path]]:
        """Arm, target and file of each cell."""
        yield "float", "", self.result("float", "")
        for arm in ("post-training", "trained"):
            for target in TARGETS:
                yield arm, target, self.result(arm, target)

    @property
    def run(self) -> Path:
        """The float run."""
        return self.folder / "float"


def run_float(student: Student) -> dict[str, Any]:
    """Distil without a target, and score."""

    def work() -> dict[str, Any]:
        seconds = _distil_float(student)
        embedded = embed_subject(student.run, student.data)
        embedded.write(student.folder / "float.npz")
        found = {"scores": accuracies(embedded, gallery=embedded), "train_seconds": seconds}
        return {**found, "teacher": _teacher(student), **_counts(embedded)}

    return _once(student.result("float", ""), work)


def run_post_training(student: Student, name: str) -> dict[str, Any]:
    """Quantize the float student as `edgessl compile` does, and score."""

    def work() -> dict[str, Any]:
        run_float(student)
        model = student.folder / "float.onnx"
        if not model.exists():
            export(student.run, out=model)
        return _compiled(student, model, name, "post-training")

    return _once(student.result("post-training", name), work)


def run_trained(student: Student, name: str) -> dict[str, Any]:
    """Go on with the float student, training for the target's integers; compile and score."""

    def work() -> dict[str, Any]:
        run_float(student)
        run = student.folder / f"for-{name}"
        started = time.monotonic()
        if not RunDirectory(run).student_path.exists():
            distill(
                str(student.teacher),
                student.name,
                student.data,
                out=run,
                overrides={
                    **student.settings,
                    **student.integer_settings,
                    "seed": student.seed,
                    "account": False,
                },
                for_target=TARGETS[name].load(),
                float_run=student.run,
                overwrite=True,
            )
        seconds = time.monotonic() - started
        model = student.folder / f"for-{name}.onnx"
        export(run, out=model)
        return {**_compiled(student, model, name, "trained"), "train_seconds": seconds}

    return _once(student.result("trained", name), work)


def _teacher(student: Student) -> dict[str, Any]:
    """How good the teacher is on the same samples."""

    def work() -> dict[str, Any]:
        embedded = embed_subject(student.teacher, student.data)
        return accuracies(embedded, gallery=embedded)

    return _once(student.teacher.with_suffix(".json"), work)


def _distil_float(student: Student) -> float:
    started = time.monotonic()
    if not RunDirectory(student.run).encoder_path.exists():
        distill(
            str(student.teacher),
            student.name,
            student.data,
            out=student.run,
            overrides={**student.settings, "seed": student.seed, "account": False},
            resume=RunDirectory.is_run(student.run),
        )
    return time.monotonic() - started


def _compiled(student: Student, model: Path, name: str, arm: str) -> dict[str, Any]:
    """Compile for the target and score what the bundle computes."""
    on = TARGETS[name]
    bundle = student.folder / f"{arm}-{name}.edge"
    compile_model(
        model,
        target=on.load(),
        calibration=student.data,
        out=bundle,
        open_data=open_media,
        overrides={
            "engine": on.engine,
            "precision": "int8",
            "min_fidelity": 1e-3,
            "samples": student.calibration_samples,
            "held_out": 32,
            "threads": 1,
            "max_float_layers": 0,
        },
    )
    reference = Embedded.read(student.folder / "float.npz")
    embedded = embed_bundle(bundle, student.data, on=on.place)
    found = {
        "scores": accuracies(embedded, gallery=reference),
        "fidelity": fidelity(reference["test"], embedded["test"]),
        "bundle_bytes": bundle.stat().st_size,
        **_counts(embedded),
    }
    if on.emulator:
        some = spread(len(embedded["test"]), student.emulated_samples)
        emulated = embed_bundle(
            bundle, student.data, on="emulator", test_samples=student.emulated_samples
        )["test"]
        found["emulator"] = {
            "against_host": fidelity(embedded["test"][some], emulated),
            "against_float": fidelity(reference["test"][some], emulated),
        }
    return found


def _counts(embedded: Embedded) -> dict[str, int]:
    return {f"{part}_samples": len(embedded[part]) for part in ("train", "test")}


def _once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result that is there is not made again."""
    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return result
    path.parent.mkdir(parents=True, exist_ok=True)
    result = work()
    write_json(path, result)
    return result
