"""Qualcomm NPUs: quantize, then compile a context binary for the exact chip with onnxruntime-qnn.

Compiling needs no device. The compiler takes an unknown architecture without a word and blames a
wrong chip on nodes that it does not take, so both come from `edgessl.targets.qualcomm` alone and
are read back from what it wrote. It aborts on some graphs: builds run in a worker.

Source: https://github.com/onnxruntime/onnxruntime-qnn, QNN-ExecutionProvider.md
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgessl.bundle.manifest import EngineSpec, OptionValue, Requirements, StandIn
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.process import note_step
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, TargetError
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types, one_line
from edgessl.runtime.engines.qnn import (
    PROVIDER,
    QnnOptions,
    describe_refusal,
    is_fallback,
    session_options,
    stdout_to_stderr,
)
from edgessl.targets.qualcomm import Soc, find_soc

__all__ = ["ContextFacts", "QnnBackend", "compile_context", "read_context"]

_CONTEXT, _QUANTIZED = "ctx.onnx", "quantized.onnx"
_COMPATIBILITY = f"ep_compatibility_info.{PROVIDER}"
_QUANTIZED_PRECISIONS = ("int8", "a16w8")
_OF_THE_CHIP = ("htp_arch", "soc_model", "emulate")


class ContextFacts(Options):
    """What a context file says about itself.

    Attributes:
        qairt: Version of Qualcomm's AI runtime that compiled it, ``"2.51.0"``.
        sdk_build: The same with its build number; empty if the file does not say.
        htp_arch: Version of the tensor processor; 0 means: none that the compiler knows.
        soc_model: Qualcomm's number of the chip; 0 if none was given.
    """

    qairt: str
    sdk_build: str
    htp_arch: int
    soc_model: int


class QnnBackend:
    """Builds ``ctx.onnx`` (the binary is inside) and keeps the ``quantized.onnx`` it came from.

    A device with another version of Qualcomm's runtime compiles the second again.
    """

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """See `edgessl.compiler.backends.Backend`."""
        folder = Path(request.folder)
        note_step(folder, "preflight")
        name, soc = _chip(request)
        _check_precision(request.candidate.precision, name, soc)
        _check_static(request)
        settings = _options(request)
        ort, qnn = require("onnxruntime", extra="qnn"), require("onnxruntime_qnn", extra="qnn")

        note_step(folder, "quantize")
        source, toolchain = request.quantize()
        quantized = folder / _QUANTIZED
        if source != quantized:
            shutil.copyfile(source, quantized)

        note_step(folder, "context binary")
        chip = {"htp_arch": soc.htp_arch, "soc_model": soc.soc_model}
        settings = settings.model_copy(update=chip)
        context = folder / _CONTEXT
        compile_context(quantized, context, settings, where=f"{name} (v{soc.htp_arch})")

        note_step(folder, "read back")
        facts = read_context(context)
        check_context(facts, name, soc)
        return Built(
            model=_CONTEXT,
            files=(_CONTEXT, _QUANTIZED),
            options={**request.options, "threads": request.threads},
            toolchain={
                **toolchain,
                "onnxruntime": str(ort.__version__),
                "onnxruntime-qnn": str(qnn.__version__),
                "qairt": facts.sdk_build or facts.qairt,
            },
            version=str(qnn.__version__),
            stand_ins=_stand_ins(request, str(qnn.__version__), str(ort.__version__)),
            requirements=Requirements(
                soc=name,
                htp_arch=soc.htp_arch,
                qairt=facts.qairt,
            ),
        )


def compile_context(
    model: Path, out: Path, options: QnnOptions, *, where: str = "the target"
) -> None:
    """Compile a QDQ model to one file that holds the context binary.

    Args:
        model: The QDQ ``.onnx``.
        out: The context file.
        options: Chip and architecture.
        where: What it is compiled for, for messages.

    Raises:
        ModelError: The compiler refuses the model; nodes that it does not take are named.
        UnavailableError: onnxruntime-qnn is not installed.
    """
    ort = require("onnxruntime", extra="qnn")
    settings = session_options(options)
    try:
        # From bytes: onnxruntime derives the graph's name from the path of a file, and the same
        # model must give the same binary wherever it lies.
        compiler = ort.ModelCompiler(
            settings, model.read_bytes(), embed_compiled_data_into_model=True
        )
        with stdout_to_stderr():
            binary = compiler.compile_to_bytes()
    except error_types(ort) as error:
        reason = describe_refusal(model, options) if is_fallback(error) else one_line(error)
        raise ModelError(
            f"no context binary for {where}: {reason}; change or remove these operators, or keep "
            "the model on the CPU"
        ) from error
    out.write_bytes(binary)


def read_context(path: Path) -> ContextFacts:
    """Read what the compiler wrote about a context.

    Raises:
        ModelError: The file is not a context for Qualcomm's provider.
    """
    onnx = require("onnx", extra="compile")
    model = onnx.load(path, load_external_data=False)
    said = {p.key: p.value for p in model.metadata_props}.get(_COMPATIBILITY, "")
    # Layout version, backend, QAIRT, backend's own version, architecture, chip, memory, signing.
    fields = said.split(":")
    if len(fields) < 6 or not (fields[4].isdecimal() and fields[5].isdecimal()):
        raise ModelError(
            f"{path.name}: says '{said or 'nothing'}' about the chip that it is for; compile it "
            "again with onnxruntime-qnn 2.x"
        )
    return ContextFacts(
        qairt=fields[2],
        sdk_build=_sdk_build(model).removeprefix("v"),
        htp_arch=int(fields[4]),
        soc_model=int(fields[5]),
    )


def check_context(facts: ContextFacts, name: str, soc: Soc) -> None:
    """Compare a context with the chip that it was asked for.

    Raises:
        TargetError: Another architecture, chip or runtime version than it should be.
    """
    found = (facts.htp_arch, facts.soc_model)
    wanted = (soc.htp_arch, soc.soc_model or 0)
    if found != wanted:
        raise TargetError(
            f"{name}: the compiler made a binary for v{found[0]} (soc_model {found[1]}), "
            f"v{wanted[0]} (soc_model {wanted[1]}) was asked for; install another onnxruntime-qnn"
        )
    if facts.sdk_build and not facts.sdk_build.startswith(f"{facts.qairt}."):
        raise TargetError(
            f"{name}: the binary names QAIRT {facts.qairt} and {facts.sdk_build}; reinstall "
            "onnxruntime-qnn, whose libraries do not belong together"
        )


def _sdk_build(model: Any) -> str:
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "EPContext" and attribute.name == "ep_sdk_version":
                return str(attribute.s.decode("utf-8"))
    return ""


def _chip(request: BuildRequest) -> tuple[str, Soc]:
    if request.target.qualcomm is None:
        raise TargetError(
            f"{request.target.name}: names no chip for qnn; add [qualcomm] soc = … to the target"
        )
    return request.target.qualcomm.soc, find_soc(request.target.qualcomm.soc)


def _options(request: BuildRequest) -> QnnOptions:
    where = f"{request.target.name}: engine_options.qnn"
    for name in _OF_THE_CHIP:
        if name in request.options:
            raise TargetError(f"{where}: '{name}' follows from [qualcomm] soc; take it out")
    return build_options(QnnOptions, request.options, where=where)


def _check_precision(precision: str, name: str, soc: Soc) -> None:
    if precision not in _QUANTIZED_PRECISIONS:
        raise TargetError(
            f"{name}: '{precision}' is not compiled for a Qualcomm NPU, which is fast in integers "
            f"only; choose {' or '.join(p for p in soc.precisions if p in _QUANTIZED_PRECISIONS)}"
        )
    if precision not in soc.precisions:
        raise TargetError(
            f"{name}: '{precision}' is not supported on Hexagon v{soc.htp_arch}, where Qualcomm "
            "supports int8 only; choose int8"
        )


def _check_static(request: BuildRequest) -> None:
    for spec in request.graph.inputs:
        if not all(isinstance(size, int) for size in spec.shape):
            shape = "x".join(str(size) for size in spec.shape)
            raise ModelError(
                f"input '{spec.name}' is [{shape}] and a Qualcomm NPU takes fixed sizes only; fix "
                f"them with --shape {spec.name}=…"
            )


def _stand_ins(request: BuildRequest, qnn: str, onnxruntime: str) -> tuple[StandIn, ...]:
    emulator: dict[str, OptionValue] = {"emulate": True}
    host: dict[str, OptionValue] = {"threads": request.threads}
    return (
        StandIn(
            kind="emulator",
            engine=EngineSpec(name="qnn", version=qnn, options=emulator),
            model=_CONTEXT,
        ),
        StandIn(
            kind="host",
            engine=EngineSpec(name="onnxruntime", version=onnxruntime, options=host),
            model=_QUANTIZED,
        ),
    )
