"""onnxruntime on a CPU: float32 as it is, INT8 as QDQ, INT8 and INT4 weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.backends.cpu import cpu_requirements, host_stand_in
from edgessl.compiler.process import note_step
from edgessl.errors import TargetError
from edgessl.optional import require

__all__ = ["OnnxRuntimeBackend"]

_QUANTIZED = ("int8", "w8", "w4")
_REFUSED = {
    "fp16": "has no fp16 kernels on a CPU: it casts to fp32 and back, which gains nothing",
    "bf16": "has no 'bf16' on a CPU",
    "a16w8": "computes 16-bit activations more slowly than fp32 on a CPU",
}


class OnnxRuntimeBackend:
    """Builds ``model.onnx`` for onnxruntime's CPU provider.

    Threads are those of the request; whether idle threads spin stays at the engine's default.
    `edgessl finalize` chooses both by measuring on the device.
    """

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """See `edgessl.compiler.backends.Backend`."""
        precision = request.candidate.precision
        source, toolchain = Path(request.graph.path), dict[str, str]()
        if precision in _REFUSED:
            raise TargetError(
                f"onnxruntime {_REFUSED[precision]}; choose fp32 or int8, or openvino"
            )
        if precision in _QUANTIZED:
            note_step(Path(request.folder), "quantize")
            source, toolchain = request.quantize()
        if source.suffix != ".onnx":
            raise TargetError(
                f"onnxruntime cannot open what the scheme '{request.candidate.scheme}' gives; "
                "choose u8s8 or s8s8"
            )
        out = Path(request.folder) / "model.onnx"
        shutil.copyfile(source, out)
        options: dict[str, OptionValue] = {**request.options, "threads": request.threads}
        version = str(require("onnxruntime", extra="compile").__version__)
        stand_in = host_stand_in("onnxruntime", version, out.name, options)
        return Built(
            model=out.name,
            files=(out.name,),
            options=options,
            toolchain=toolchain,
            kind="native" if request.here else "portable",
            version=version,
            stand_ins=() if request.here else (stand_in,),
            requirements=cpu_requirements(request),
        )
