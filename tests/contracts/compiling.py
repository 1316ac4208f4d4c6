"""Short ways to a target and to a compiled model, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.compiler import CompileReport, compile_model
from edgessl.targets import CandidateSpec, Target

__all__ = ["ONNX_FP32", "ONNX_INT8", "OPENVINO_FP32", "compile_quietly", "target_of"]

ONNX_FP32 = CandidateSpec(engine="onnxruntime", precision="fp32")
ONNX_INT8 = CandidateSpec(engine="onnxruntime", precision="int8", scheme="u8s8")
OPENVINO_FP32 = CandidateSpec(engine="openvino", precision="fp32")


def target_of(*candidates: CandidateSpec, **changes: Any) -> Target:
    """A target for this machine with these candidates."""
    values = {"name": "test", "description": "for tests", "family": "cpu", "arch": "any"}
    return Target.model_validate({**values, "candidates": candidates, **changes})


def compile_quietly(
    model: Path, target: Target | str, inputs: Any, **arguments: Any
) -> CompileReport:
    """Compile with one thread, to ``model.edge`` beside the model unless told otherwise."""
    overrides = {"threads": 1, **arguments.pop("overrides", {})}
    out = arguments.pop("out", model.parent / "model.edge")
    return compile_model(
        model, target=target, calibration=inputs, out=out, overrides=overrides, **arguments
    )
