"""How the library tells a caller how far it is: events through a callback, never prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Progress", "ProgressEvent", "silent"]


@dataclass(frozen=True)
class ProgressEvent:
    """One step of a long job, or a remark about it.

    Attributes:
        stage: What is running, as a person calls it (``"pretrain"``, ``"decode"``).
        completed: Units done so far.
        total: Units in all; None where that is not known.
        unit: What is counted (``"steps"``, ``"samples"``).
        metrics: Figures to show beside the bar (loss, samples/s).
        message: A remark for the log; the bar does not move when it is set.
        warning: True if the remark is a warning.
        table: What is known so far, to show while it goes on: the header, then rows.
    """

    stage: str
    completed: int = 0
    total: int | None = None
    unit: str = "steps"
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str | None = None
    warning: bool = False
    table: tuple[tuple[str, ...], ...] = ()


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Ignore every event: the default callback."""
