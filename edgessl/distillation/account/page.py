"""The page: one screen of Markdown beside the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgessl.distillation.account.result import Account, Interval, Losses, Role
from edgessl.files import write_text

__all__ = ["ROLES", "short", "write_page"]

ROLES: dict[Role, str] = {
    "teacher": "teacher",
    "float": "float student",
    "integers": "trained integers",
    "bundle": "bundle",
}
"""How a person calls each model."""


def write_page(account: Account, path: Path, *, drawn: bool) -> None:
    """Write ``account.md``.

    Args:
        account: What was found.
        path: Where to.
        drawn: Whether ``account.png`` is beside it.
    """
    write_text(path, "\n".join(_lines(account, drawn)).rstrip() + "\n")


def short(text: str, longest: int = 36) -> str:
    """The last part of a path; of a long one the middle goes, as both ends tell files apart."""
    plain = "".join(c if c.isprintable() else "?" for c in text).rpartition("/")[2]
    if len(plain) <= longest:
        return plain
    half = (longest - 1) // 2
    return f"{plain[:half]}…{plain[-half:]}"


def _lines(account: Account, drawn: bool) -> Iterator[str]:
    yield f"# What {_cell(account.run)} kept of its teacher"
    yield ""
    for sentence in account.advice:
        yield f"- {sentence}"
    for sentence in account.missing:
        yield f"- Not looked at: {sentence}"
    yield ""
    if drawn:
        yield "![similarities, spectra, integers against float, loss](account.png)"
    else:
        yield "No picture: `pip install 'edgessl[report]'` draws it."
    yield ""
    if account.losses:
        yield "## Where the loss happened"
        yield ""
        yield from _table(
            ["lost up to", "capacity", "distillation", "quantization", "total"],
            [_loss_row(loss) for loss in account.losses],
        )
        if account.readable is not None:
            yield (
                f"A linear map reads {100 * account.readable:.0f} % of the teacher's variance off "
                "the float student."
            )
            yield ""
    yield "## How alike they see"
    yield ""
    yield from _table(
        ["", "samples", "similarity", "CKA", "neighbours"],
        [
            [
                f"{ROLES[a.first]} → {ROLES[a.second]}",
                a.part,
                _show(a.similarity),
                _show(a.cka),
                _show(a.neighbours),
            ]
            for a in account.agreements
        ],
    )
    yield from _models(account)
    yield from _drifts(account)
    yield from _scores(account)
    yield from _facts(account)


def _loss_row(loss: Losses) -> list[str]:
    stages = {
        "capacity": loss.capacity,
        "distillation": loss.distillation,
        "quantization": loss.quantization,
    }
    shown = []
    for name, interval in stages.items():
        text = "" if interval is None else _show(interval)
        shown.append(f"**{text}**" if name == loss.largest else text)
    return [ROLES[loss.role], *shown, _show(loss.total)]


def _models(account: Account) -> Iterator[str]:
    yield "## The models"
    yield ""
    yield from _table(
        ["", "model", "dimension", "effective rank", "uniformity"],
        [
            [
                ROLES[s.role],
                _cell(account.name(s.role)),
                str(s.dim),
                f"{s.effective_rank:.1f}",
                f"{s.uniformity:.2f}",
            ]
            for s in account.shapes
        ],
    )


def _drifts(account: Account) -> Iterator[str]:
    if not account.drifts:
        return
    yield "## Integers against the float student"
    yield ""
    yield from _table(
        ["", "cosine", "1st percentile", "centred", "farthest off"],
        [
            [
                ROLES[d.role],
                f"{d.cosine_mean:.4f}",
                f"{d.cosine_p1:.4f}",
                f"{d.centred_cosine_mean:.4f}",
                ", ".join(f"{_cell(short(name))} ({cosine:.3f})" for name, cosine in d.worst[:3]),
            ]
            for d in account.drifts
        ],
    )


def _scores(account: Account) -> Iterator[str]:
    if not account.scores:
        return
    names = sorted({n for s in account.scores.values() for n in s if not n.endswith("_std")})
    yield f"## With the labels of {_cell(account.labels or '')}"
    yield ""
    rows = []
    for title, scores in account.scores.items():
        cells = [
            f"{100 * scores[n]:.1f} ± {100 * scores[f'{n}_std']:.1f} %" if n in scores else ""
            for n in names
        ]
        known = {str(role): label for role, label in ROLES.items()}
        rows.append([_cell(known.get(title, title)), *cells])
    yield from _table(["", *(n.removesuffix("_accuracy") for n in names)], rows)


def _facts(account: Account) -> Iterator[str]:
    for phase in account.convergence:
        state = "was still falling" if phase.still_falling else "had levelled off"
        yield (
            f"Loss, {phase.phase} phase: {phase.first:.4g} → {phase.last:.4g} in {phase.steps} "
            f"steps; it {state} at the end."
        )
        yield ""
    held = (
        "Held-out samples are the data's own validation or test part."
        if account.held_out == "declared"
        else "The data declare no validation part: held-out are new views of training samples."
    )
    versions = ", ".join(f"{name} {version}" for name, version in account.versions.items())
    yield (
        f"{account.samples} samples of each part of {_cell(account.data)}, k = "
        f"{account.neighbours} neighbours, 95 % intervals over {account.draws} bootstrap draws, "
        f"seed {account.seed}. {held} No labels were read"
        + (" but for the accuracies" if account.labels else "")
        + f". What the figures mean: docs/account.md. {versions}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _show(interval: Interval) -> str:
    half = f"{interval.low:.2f} to {interval.high:.2f}"
    return f"{interval.value:.3f} ({half})"


def _cell(text: str) -> str:
    """Text that others chose, harmless in a table of Markdown."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in plain)
