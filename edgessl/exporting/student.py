"""Students that were trained for a target's integers: their ONNX file is part of the run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from edgessl.config import Options
from edgessl.errors import RunError, UsageError
from edgessl.files import atomic_path, sha256_file
from edgessl.progress import Progress, ProgressEvent
from edgessl.run_directory import RunDirectory

__all__ = [
    "ExportReport",
    "StudentFacts",
    "hand_out",
    "read_student_facts",
    "trained_student",
]


class ExportReport(Options):
    """What was written, and how close it is to PyTorch in onnxruntime.

    Attributes:
        max_abs_difference: Over all compared values.
        min_cosine: Over all compared embeddings.
        samples: Embeddings compared.
    """

    path: str
    sha256: str
    size_bytes: int
    opset: int
    embedding_dim: int
    max_abs_difference: float
    min_cosine: float
    samples: int


class StudentFacts(Options):
    """What is written beside ``exported/student.onnx``.

    Attributes:
        target: The device whose quantizer placed the integers.
        scheme: Of the quantizer (``"u8s8"``, ``"qnn"``, …).
        precision: ``"int8"`` or ``"a16w8"``.
        opset: ONNX operator set.
        embedding_dim: D.
        max_abs_difference: To PyTorch with fake quantization, relative to the largest magnitude
            of the embedding.
        mean_cosine: To PyTorch with fake quantization.
        min_cosine: Likewise, of the worst sample.
        samples: Embeddings compared.
        kept_float: Nodes that the target's quantizer leaves in floating point.
    """

    target: str
    scheme: str
    precision: str
    opset: int
    embedding_dim: int
    max_abs_difference: float
    mean_cosine: float
    min_cosine: float
    samples: int
    kept_float: tuple[str, ...] = ()


def trained_student(run: Path) -> RunDirectory | None:
    """The run, if its student was trained for a target's integers; None for any other.

    Raises:
        RunError: That training is not finished.
    """
    directory = RunDirectory(run)
    if not RunDirectory.is_run(directory.integers_path):
        return None
    if not directory.student_path.is_file():
        raise RunError(
            f"{run}: the training for the target's integers is not finished; go on with --resume, "
            f"or give {directory.encoder_path} for the float student"
        )
    return directory


def hand_out(
    run: RunDirectory, out: Path, overrides: Mapping[str, Any], progress: Progress
) -> ExportReport:
    """Copy a trained integer graph out of its run.

    Raises:
        UsageError: A setting is given: the graph is as it was trained.
        RunError: The facts beside the graph cannot be read.
        OutputError: ``out`` cannot be written.
    """
    if overrides:
        raise UsageError(
            f"export: {run.path} holds integers trained for a target, whose graph takes no "
            f"'{min(overrides)}'; leave it out, or export {run.encoder_path}"
        )
    facts = read_student_facts(run)
    with atomic_path(out) as temporary:
        shutil.copyfile(run.student_path, temporary)
    progress(ProgressEvent("export", 1, 1, "stages"))
    return ExportReport(
        path=str(out),
        sha256=sha256_file(out),
        size_bytes=out.stat().st_size,
        opset=facts.opset,
        embedding_dim=facts.embedding_dim,
        max_abs_difference=facts.max_abs_difference,
        min_cosine=facts.min_cosine,
        samples=facts.samples,
    )


def read_student_facts(run: RunDirectory) -> StudentFacts:
    """What stands beside ``exported/student.onnx``.

    Raises:
        RunError: It is missing or damaged.
    """
    place = run.student_path.with_suffix(".json")
    try:
        return StudentFacts.model_validate_json(place.read_bytes())
    except (OSError, pydantic.ValidationError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise RunError(f"{place}: cannot be read ({line}); train with --resume again") from error
