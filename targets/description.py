"""What a person wants to know about targets on this machine."""

from __future__ import annotations

from typing import NamedTuple

from edgessl.config import Options
from edgessl.targets.host import HostFacts, detect
from edgessl.targets.loader import list_targets, load_target
from edgessl.targets.model import CandidateSpec, Target

__all__ = ["Description", "Summary", "describe", "summaries"]


class Summary(NamedTuple):
    """One line of the list; ``obstacle`` says why this machine cannot run it, if so."""

    name: str
    description: str
    obstacle: str | None

    def row(self) -> list[str]:
        """Cells for a table: name, whether it runs here, description."""
        return [self.name, "no" if self.obstacle else "yes", self.description]


class Description(Options):
    """One target, and what of it this machine can do.

    Attributes:
        obstacle: Why this machine cannot run it; None if it can.
        tried_here: Candidates that a compilation on this machine tries.
        skipped_here: Candidate → CPU features that it needs and this machine lacks.
    """

    target: Target
    obstacle: str | None
    tried_here: tuple[str, ...]
    skipped_here: dict[str, tuple[str, ...]]

    def rows(self) -> list[list[str]]:
        """Cells for a table: key and value."""
        target = self.target
        rows = [
            ["name", target.name],
            ["description", target.description],
            ["family", target.family],
            ["arch", target.arch],
            ["needs", ", ".join(target.requires) or "nothing"],
            ["runs here", self.obstacle or "yes"],
        ]
        for candidate in target.candidates:
            missing = self.skipped_here.get(candidate.name)
            state = f"not here: the CPU lacks {', '.join(missing)}" if missing else "tried"
            rows.append([f"candidate {candidate.name}", state])
        rows += [
            ["min fidelity", f"{target.min_fidelity:g} mean cosine to float32"],
            ["min neighbour agreement", f"{target.min_neighbour_agreement:g}"],
            ["calibration samples", str(target.quantization.calibration_samples)],
            ["weights per channel", "yes" if target.quantization.per_channel else "no"],
            ["reduced range", target.quantization.reduce_range],
        ]
        for name, fact in sorted(target.hardware.items()):
            source = f" ({fact.source})" if fact.source else ""
            rows.append([name, f"{fact.value} {fact.unit or ''}".strip() + source])
        return rows


def summaries(host: HostFacts | None = None) -> list[Summary]:
    """All known targets as seen from a host; by default this machine."""
    host = host or detect()
    targets = [load_target(name) for name in list_targets()]
    return [Summary(t.name, t.description, t.runs_here(host)) for t in targets]


def describe(name: str, host: HostFacts | None = None) -> Description:
    """One target as seen from a host; by default this machine.

    Raises:
        TargetError: The target is unknown or not valid.
    """
    host = host or detect()
    target = load_target(name)
    lacking = {c.name: _lacks(c, host) for c in target.candidates}
    return Description(
        target=target,
        obstacle=target.runs_here(host),
        tried_here=tuple(name for name, missing in lacking.items() if not missing),
        skipped_here={name: missing for name, missing in lacking.items() if missing},
    )


def _lacks(candidate: CandidateSpec, host: HostFacts) -> tuple[str, ...]:
    return tuple(feature for feature in candidate.requires if feature not in host.features)
