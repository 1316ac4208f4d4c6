"""OpenVINO on a CPU, an Intel GPU or an Intel NPU: an intermediate representation.

Floating point other than float32 is a hint to the plugin, not another file, except that fp16
stores its weights so. Integers come from NNCF, from QDQ or from weight compression.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgessl.bundle.manifest import OptionValue, Requirements, StandIn
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.backends.cpu import cpu_requirements, host_stand_in
from edgessl.compiler.backends.npu_compiler import compile_blob
from edgessl.compiler.backends.openvino_sums import keep_sums_apart
from edgessl.compiler.process import note_step
from edgessl.errors import ModelError, TargetError
from edgessl.optional import require
from edgessl.runtime.engines.openvino import OpenVINO, one_line, the_core

__all__ = ["OpenVINOBackend"]

_QUANTIZED = ("int8", "w8", "w4")
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_FLOATS = {"CPU": ("fp32", "bf16"), "GPU": ("fp32", "fp16"), "NPU": ("fp16",)}
_REASONS = {
    ("CPU", "fp16"): " (an f16 hint computes in bfloat16 there)",
    ("NPU", "fp32"): " (it computes in 16-bit floating point and integers)",
}


class _Output(NamedTuple):
    """The IR and what the engine is told about it."""

    file: Path
    options: dict[str, OptionValue]
    toolchain: dict[str, str]


class OpenVINOBackend:
    """Builds ``model.xml`` with ``model.bin``, and ``model.blob`` where an NPU compiler is given.

    Threads are those of the request, streams stay at one; `edgessl finalize` chooses them by
    measuring on the device.
    """

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """See `edgessl.compiler.backends.Backend`."""
        device = str(request.options.get("device", "CPU"))
        precision = _float_precision(request, device)
        output = _write(request, device, precision)
        names = (output.file.name, output.file.with_suffix(".bin").name)
        stand_ins = _stand_ins(request, output, device)
        requirements = _requirements(request, device)
        compiler = request.settings.get("npu_compiler")
        if device == "NPU" and compiler is not None:
            note_step(Path(request.folder), "NPU blob")
            platform = requirements.npu_platform or ""
            blob = compile_blob(output.file, platform=platform, compiler=Path(compiler))
            version = OpenVINO.version()
            return Built(
                model=blob.name,
                files=(blob.name, *names),
                options=output.options,
                toolchain=output.toolchain,
                version=version,
                stand_ins=stand_ins,
                requirements=requirements.model_copy(update={"engine_version": version}),
            )
        return Built(
            model=output.file.name,
            files=names,
            options=output.options,
            toolchain=output.toolchain,
            kind=_kind(request),
            version=OpenVINO.version(),
            stand_ins=stand_ins,
            requirements=requirements,
        )


def _kind(request: BuildRequest) -> Literal["native", "portable"]:
    return "native" if request.here else "portable"


def _float_precision(request: BuildRequest, device: str) -> str:
    """The precision of what computes in floating point: all of it, or beside the integers."""
    spec = request.candidate
    floats = _FLOATS.get(device)
    if floats is None:
        raise TargetError(
            f"{request.target.name}: openvino has no device '{device}'; choose CPU, GPU or NPU"
        )
    if spec.precision not in (*floats, *_QUANTIZED):
        reason = _REASONS.get((device, spec.precision), "")
        raise TargetError(
            f"openvino has no '{spec.precision}' on a {device}{reason}; choose "
            f"{', '.join((*floats, *_QUANTIZED))}"
        )
    if spec.precision in floats:
        return spec.precision
    remainder = spec.remainder or ("fp16" if device == "NPU" else "fp32")
    if remainder not in floats:
        raise TargetError(
            f"openvino has no remainder '{remainder}' on a {device}; choose {', '.join(floats)}"
        )
    return remainder


def _write(request: BuildRequest, device: str, precision: str) -> _Output:
    openvino = require("openvino", extra="openvino")
    folder = Path(request.folder)
    source, toolchain = Path(request.graph.path), {"openvino": str(openvino.__version__)}
    if request.candidate.precision in _QUANTIZED:
        note_step(folder, "quantize")
        source, versions = request.quantize()
        toolchain |= versions
    if request.graph.integers is not None:
        apart = folder / "apart.onnx"
        keep_sums_apart(source, apart)
        source = apart
    note_step(folder, "intermediate representation")
    # The model keeps the file open that it was read from, so the result has another name.
    out = folder / "model.xml"
    try:
        model = the_core().read_model(source)
    except RuntimeError as error:
        raise ModelError(
            f"openvino {OpenVINO.version()} cannot read the graph ({one_line(error)}); choose "
            "onnxruntime, or export the model without that operator"
        ) from error
    if device == "NPU" or request.target.shapes.static:
        _check_static(model, device)
    half = request.candidate.precision == "fp16"
    openvino.save_model(model, out, compress_to_fp16=half)
    options: dict[str, OptionValue] = {
        **request.options,
        "threads": request.threads,
        "inference_precision": _HINTS[precision],
    }
    return _Output(out, options, toolchain)


def _check_static(model: Any, device: str) -> None:
    dynamic = [
        f"{port.any_name} {port.partial_shape}"
        for port in model.inputs
        if not port.partial_shape.is_static
    ]
    if dynamic:
        raise ModelError(
            f"the {device} takes fixed sizes only, found {', '.join(dynamic)}; fix them with "
            "--shape INPUT=…"
        )


def _requirements(request: BuildRequest, device: str) -> Requirements:
    if device == "CPU":
        return cpu_requirements(request)
    arch = None if request.target.arch == "any" else request.target.arch
    npu = request.target.intel_npu
    if device != "NPU":
        return Requirements(arch=arch)
    if npu is None:
        raise TargetError(
            f"{request.target.name}: names no NPU; add [intel_npu] platform = … to the target"
        )
    return Requirements(arch=arch, npu_platform=npu.platform)


def _stand_ins(request: BuildRequest, output: _Output, device: str) -> tuple[StandIn, ...]:
    """OpenVINO on this machine's CPU reads the same file.

    It stands in for a GPU or an NPU in float32: the integers are the same, and the weights of an
    fp16 file are rounded already; that sums are rounded to 16 bits is not covered.
    """
    if device == "CPU":
        if request.here:
            return ()
        options = output.options
    else:
        options = {"threads": request.threads, "inference_precision": "f32"}
    return (host_stand_in("openvino", OpenVINO.version(), output.file.name, options),)
