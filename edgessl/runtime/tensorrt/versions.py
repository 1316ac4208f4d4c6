"""What differs between TensorRT 10.3, 10.13 and 11: the only place that asks.

Precision. TensorRT 10 has two ways: builder flags (FP16, INT8), with which it chooses among the
allowed precisions, and strongly typed networks, whose tensors' types decide. Strong typing is
complete from 10.12 on, so 10.3 gets the flags; 11 has neither the flags nor the weak mode, and a
tool that goes on passing ``fp16=True`` builds float32 without a word. So a flag is set only where
it exists, and what was built is read back from the engine
(`edgessl.runtime.tensorrt.inspection`).

Deep-learning accelerators. TensorRT 10 up to 10.7 drives them, with ranges of tensors instead of
Q/DQ nodes; 11.4.1 drives that of Jetson AGX Orin again, with Q/DQ nodes in strongly typed graphs.

Source: https://docs.nvidia.com/deeplearning/tensorrt, "Migrating from TensorRT 10.x to 11.x" and
"Strongly Typed Networks for DLA".
"""

from __future__ import annotations

import re
from typing import Any

from edgessl.errors import UnavailableError
from edgessl.optional import require
from edgessl.runtime.tensorrt.recipe import Recipe

__all__ = [
    "adjust_for_dla",
    "editable_timing_cache",
    "implicit_dla",
    "load_tensorrt",
    "network_flags",
    "parse_version",
    "set_precisions",
    "set_ranges",
    "strongly_typed",
]

_COMPLETE_STRONG_TYPING = (10, 12)
_OLDEST = (10, 3)


def load_tensorrt() -> Any:
    """Import TensorRT's Python bindings.

    Raises:
        UnavailableError: They are not installed, their libraries do not load, or they are too old.
    """
    try:
        trt = require("tensorrt", extra="tensorrt")
    except UnavailableError as missing:
        raise UnavailableError(
            f"tensorrt cannot be imported ({missing.__cause__}); a Jetson has it from JetPack "
            "(make the environment with --system-site-packages), elsewhere: "
            "pip install tensorrt-cu12 'edgessl[tensorrt]'"
        ) from missing
    except OSError as error:  # a library that the bindings load by themselves
        raise UnavailableError(
            f"tensorrt is installed but does not load ({error}); reinstall it, on a Jetson with: "
            "sudo apt install --reinstall nvidia-tensorrt"
        ) from error
    if parse_version(trt.__version__) < _OLDEST:
        raise UnavailableError(
            f"tensorrt {trt.__version__} is too old; edgessl needs 10.3 or later (JetPack 6.1)"
        )
    return trt


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor version: ``"10.3.0.26"`` gives ``(10, 3)``."""
    numbers = [int(part) for part in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def strongly_typed(trt: Any) -> bool:
    """Tell whether the tensors' types decide about precisions."""
    if not hasattr(trt.BuilderFlag, "FP16"):
        return True
    return parse_version(trt.__version__) >= _COMPLETE_STRONG_TYPING


def implicit_dla(trt: Any) -> bool:
    """Tell whether the accelerator takes ranges of tensors instead of Q/DQ nodes."""
    return hasattr(trt.ITensor, "set_dynamic_range")


def network_flags(trt: Any, *, strong: bool) -> int:
    """Flags for ``create_network``; TensorRT 11 accepts and ignores that of strong typing."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strong else 0


def set_precisions(trt: Any, config: Any, network: Any, recipe: Recipe) -> list[str]:
    """Allow what the recipe asks for, where that takes flags.

    Layers that Q/DQ nodes make integer are left alone. With float16 the others are pinned to
    what the graph says, because otherwise TensorRT takes float32 wherever that is faster, and
    float16 where it overflows.

    Returns:
        Names of the flags that were set.
    """
    flags = []
    if "fp16" in (recipe.precision, recipe.remainder):
        config.set_flag(trt.BuilderFlag.FP16)
        flags.append("FP16")
    if recipe.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
        flags.append("INT8")
    if recipe.remainder == "fp16" and recipe.dla_core is None:
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        flags.append("PREFER_PRECISION_CONSTRAINTS")
        _pin_layers(trt, network, frozenset(recipe.float32_nodes))
    return flags


def _pin_layers(trt: Any, network: Any, float32_nodes: frozenset[str]) -> None:
    kinds = trt.LayerType
    free = {kinds.CONSTANT, kinds.CAST, kinds.QUANTIZE, kinds.DEQUANTIZE, kinds.SHAPE}
    free |= {kinds.SHUFFLE, kinds.IDENTITY, kinds.GATHER, kinds.SLICE, kinds.CONCATENATION}
    floats = {trt.DataType.FLOAT, trt.DataType.HALF}
    dequantized = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == kinds.DEQUANTIZE:
            tensor = layer.get_output(0)
            dequantized.add(tensor.name)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        names = {given.name for given in inputs if given is not None}
        tensor = layer.get_output(0)
        if layer.type in free or names & dequantized or tensor.dtype not in floats:
            continue
        stays = layer.name in float32_nodes
        layer.precision = trt.DataType.FLOAT if stays else trt.DataType.HALF


def set_ranges(network: Any, ranges: dict[str, float]) -> list[str]:
    """Give tensors their ranges (implicit quantization); returns names that the graph lacks."""
    left = dict(ranges)
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
    for tensor in tensors:
        bound = left.pop(tensor.name, None)
        if bound is not None:
            tensor.set_dynamic_range(-bound, bound)
    return sorted(left)


def editable_timing_cache(trt: Any, config: Any) -> None:
    """Let entries of the timing cache be queried and replaced, where that exists (not in 10.3)."""
    if hasattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE"):
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)


def adjust_for_dla(trt: Any, parser: Any) -> None:
    """Let the parser reshape what the accelerator would refuse, where that exists (11)."""
    if hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
