"""What of a target can take a model that is quantized already."""

from __future__ import annotations

from edgessl.compiler.graph_info import StoredIntegers
from edgessl.config import Options
from edgessl.errors import TargetError
from edgessl.targets import CandidateSpec, Target

__all__ = ["LeftOut", "check_saturation", "select_for_integers"]

# Engine → schemes whose graphs it computes as they say.
_TAKES = {
    "onnxruntime": ("u8s8", "s8s8"),
    "openvino": ("u8s8", "s8s8"),
    "qnn": ("qnn",),
    "tensorrt": ("tensorrt", "tensorrt-dla"),
}
_TYPES = {
    "nncf": "u8s8",
    "qnn": "unsigned 8-bit or 16-bit activations and unsigned 8-bit weights (qnn)",
    "s8s8": "signed activations and signed stored weights (s8s8)",
    "tensorrt": "signed activations and pairs around float weights (tensorrt)",
    "tensorrt-dla": "a pair around every tensor (tensorrt-dla)",
    "u8s8": "unsigned activations and signed stored weights (u8s8)",
}


class LeftOut(Options):
    """A candidate of the target that a model does not suit.

    Attributes:
        name: The candidate's name.
        reason: Why.
    """

    name: str
    reason: str


def select_for_integers(
    target: Target, integers: StoredIntegers, *, precision: str, engine: str | None
) -> tuple[tuple[CandidateSpec, ...], tuple[LeftOut, ...]]:
    """One candidate for each engine and remainder that takes the integers as they are.

    Args:
        target: The device.
        integers: What the model holds.
        precision: Only this precision; ``"auto"`` takes that of the model.
        engine: Only this engine; None takes any.

    Returns:
        The candidates, with the model's scheme, and those left out with the reason.

    Raises:
        TargetError: There is none; the message says what the model holds, and what would fit.
    """
    chosen: dict[str, CandidateSpec] = {}
    left_out = []
    for spec in target.candidates:
        if engine not in (None, spec.engine) or precision not in ("auto", integers.precision):
            continue
        reason = _objection(spec, integers)
        fitting = spec.model_copy(update={"scheme": integers.scheme})
        if reason is None and fitting.name in chosen:
            reason = f"the same as {fitting.name}: the model's integers stay as they are"
        if reason is not None:
            left_out.append(LeftOut(name=spec.name, reason=reason))
        else:
            chosen[fitting.name] = fitting
    if not chosen:
        raise TargetError(_nothing_fits(target, integers, precision=precision, engine=engine))
    return tuple(chosen.values()), tuple(left_out)


def check_saturation(target: Target, integers: StoredIntegers, *, reduces: bool) -> None:
    """Refuse 8-bit weights where products of them overflow.

    Args:
        target: The device.
        integers: What the model holds.
        reduces: True if the target's own quantizer keeps weights to 7 bits.

    Raises:
        TargetError: The model's integers would give other results there.
    """
    if reduces and integers.scheme == "u8s8" and not integers.seven_bits:
        raise TargetError(
            f"{target.name}: this CPU adds 8-bit products in 16 bits, which saturate with the "
            f"8-bit weights of this model; train or quantize it for {target.name}, whose weights "
            "have 7 bits"
        )


def _objection(spec: CandidateSpec, integers: StoredIntegers) -> str | None:
    if spec.scheme is None:
        return "the model is quantized already; compile the float model for this"
    if spec.scheme == "weight-only":
        return "the model's activations are quantized already"
    if spec.precision != integers.precision:
        return f"the model's integers are {integers.precision}"
    takes = _TAKES.get(spec.engine, ())
    if integers.scheme not in takes:
        return f"{spec.engine} takes {' or '.join(takes) or 'no such model'}"
    if spec.scheme == "tensorrt-dla" != integers.scheme:
        return "a deep-learning accelerator needs a scale for every tensor (tensorrt-dla)"
    return None


def _nothing_fits(
    target: Target, integers: StoredIntegers, *, precision: str, engine: str | None
) -> str:
    made = "" if integers.target is None else f", made for {integers.target}"
    held = f"the model is quantized already as {integers.precision} {integers.scheme}{made}"
    wanted = [
        spec
        for spec in target.candidates
        if spec.scheme not in (None, "weight-only") and engine in (None, spec.engine)
    ]
    if not wanted:
        by = f" by {engine}" if engine else ""
        return f"{target.name} has no integers{by}, and {held}; compile the float model"
    if precision not in ("auto", integers.precision):
        return f"{target.name}: {held}, not {precision}; choose auto, or compile the float model"
    kinds = sorted({f"{spec.precision} {spec.scheme}" for spec in wanted})
    types = sorted({_TYPES.get(spec.scheme or "", "") for spec in wanted})
    return (
        f"{target.name}: {held}, and this target takes {' or '.join(kinds)}: {'; '.join(types)}; "
        f"train or quantize it for {target.name}, or compile the float model"
    )
