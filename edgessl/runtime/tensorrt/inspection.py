"""Look into an engine: what each layer computes in, where it runs, and whether that was asked for.

The inspector's JSON differs between versions: TensorRT 10 has ``Format/Datatype`` per tensor, 11
splits it into ``Format`` and ``DataType``; with dynamic shapes neither is told before shapes are
set. Kernels' names tell as well.

Source: https://docs.nvidia.com/deeplearning/tensorrt, "Engine Inspector".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from edgessl.config import Options
from edgessl.errors import GateError, ModelError

__all__ = ["Inspection", "inspect_engine", "read_layers"]

_WORDS = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(fp16|half|float16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(fp32|float|float32)\b", re.IGNORECASE)),
)
# As in sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_…: the first pair multiplies.
_KERNEL = re.compile(r"_(i8|s8|f16|h|bf16|tf32|f32|s)(?:i8|s8|f16|bf16|tf32|f32|i32)?_")
_KERNEL_PRECISION = {
    "i8": "int8",
    "s8": "int8",
    "f16": "fp16",
    "h": "fp16",
    "bf16": "bf16",
    "tf32": "tf32",
    "f32": "fp32",
    "s": "fp32",
}
_METADATA = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_FOREIGN = re.compile(r"ForeignNode\[(.*)\]")
_MYELIN = re.compile(r"_myl\d+(_\d+)*$")
_MOVES = ("reformat", "noop", "constant", "shuffle", "quantize", "dequantize", "signal", "wait")
_SHOWN = 3


class Inspection(Options):
    """What an engine does.

    Attributes:
        layers: Layers that compute; copies and changes of layout are not counted.
        by_precision: Precision → number of layers.
        by_device: ``"GPU"`` and ``"DLA"`` → number of layers.
        checked: Convolutions and matrix products of the graph that were found in the engine.
        unseen: Those that no layer names: merged with others or folded away.
        mismatches: ``"conv1: fp32 instead of int8"``.
        expected: Precisions that the recipe asks for.
    """

    layers: int
    by_precision: dict[str, int]
    by_device: dict[str, int]
    checked: int
    unseen: tuple[str, ...]
    mismatches: tuple[str, ...]
    expected: tuple[str, ...]

    def describe(self) -> str:
        """One line for a person."""
        precisions = ", ".join(f"{n} {name}" for name, n in sorted(self.by_precision.items()))
        devices = ", ".join(f"{n} on the {name}" for name, n in sorted(self.by_device.items()))
        return f"{self.layers} layers: {precisions}; {devices}"

    def require_as_asked(self, *, dla: bool, where: str) -> None:
        """Refuse an engine whose layers compute in something else than was asked for.

        Raises:
            GateError: A layer has another precision, none has the one asked for, none runs on the
                accelerator that was asked for, or the engine does not tell.
        """
        found = self.describe()
        if not self.layers or not set(self.by_precision) - {"unknown"}:
            raise GateError(f"{where}: the engine does not tell its layers' precisions; not used")
        if self.mismatches:
            more = len(self.mismatches) - _SHOWN
            tail = f" and {more} more" if more > 0 else ""
            shown = "; ".join(self.mismatches[:_SHOWN])
            raise GateError(
                f"{where}: {len(self.mismatches)} of {self.checked} layers compute in another "
                f"precision than asked: {shown}{tail}; compile with another precision"
            )
        for precision in self.expected:
            if precision not in self.by_precision:
                raise GateError(
                    f"{where}: no layer computes in {precision} although it was asked for "
                    f"({found}); compile with another precision"
                )
        if dla and not self.by_device.get("DLA"):
            raise GateError(
                f"{where}: no layer runs on the deep-learning accelerator ({found}); "
                "compile for the target without -dla"
            )


def inspect_engine(trt: Any, logger: Any, plan: bytes, *, dla_core: int | None) -> str:
    """The inspector's JSON for a serialized engine, with the sizes it was tuned for.

    Raises:
        ModelError: The engine does not load where it was built.
    """
    runtime = trt.Runtime(logger)
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelError(
            f"TensorRT does not load the engine it built ({logger.errors()}); finalize again"
        )
    inspector = engine.create_engine_inspector()
    if engine.num_optimization_profiles:
        # Formats of dynamic shapes are told only for a context whose shapes are set.
        context = engine.create_execution_context()
        if context is not None and _set_typical_shapes(trt, engine, context):
            inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _set_typical_shapes(trt: Any, engine: Any, context: Any) -> bool:
    dynamic = False
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
            continue
        if -1 in tuple(engine.get_tensor_shape(name)):
            dynamic = True
            context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
    return dynamic


def read_layers(text: str, expected: Mapping[str, str]) -> Inspection:
    """Read the inspector's JSON.

    Args:
        text: As `inspect_engine` gives it.
        expected: Node → precision that it must compute in.

    Raises:
        ModelError: Not JSON of an engine.
    """
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the engine's description is not readable ({error})") from error
    computing = [entry for entry in layers if isinstance(entry, dict) and _computes(entry)]
    precisions = Counter(_precision(entry) for entry in computing)
    devices = Counter("DLA" if _on_dla(entry) else "GPU" for entry in computing)
    places: dict[str, list[str]] = {}
    for entry in computing:
        for node in _nodes(entry):
            places.setdefault(node, []).append(_precision(entry))
    mismatches, unseen = [], []
    for node, wanted in sorted(expected.items()):
        found = [precision for precision in places.get(node, ()) if precision != "unknown"]
        if not found:
            unseen.append(node)
        elif wanted not in found:
            mismatches.append(f"{node}: {found[0]} instead of {wanted}")
    return Inspection(
        layers=len(computing),
        by_precision=dict(sorted(precisions.items())),
        by_device=dict(sorted(devices.items())),
        checked=len(expected) - len(unseen),
        unseen=tuple(unseen),
        mismatches=tuple(mismatches),
        expected=tuple(sorted(set(expected.values()))),
    )


def _computes(entry: Mapping[str, Any]) -> bool:
    kinds = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}".lower()
    return not any(word in kinds for word in _MOVES)


def _on_dla(entry: Mapping[str, Any]) -> bool:
    return "dla" in str(entry.get("LayerType", "")).lower()


def _precision(entry: Mapping[str, Any]) -> str:
    """By its weights, else by its kernel, else by what flows in, else by what flows out."""
    weights = entry.get("Weights")
    tensors = (*_types(entry.get("Inputs")), *_types(entry.get("Outputs")))
    if isinstance(weights, dict):
        found = _word(str(weights.get("Type", "")))
        if found:
            return found
    kernel = _KERNEL.search(str(entry.get("TacticName", "")))
    if kernel:
        return _KERNEL_PRECISION[kernel.group(1)]
    return next((word for text in tensors if (word := _word(text))), "unknown")


def _types(tensors: Any) -> Iterable[str]:
    for described in tensors if isinstance(tensors, list) else ():
        if isinstance(described, dict):
            named = {str(key).lower(): value for key, value in described.items()}
            told = named.get("datatype", named.get("format/datatype", named.get("format", "")))
            yield str(told)


def _word(text: str) -> str | None:
    return next((name for name, pattern in _WORDS if pattern.search(text)), None)


def _nodes(entry: Mapping[str, Any]) -> set[str]:
    """Names of the graph's nodes that a layer computes, as far as it tells."""
    name = str(entry.get("Name", ""))
    found = {match.strip() for match in _METADATA.findall(str(entry.get("Metadata", "")))}
    foreign = _FOREIGN.search(name)
    if foreign:
        found.update(part.strip() for part in foreign.group(1).split("..."))
    found.update(_MYELIN.sub("", part.strip()) for part in name.split("+"))
    found.discard("")
    return found
