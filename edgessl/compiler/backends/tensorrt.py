"""TensorRT: a portable build, which `edgessl finalize` turns into an engine on the device.

An engine runs only on the kind of GPU and with the TensorRT it was built with, and none can be
built for a Jetson elsewhere. So the bundle carries a strongly typed ONNX graph and a recipe. The
very same graph runs in onnxruntime on any CPU, with the same integers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from edgessl.bundle.manifest import EngineSpec, OptionValue, Requirements, StandIn, TensorSpec
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.backends.strong_typing import (
    drop_unused,
    expected_precisions,
    name_nodes,
    overflowing,
    sort_nodes,
    to_float16,
)
from edgessl.compiler.samples import Samples
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, TargetError, UsageError
from edgessl.files import write_text
from edgessl.optional import require
from edgessl.runtime.tensorrt.recipe import (
    RECIPE_NAME,
    ImplicitQuantization,
    LayerPrecision,
    Recipe,
    Remainder,
    ShapeRange,
    trtexec_lines,
)

__all__ = ["BuildOptions", "TensorRTBackend"]

_PRECISIONS: dict[str, LayerPrecision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
_REMAINDERS: dict[str, Remainder] = {"fp32": "fp32", "fp16": "fp16"}
_OLDEST = "10.3"
# Operators of version 19 need the first; TensorRT 10.3 parses with onnx 1.16, which knows the last.
_IR_VERSIONS = (9, 10)
_MODEL, _IMPLICIT = "model.onnx", "implicit.onnx"
_INT8_MOST = 127.0


class BuildOptions(Options):
    """What a target may say in ``[engine_options.tensorrt]``.

    Attributes:
        workspace_mib: Most scratch memory of a layer.
        builder_optimization_level: 0 to 5.
        gpu_fallback: What a DLA cannot run, the GPU may.
    """

    workspace_mib: int = Field(default=1024, ge=1)
    builder_optimization_level: int = Field(default=3, ge=0, le=5)
    gpu_fallback: bool = True


class TensorRTBackend:
    """Builds ``model.onnx`` and ``recipe.json``; for a DLA with integers also ``implicit.onnx``."""

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """See `edgessl.compiler.backends.Backend`."""
        target = request.target
        precision, remainder = _precisions(request)
        where = f"{target.name}: engine_options.tensorrt"
        options = build_options(BuildOptions, request.options, where=where)
        onnx = require("onnx", extra="compile")
        source, toolchain = Path(request.graph.path), {"onnx": str(onnx.__version__)}
        if precision == "int8":
            source, versions = request.quantize()
            toolchain |= versions
        model = onnx.load(source)
        name_nodes(model)
        folder = Path(request.folder)
        dla_core = target.nvidia.dla_core if target.nvidia else None
        implicit = None
        if dla_core is not None and precision == "int8":
            implicit = _implicit(onnx, model, folder / _IMPLICIT)
        float32_nodes: set[str] = set()
        if remainder == "fp16":
            keep = overflowing(model, Samples(Path(request.calibration)))
            model, float32_nodes = to_float16(model, keep_float32=keep)
            toolchain["onnxruntime"] = _onnxruntime_version()
        _save(onnx, model, folder / _MODEL)
        recipe = Recipe(
            model=_MODEL,
            precision=precision,
            remainder=remainder,
            workspace_mib=options.workspace_mib,
            builder_optimization_level=options.builder_optimization_level,
            profiles=_profiles(request),
            dla_core=dla_core,
            gpu_fallback=options.gpu_fallback,
            expected=expected_precisions(model, remainder=remainder, float32_nodes=float32_nodes),
            float32_nodes=tuple(sorted(float32_nodes)),
            implicit=implicit,
        )
        recipe = recipe.model_copy(update={"trtexec": trtexec_lines(recipe)})
        write_text(folder / RECIPE_NAME, recipe.to_json())
        names = (_MODEL, RECIPE_NAME) if implicit is None else (_MODEL, RECIPE_NAME, _IMPLICIT)
        stand_in = EngineSpec(
            name="onnxruntime", version=_onnxruntime_version(), options=_stand_in_options(request)
        )
        return Built(
            model=_MODEL,
            files=names,
            options=_run_options(dla_core),
            toolchain=toolchain,
            kind="portable",
            version=_version(request),
            stand_ins=(StandIn(kind="host", engine=stand_in, model=_MODEL),),
            requirements=_requirements(request, dla_core),
        )


def _precisions(request: BuildRequest) -> tuple[LayerPrecision, Remainder]:
    """What is quantized computes in, and what is not."""
    candidate, target = request.candidate, request.target
    precision = _PRECISIONS.get(candidate.precision)
    remainder = _REMAINDERS.get(candidate.remainder or "fp32")
    if precision is None or remainder is None:
        raise TargetError(
            f"tensorrt has no '{candidate.name}' in edgessl; choose {', '.join(_PRECISIONS)}, with "
            "a remainder of fp32 or fp16"
        )
    if precision != "int8":
        remainder = precision
    dla = target.nvidia is not None and target.nvidia.dla_core is not None
    if dla and remainder == "fp32":
        raise TargetError(
            f"{target.name}: the DLA computes in fp16 and int8 only, found {candidate.name}; "
            'choose fp16, or int8 with remainder = "fp16"'
        )
    return precision, remainder


def _run_options(dla_core: int | None) -> dict[str, OptionValue]:
    return {} if dla_core is None else {"dla_core": dla_core}


def _stand_in_options(request: BuildRequest) -> dict[str, OptionValue]:
    """onnxruntime as the graph says: its own fusions of Q/DQ nodes give invalid graphs in float16.

    QLinearConcat, which it makes of a Concat between them, takes float32 scales only.
    """
    return {"threads": request.threads, "fuse_qdq": False}


def _version(request: BuildRequest) -> str:
    """The oldest TensorRT that the target's software releases bring."""
    nvidia = request.target.nvidia
    return nvidia.tensorrt[0] if nvidia is not None and nvidia.tensorrt else _OLDEST


def _requirements(request: BuildRequest, dla_core: int | None) -> Requirements:
    nvidia = request.target.nvidia
    arch = request.target.arch
    return Requirements(
        arch=None if arch == "any" else arch,
        engine_min_version=_OLDEST,
        compute_capability=nvidia.compute_capability if nvidia else None,
        dla=dla_core is not None,
    )


def _onnxruntime_version() -> str:
    return str(require("onnxruntime", extra="compile").__version__)


def _save(onnx: Any, model: Any, place: Path) -> None:
    """Check and write; without the types of inner tensors, which the converter leaves behind."""
    del model.graph.value_info[:]
    model.ir_version = min(max(model.ir_version, _IR_VERSIONS[0]), _IR_VERSIONS[1])
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{place.name}: the graph for TensorRT is not valid ({said}); "
            "choose fp32, or export the model without branches and loops"
        ) from error
    onnx.save(model, place)


def _profiles(request: BuildRequest) -> tuple[dict[str, ShapeRange], ...]:
    """One profile where an input has free sizes: from the settings, else those of the samples.

    The setting ``tensorrt_profile`` reads ``input=1x16:1x128:1x512``, least, typical and most, for
    several inputs separated by commas.
    """
    free = [spec for spec in request.graph.inputs if any(isinstance(d, str) for d in spec.shape)]
    if not free:
        return ()
    asked = _asked_profile(request.settings.get("tensorrt_profile", ""))
    unknown = sorted(set(asked) - {spec.name for spec in request.graph.inputs})
    if unknown:
        raise UsageError(f"tensorrt_profile: the model has no input '{unknown[0]}'; correct it")
    feeds = Samples(Path(request.calibration)).feeds(0)
    ranges = {}
    for spec in free:
        seen = tuple(int(size) for size in np.shape(feeds[spec.name]))
        known = asked.get(spec.name) or ShapeRange(least=seen, typical=seen, most=seen)
        ranges[spec.name] = _fitting(spec, known)
    return (ranges,)


def _asked_profile(text: str) -> dict[str, ShapeRange]:
    ranges = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, sizes = part.partition("=")
        try:
            least, typical, most = (
                tuple(int(size) for size in side.split("x")) for side in sizes.split(":")
            )
            ranges[name] = ShapeRange(least=least, typical=typical, most=most)
        except ValueError as error:
            raise UsageError(
                f"tensorrt_profile: '{part}' is not name=LEAST:TYPICAL:MOST with sizes like 1x16, "
                "each at least as large as the one before"
            ) from error
        if not equals:
            raise UsageError(f"tensorrt_profile: '{part}' names no input; write name=…")
    return ranges


def _fitting(spec: TensorSpec, known: ShapeRange) -> ShapeRange:
    fixed = all(
        isinstance(size, str) or known.least[axis] == known.most[axis] == size
        for axis, size in enumerate(spec.shape)
        if axis < len(known.least)
    )
    if len(known.least) != len(spec.shape) or not fixed:
        raise UsageError(
            f"tensorrt_profile: '{spec.name}' is {list(spec.shape)}, found {list(known.least)} to "
            f"{list(known.most)}; give each fixed size as it is"
        )
    return known


def _implicit(onnx: Any, model: Any, place: Path) -> ImplicitQuantization:
    """The graph without its Q/DQ nodes, and what they say as ranges of tensors.

    Source: NVIDIA/Deep-Learning-Accelerator-SW, "Q/DQ Translator": the DLA of TensorRT 10 knows
    ranges only.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in plain.graph.initializer}
    makers = {name: node for node in plain.graph.node for name in node.output}
    renamed: dict[str, str] = {}
    ranges: dict[str, float] = {}
    for node in plain.graph.node:
        if node.op_type == "DequantizeLinear":
            source = makers.get(node.input[0])
            if source is None or source.op_type != "QuantizeLinear":
                raise TargetError(
                    f"node '{node.name}' dequantizes stored integers, and the DLA needs float "
                    "weights; quantize with the scheme tensorrt-dla"
                )
            renamed[node.output[0]] = source.input[0]
            scale = values[node.input[1]]
            if source.input[0] not in values and scale.size == 1:
                ranges[source.input[0]] = float(scale.reshape(())) * _INT8_MOST
    kept = [n for n in plain.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    nodes = []
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            while name in renamed:
                name = renamed[name]
            copy.input[index] = name
        nodes.append(copy)
    for output in plain.graph.output:
        if output.name in renamed:  # a graph that ends in a pair keeps its output's name
            name = output.name
            nodes.append(onnx.helper.make_node("Identity", [renamed[name]], [name], name=name))
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    drop_unused(plain)
    sort_nodes(plain)
    _save(onnx, plain, place)
    return ImplicitQuantization(model=place.name, ranges=ranges)
