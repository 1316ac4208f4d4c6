"""`export()`: PyTorch to ONNX, checked against PyTorch before the file takes its place.

A student that was trained for a target's integers is an ONNX file already, and is handed out as it
stands.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from edgessl import __version__
from edgessl.config import Options, build_options
from edgessl.errors import GateError, ModelError
from edgessl.exporting.student import ExportReport, hand_out, trained_student
from edgessl.files import atomic_path, sha256_file
from edgessl.models import Encoder, load_encoder
from edgessl.models.weights import encoder_file
from edgessl.onnx_metadata import ModelFacts, encode
from edgessl.optional import require
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.runtime import open_session

__all__ = ["ExportOptions", "ExportReport", "export"]

INPUT_NAME = "images"
OUTPUT_NAME = "embedding"


class ExportOptions(Options):
    """Settings of the export.

    Attributes:
        opset: ONNX operator set.
        dynamic_batch: Leave the batch size open.
        batch_size: The batch size, where it is not left open.
        fold_preprocessing: Put scaling, normalisation and layout into the graph, whose input is
            then (N, H, W, C) uint8.
        max_abs_difference: Largest difference to PyTorch that passes, relative to the largest
            magnitude of the embedding.
        min_cosine: Least cosine to PyTorch that passes.
        seed: Of the inputs of the comparison.
    """

    opset: Annotated[int, Field(ge=18, le=24)] = 18
    dynamic_batch: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 1
    fold_preprocessing: bool = False
    max_abs_difference: Annotated[float, Field(gt=0)] = 1e-3
    min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.9999
    seed: Annotated[int, Field(ge=0)] = 0


def export(
    run: Path,
    *,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Write a run's encoder as ONNX.

    Of a run of ``distill --for-target`` that is the integer graph; its float student is the run's
    ``exported/encoder.safetensors``.

    Args:
        run: A run directory or an ``encoder.safetensors``.
        out: The ``.onnx`` file to be; an existing one is replaced only by a good one.
        overrides: `ExportOptions` by name.
        progress: Told of each stage.

    Raises:
        RunError: The run is not finished.
        UsageError: A setting that an integer graph does not take.
        ModelError: The encoder cannot be exported.
        GateError: The exported graph computes something else than PyTorch.
        OutputError: ``out`` cannot be written.
    """
    require("onnxscript", extra="train")
    options = build_options(ExportOptions, overrides or {}, where="export")
    student = trained_student(Path(run))
    if student is not None:
        return hand_out(student, Path(out), overrides or {}, progress)
    encoder, facts = load_encoder(Path(run))
    progress(ProgressEvent("export", 0, 2, "stages"))
    module = _ForExport(encoder, folded=options.fold_preprocessing).eval()
    taken = encoder.spec.model_copy(update={"folded": options.fold_preprocessing})
    lineage = {**facts.lineage, "encoder": sha256_file(encoder_file(Path(run)))}
    described = ModelFacts(taken, encoder.dim, lineage, __version__)
    with atomic_path(Path(out)) as temporary:
        _write(module, taken, options, encode(described), temporary)
        progress(ProgressEvent("export", 1, 2, "stages"))
        difference, cosine, samples = _compare(encoder, temporary, taken, options)
        if difference > options.max_abs_difference or cosine < options.min_cosine:
            raise GateError(
                f"{out}: the exported graph differs from PyTorch (relative difference "
                f"{difference:.2e}, cosine {cosine:.6f}); nothing was written; try another opset"
            )
        size, digest = temporary.stat().st_size, sha256_file(temporary)
    progress(ProgressEvent("export", 2, 2, "stages"))
    return ExportReport(
        path=str(out),
        sha256=digest,
        size_bytes=size,
        opset=options.opset,
        embedding_dim=encoder.dim,
        max_abs_difference=difference,
        min_cosine=cosine,
        samples=samples,
    )


class _ForExport(nn.Module):
    """The encoder with re-parameterisable blocks fused, and its preprocessing if asked for."""

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder, *, folded: bool) -> None:
        super().__init__()
        self.backbone = reparameterize_model(encoder.backbone)
        self.folded = folded
        spec = encoder.spec
        scale = 1.0 / (255.0 * torch.tensor(spec.std, dtype=torch.float64))
        shift = torch.tensor(spec.mean, dtype=torch.float64) / torch.tensor(spec.std)
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1))
        self.register_buffer("shift", shift.float().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.folded:
            images = images.permute(0, 3, 1, 2).float() * self.scale - self.shift
        embedding: Tensor = self.backbone(images)
        return embedding


def _write(
    module: nn.Module,
    spec: ImageInput,
    options: ExportOptions,
    metadata: Mapping[str, str],
    path: Path,
) -> None:
    onnx = require("onnx", extra="train")
    # Two samples: torch specialises a dynamic dimension of one.
    example = _example(spec, 2 if options.dynamic_batch else options.batch_size, options.seed)
    shapes = {INPUT_NAME: {0: torch.export.Dim("batch")}} if options.dynamic_batch else None
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (torch.from_numpy(example),),
                dynamo=True,
                opset_version=options.opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=shapes,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
            hint = "dynamic_batch=false" if options.dynamic_batch else "another backbone"
            line = (str(error).strip().splitlines() or [""])[0][:200]
            raise ModelError(f"the encoder cannot be exported ({line}); try {hint}") from error
    if program is None:
        raise ModelError("torch.onnx.export gave no program; upgrade torch")
    proto = program.model_proto
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(metadata))
    proto.producer_name, proto.producer_version = "edgessl", __version__
    _strip_traces(proto)
    onnx.checker.check_model(proto)
    onnx.save_model(proto, str(path))


def _strip_traces(proto: Any) -> None:
    """Drop the exporter's stack traces: they hold machine paths, and differ between machines."""
    for holder in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.functions):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _compare(
    encoder: Encoder, path: Path, spec: ImageInput, options: ExportOptions
) -> tuple[float, float, int]:
    """Largest relative difference and least cosine between onnxruntime and PyTorch."""
    from edgessl.preprocessing import normalize

    count = 8 if options.dynamic_batch else options.batch_size
    inputs = _example(spec, count, options.seed + 1)
    floats = normalize(inputs, spec) if spec.folded else inputs
    with torch.inference_mode():
        wanted = encoder(torch.from_numpy(floats)).numpy()
    with open_session("onnxruntime", path) as session:
        given = session.run({INPUT_NAME: inputs})[OUTPUT_NAME]
    difference = float(np.abs(wanted - given).max() / max(float(np.abs(wanted).max()), 1e-12))
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    cosine = float(((wanted * given).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    return difference, cosine, count


def _example(spec: ImageInput, count: int, seed: int) -> NDArray[Any]:
    generator = np.random.default_rng(seed)
    if spec.folded:
        shape = (count, spec.height, spec.width, spec.channels)
        return generator.integers(0, 256, shape, dtype=np.uint8)
    shape = (count, spec.channels, spec.height, spec.width)
    return generator.standard_normal(shape, dtype=np.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own internals; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=False):
                logger.setLevel(level)
