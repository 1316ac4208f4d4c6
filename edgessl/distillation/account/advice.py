"""What to do next, from the figures, by rules that are written down in ``docs/account.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgessl.distillation.account.figures import LEAST
from edgessl.distillation.account.result import Convergence, Interval, Losses, Role, Shape

__all__ = ["advise"]

_GOOD_TOTAL = 0.05
_GAP_READABLE = 0.15
_COLLAPSED = 2.0
_ALIKE = 0.9


def advise(
    losses: Sequence[Losses],
    shapes: Sequence[Shape],
    convergence: Sequence[Convergence],
    *,
    readable: float | None,
    held_out: str,
    precision: str | None,
    compared: float | None,
) -> tuple[str, ...]:
    """Say what to do next, the most important first.

    Args:
        losses: Up to the float student and up to each integer model; empty without a teacher.
        shapes: Of each model.
        convergence: Of each phase.
        readable: See `Account.readable`.
        held_out: ``"declared"`` or ``"fresh views"``.
        precision: Of the integers the student was trained for; None if it was not.
        compared: S(float, integers, or else bundle) on held-out; None if there are none.
    """
    collapsed = [s for s in shapes if s.role != "teacher" and s.effective_rank < _COLLAPSED]
    if collapsed:
        ranks = ", ".join(f"{_NAMES[s.role]} {s.effective_rank:.1f}" for s in collapsed)
        return (
            f"The embedding has collapsed to fewer than two directions (effective rank: {ranks}). "
            "Lower learning_rate, or put more weight on similarity, and train again; the other "
            "figures mean nothing yet.",
        )
    found: list[str] = []
    if losses:
        end = next((x for x in losses if x.role == "integers"), losses[-1])
        found += _of_losses(end, convergence, readable, held_out, precision)
        if len(losses) == 1:
            found.append(
                "Quantization was not looked at: give a compiled model with --bundle, or train "
                "with --for-target."
            )
        elif compared is not None and compared < _ALIKE and not _lost_by_quantization(end):
            found.append(
                f"The integers and the float student are alike to {compared:.2f} only, but what "
                "the integers changed is nothing that the teacher sees: it costs nothing here."
            )
        found += _of_bundle(losses)
    elif compared is not None and 1.0 - compared > LEAST:
        found.append(
            f"Integers and float student are alike to {compared:.2f} only. "
            + _quantization_remedy(precision)
        )
    else:
        found.append("Without the teacher there is nothing to advise.")
    return tuple(found)


_NAMES: dict[Role, str] = {
    "teacher": "teacher",
    "float": "float student",
    "integers": "trained integers",
    "bundle": "bundle",
}


def _of_losses(
    end: Losses,
    convergence: Sequence[Convergence],
    readable: float | None,
    held_out: str,
    precision: str | None,
) -> Iterator[str]:
    if end.total.value < _GOOD_TOTAL:
        yield (
            f"Nothing to do: the {_NAMES[end.role]} sees what the teacher sees "
            f"(loss {_show(end.total)})."
        )
        return
    if end.largest is None:
        yield (
            f"A loss of {_show(end.total)} is spread over stages or within the error of "
            f"{'these few samples' if held_out == 'declared' else 'the samples'}: no stage stands "
            "out. Look at more with samples=…."
        )
        return
    remedies: dict[str, tuple[Interval, str]] = {
        "capacity": (end.capacity, _capacity_remedy(end, convergence, readable)),
        "distillation": (end.distillation, _distillation_remedy(held_out)),
    }
    if end.quantization is not None:
        remedies["quantization"] = (end.quantization, _quantization_remedy(precision))
    worth = sorted(
        (name for name, (loss, _) in remedies.items() if loss.value > LEAST and loss.low > 0),
        key=lambda name: -remedies[name][0].value,
    )
    for place, name in enumerate(worth):
        loss, remedy = remedies[name]
        opening = "Most was lost to" if place == 0 else "Then comes"
        yield f"{opening} {name}: {_show(loss)} of {end.total.value:.3f}. {remedy}"
    if held_out == "fresh views":
        yield (
            "The data declare no validation part, so distillation loss is that on new views of "
            "known samples; new samples can only be worse. Put some into val/ to measure it."
        )


def _lost_by_quantization(end: Losses) -> bool:
    loss = end.quantization
    return loss is not None and loss.value > LEAST and loss.low > 0


def _capacity_remedy(
    end: Losses, convergence: Sequence[Convergence], readable: float | None
) -> str:
    phase = next((c for c in convergence if c.phase == "float"), None)
    if phase is not None and phase.still_falling:
        return (
            f"The loss was still falling ({100 * phase.recent_share:.0f} % of its whole fall came "
            "in the second half of the steps): train longer (twice the epochs) before a bigger "
            "student is tried."
        )
    if readable is not None and readable - (1.0 - end.capacity.value) > _GAP_READABLE:
        return (
            f"The student knows more than it shows: a linear map reads {100 * readable:.0f} % of "
            "the teacher's variance off it. What it learnt lies in the projector's directions: "
            "use projector_layers=1 and more weight on similarity; a bigger student comes after "
            "that."
        )
    return (
        "The loss had stopped falling, so the student cannot do better as it is: take a larger "
        "student (edgessl distill --budget finds the largest that fits) or a larger image_size."
        if phase is not None
        else "Take a larger student, or train longer; the run logged too few steps to tell which."
    )


def _distillation_remedy(held_out: str) -> str:
    samples = "more unlabelled samples, " if held_out == "declared" else ""
    return (
        f"The student does on its training views what it does not do elsewhere: give it {samples}"
        "more view_seeds or a wider crop_scale, and more weight_decay; a bigger student would make "
        "it worse."
    )


def _quantization_remedy(precision: str | None) -> str:
    if precision is None:
        return (
            "Train the student for the target's integers (edgessl distill --for-target T) instead "
            "of quantizing it afterwards."
        )
    if precision == "int8":
        return (
            "It was trained for int8 already: find the layers that hurt (edgessl sensitivity) and "
            "keep them in float, train the integers longer, or use a16w8 where the target has it."
        )
    return f"It was trained for {precision} already: train the integers longer, or keep fp16."


def _of_bundle(losses: Sequence[Losses]) -> Iterator[str]:
    """Compare what was trained for integers with what was quantized afterwards."""
    trained = next((x for x in losses if x.role == "integers"), None)
    after = next((x for x in losses if x.role == "bundle"), None)
    if trained is None or after is None:
        return
    won = after.total.value - trained.total.value
    if abs(won) <= LEAST:
        return
    verb = "win back" if won > 0 else "lose another"
    yield f"Against the bundle, the trained integers {verb} {abs(won):.3f} of similarity."


def _show(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
