"""Which engine runs on which family of devices, and what it computes in there."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import NamedTuple

from edgessl.errors import nearest

__all__ = ["FAMILIES", "EngineRules", "objection"]

_GROUP = "edgessl.engines"


class EngineRules(NamedTuple):
    """What one engine takes on one family of devices.

    Attributes:
        precisions: Precisions of arithmetic.
        schemes: Quantization schemes.
        remainders: What may stay in floating point beside integers, besides float32.
    """

    precisions: tuple[str, ...]
    schemes: tuple[str, ...]
    remainders: tuple[str, ...] = ()


_OPENVINO_SCHEMES = ("nncf", "u8s8", "s8s8", "weight-only")

FAMILIES: dict[str, dict[str, EngineRules]] = {
    "cpu": {
        "onnxruntime": EngineRules(("fp32", "int8", "w8", "w4"), ("u8s8", "s8s8", "weight-only")),
        # An f16 hint gives bfloat16 on a CPU.
        "openvino": EngineRules(("fp32", "bf16", "int8", "w8", "w4"), _OPENVINO_SCHEMES, ("bf16",)),
    },
    "gpu-intel": {
        "openvino": EngineRules(("fp32", "fp16", "int8", "w8", "w4"), _OPENVINO_SCHEMES, ("fp16",)),
    },
    "npu-intel": {
        "openvino": EngineRules(("fp16", "int8", "w8", "w4"), _OPENVINO_SCHEMES, ("fp16",)),
    },
    "nvidia": {
        "tensorrt": EngineRules(
            ("fp32", "bf16", "fp16", "int8", "w4"),
            ("tensorrt", "tensorrt-dla", "weight-only"),
            ("bf16", "fp16"),
        ),
    },
    "npu-qualcomm": {"qnn": EngineRules(("fp16", "int8", "a16w8"), ("qnn",))},
}
"""Family → engine → rules."""


def objection(
    *, family: str, engine: str, precision: str, scheme: str | None, remainder: str | None
) -> str | None:
    """Say why an engine does not do that on such a device; None if it does.

    Engines that other packages register (entry-point group ``edgessl.engines``) set no rules.
    """
    engines = FAMILIES[family]
    if engine not in engines:
        known = [*engines, *(entry.name for entry in entry_points(group=_GROUP))]
        if engine in known:
            return None
        return f"the family {family} has no engine '{engine}'; {nearest(engine, known)}"
    rules = engines[engine]
    for word, value, allowed in (
        ("precision", precision, rules.precisions),
        ("scheme", scheme, rules.schemes),
        ("remainder", remainder, ("fp32", *rules.remainders)),
    ):
        if value is not None and value not in allowed:
            choice = ", ".join(allowed)
            return f"{engine} has no {word} '{value}' on the family {family}; choose {choice}"
    return None
