"""The picture: four small charts on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.distillation.account.figures import cosine_rows
from edgessl.distillation.account.page import ROLES, short
from edgessl.distillation.account.result import Account, Part, Role
from edgessl.optional import require

__all__ = ["Picture", "draw"]

_COLOURS: dict[Role, str] = {
    "teacher": "#8a8a8a",
    "float": "#1f6fb4",
    "integers": "#c8553d",
    "bundle": "#3a7d44",
}
_GRID = "#e5e5e5"


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Attributes:
        account: The figures.
        cosines: Role → (N,) cosine of each sample to the float student.
        curves: Phase → (steps, losses).
    """

    account: Account
    cosines: dict[Role, NDArray[np.float64]]
    curves: dict[str, tuple[list[float], list[float]]]

    @classmethod
    def of(
        cls,
        account: Account,
        embeddings: Mapping[tuple[Role, Part], NDArray[np.float32]],
        curves: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> Picture:
        """Gather what the charts need."""
        student = embeddings["float", "held-out"]
        cosines = {
            d.role: cosine_rows(student, embeddings[d.role, "held-out"]) for d in account.drifts
        }
        points = {
            phase: [(m["step"], m["loss"]) for m in lines if isinstance(m.get("loss"), float)]
            for phase, lines in curves.items()
        }
        return cls(
            account,
            cosines,
            {name: ([s for s, _ in p], [y for _, y in p]) for name, p in points.items() if p},
        )


def draw(picture: Picture, path: Path) -> None:
    """Write a PNG of 1400x1000 pixels.

    Raises:
        UnavailableError: matplotlib is not installed.
    """
    require("matplotlib", extra="report").use("Agg")
    pyplot = require("matplotlib.pyplot", extra="report")
    figure, ((first, second), (third, fourth)) = pyplot.subplots(
        2, 2, figsize=(14, 10), dpi=100, layout="constrained"
    )
    try:
        figure.get_layout_engine().set(wspace=0.05, hspace=0.06)
        title = f"{short(picture.account.run, 70)}: what it kept of its teacher"
        figure.suptitle(title.replace("$", r"\$"), fontsize=14, x=0.01, ha="left")
        _draw_similarities(first, picture.account)
        _draw_spectra(second, picture.account)
        _draw_cosines(third, picture)
        _draw_losses(fourth, picture)
        for axes in (first, second, third, fourth):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)


def _draw_similarities(axes: Any, account: Account) -> None:
    """One pair of bars per pair of models: train above held-out."""
    pairs = list(dict.fromkeys((a.first, a.second) for a in account.agreements))
    parts: tuple[tuple[Part, float, float], ...] = (("train", -0.19, 0.4), ("held-out", 0.19, 0.9))
    for row, (first, second) in enumerate(pairs):
        for part, offset, alpha in parts:
            found = account.agreement(first, second, part)
            if found is None:
                continue
            s = found.similarity
            axes.barh(
                row + offset,
                s.value,
                height=0.36,
                color=_COLOURS[second],
                alpha=alpha,
                xerr=[[s.value - s.low], [s.high - s.value]],
                error_kw={"ecolor": "#333", "capsize": 3},
            )
            axes.text(
                max(s.high, s.value) + 0.015,
                row + offset,
                f"{s.value:.3f}  {part}",
                va="center",
                fontsize=9,
            )
    axes.set_yticks(
        range(len(pairs)), [f"{ROLES[first]}\n→ {ROLES[second]}" for first, second in pairs]
    )
    # One pair of bars alone would fill the chart.
    axes.set_ylim(max(len(pairs), 3) - 0.4, -0.6)
    axes.set_xlim(0, 1.22)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("similarity S: mean of CKA and neighbour agreement, 95 % interval")
    held = "samples never seen" if account.held_out == "declared" else "views never seen"
    axes.set_title(f"How alike they see (held-out: {held})", fontsize=11, loc="left")


def _draw_spectra(axes: Any, account: Account) -> None:
    """Share of the sum that the largest singular values hold."""
    for shape in account.shapes:
        held = np.cumsum([0.0, *shape.singular_values])
        axes.plot(
            range(len(held)),
            held,
            color=_COLOURS[shape.role],
            linestyle="--" if shape.role == "bundle" else "-",
            linewidth=2,
            label=(
                f"{ROLES[shape.role]}: effective rank {shape.effective_rank:.1f} "
                f"of {shape.dim} dimensions"
            ),
        )
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(True, color=_GRID, zorder=0)
    axes.set_xlabel("largest singular values taken together")
    axes.set_ylabel("share of all")
    axes.set_title("Directions in use, held-out", fontsize=11, loc="left")
    axes.legend(loc="lower right", frameon=True, fontsize=9)


def _draw_cosines(axes: Any, picture: Picture) -> None:
    """How far single samples are off, on a logarithmic scale of 1 − cosine."""
    axes.set_title("Integers against the float student, sample by sample", fontsize=11, loc="left")
    if not picture.cosines:
        _empty(axes, "no integers were looked at\n(--bundle, or a run of --for-target)")
        return
    distances = {role: np.maximum(1 - c, 1e-7) for role, c in picture.cosines.items()}
    ends = np.log10(
        [min(d.min() for d in distances.values()), max(map(np.max, distances.values()))]
    )
    edges = np.logspace(np.floor(ends[0] * 4) / 4, np.ceil(ends[1] * 4 + 1e-9) / 4 + 0.05, 33)
    tallest = 0.0
    for role, values in distances.items():
        counts, _, _ = axes.hist(
            values, bins=edges, color=_COLOURS[role], alpha=0.6, label=ROLES[role]
        )
        tallest = max(tallest, float(np.max(counts)))
    drift = picture.account.drifts[0]
    axes.set_xscale("log")
    axes.set_ylim(0, tallest * 1.5)
    worst = [f"{short(name)}  {cosine:.4f}" for name, cosine in drift.worst]
    axes.text(
        0.985,
        0.97,
        "\n".join(["farthest off (cosine)", *worst]).replace("$", r"\$"),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=9,
        color=_COLOURS[drift.role],
    )
    axes.set_xlabel("1 − cosine (log); further right is worse")
    axes.set_ylabel("samples")
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_losses(axes: Any, picture: Picture) -> None:
    """Both phases one after the other; each has a loss of its own."""
    axes.set_title("Training loss", fontsize=11, loc="left")
    if not picture.curves:
        _empty(axes, "the run logged no loss")
        return
    begin = 0.0
    phases: tuple[tuple[str, Role], ...] = (("float", "float"), ("integers", "integers"))
    states = {c.phase: c.still_falling for c in picture.account.convergence}
    for phase, role in phases:
        if phase not in picture.curves:
            continue
        steps, values = picture.curves[phase]
        falling = states.get("float" if phase == "float" else "integers")
        state = {None: "", True: ", still falling at the end", False: ", levelled off"}[falling]
        if begin:
            axes.axvline(begin, color="#8a8a8a", linewidth=1, linestyle=":")
        axes.plot(
            np.asarray(steps) + begin,
            values,
            color=_COLOURS[role],
            linewidth=1.4,
            label=f"{phase} phase{state}",
        )
        begin += steps[-1]
    axes.grid(True, color=_GRID, zorder=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(loc="best", frameon=True, fontsize=9)


def _empty(axes: Any, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#666", transform=axes.transAxes)
