"""onnxruntime on a CPU: float32 as it is, INT8 as QDQ."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgessl.compiler.backends import BuildRequest, Built
from edgessl.errors import TargetError

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend:
    """Builds ``model.onnx`` for onnxruntime's CPU provider."""

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """See `edgessl.compiler.backends.Backend`."""
        precision = request.candidate.precision
        source, toolchain = Path(request.graph.path), dict[str, str]()
        if precision == "int8":
            source, toolchain = request.quantize()
        elif precision != "fp32":
            raise TargetError(
                f"onnxruntime has no '{precision}' on a CPU; choose fp32 or int8, or openvino"
            )
        if source.suffix != ".onnx":
            raise TargetError(
                f"onnxruntime cannot open what the scheme '{request.candidate.scheme}' gives; "
                "choose u8s8 or s8s8"
            )
        out = Path(request.folder) / "model.onnx"
        shutil.copyfile(source, out)
        return Built(
            model=out.name,
            files=(out.name,),
            options={"threads": request.threads},
            toolchain=toolchain,
        )
