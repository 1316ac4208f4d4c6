"""OpenVINO on a CPU: float32, bfloat16 by an execution hint, INT8 by NNCF or from QDQ."""

from __future__ import annotations

from pathlib import Path

from edgessl.compiler.backends import BuildRequest, Built
from edgessl.errors import TargetError
from edgessl.optional import require

__all__ = ["OpenVINOBackend"]

_HINTS = {"bf16": "bf16", "fp32": "f32", "int8": "f32"}


class OpenVINOBackend:
    """Builds an intermediate representation: ``model.xml`` with ``model.bin``."""

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """See `edgessl.compiler.backends.Backend`."""
        precision = request.candidate.precision
        if precision not in _HINTS:
            raise TargetError(
                f"openvino has no '{precision}' on a CPU; choose {', '.join(sorted(_HINTS))}"
            )
        openvino = require("openvino", extra="openvino")
        source, toolchain = Path(request.graph.path), {"openvino": str(openvino.__version__)}
        if precision == "int8":
            source, versions = request.quantize()
            toolchain |= versions
        out = Path(request.folder) / "model.xml"
        # The model keeps the file open that it was read from, so the result has another name.
        openvino.save_model(openvino.Core().read_model(source), out, compress_to_fp16=False)
        return Built(
            model=out.name,
            files=(out.name, out.with_suffix(".bin").name),
            options={"threads": request.threads, "inference_precision": _HINTS[precision]},
            toolchain=toolchain,
        )
