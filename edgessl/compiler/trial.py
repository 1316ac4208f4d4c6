"""One candidate and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from typing_extensions import Self

from edgessl.bundle.manifest import Candidate, EngineSpec, Fidelity, TensorSpec
from edgessl.compiler.backends import Built
from edgessl.compiler.latency import Latency
from edgessl.config import Options
from edgessl.targets import CandidateSpec

__all__ = ["Outcome", "Status", "Trial"]

Status = Literal["chosen", "passed", "rejected", "failed"]


class Outcome(Options):
    """What building and judging gave; it can be remembered.

    Attributes:
        status: ``"passed"`` or ``"rejected"`` by the gate, or ``"failed"``.
        reason: Why, with times and places of this run.
        stable_reason: The same without anything that differs between two runs; it goes into the
            bundle.
        built: What the backend gave; None if it failed.
        runner: What ran the held-out samples: the engine itself, or a stand-in.
        inputs: What the engine takes.
        outputs: What it gives.
        fidelity: Closeness to the float32 model.
        kept_float: Nodes that were put back into floating point.
        variant: Tells mixed candidates of one spec apart; ends the name.
        note: What is said of it besides the reason, whatever becomes of it.
        unavailable: True if it failed because its engine is not installed.
    """

    status: Status
    reason: str
    stable_reason: str
    built: Built | None = None
    runner: EngineSpec | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    fidelity: Fidelity | None = None
    kept_float: tuple[str, ...] = ()
    variant: str = ""
    note: str = ""
    unavailable: bool = False

    @classmethod
    def failed(cls, reason: str, stable_reason: str = "", *, unavailable: bool = False) -> Self:
        """A candidate that could not be built or run."""
        return cls(
            status="failed",
            reason=reason,
            stable_reason=stable_reason or reason,
            unavailable=unavailable,
        )


@dataclass(frozen=True)
class Trial:
    """A candidate, its folder and its outcome.

    Attributes:
        spec: What was tried.
        folder: Where its files are.
        outcome: What became of it.
        latency: Time per call; None if it was not measured.
    """

    spec: CandidateSpec
    folder: Path
    outcome: Outcome
    latency: Latency | None = None

    @property
    def name(self) -> str:
        """The candidate's name; a mixed one says so."""
        mixed = f"-mixed{self.outcome.variant}" if self.outcome.kept_float else ""
        return f"{self.spec.name}{mixed}"

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self.outcome.status

    @property
    def results(self) -> Path:
        """Folder of its outputs for the held-out samples."""
        return self.folder / "results"

    @property
    def built(self) -> Built:
        """What the backend gave."""
        if self.outcome.built is None:
            raise ValueError(f"{self.name} is not built")
        return self.outcome.built

    @property
    def runs(self) -> bool:
        """True if it ran and gave numbers, whether or not they pass."""
        return self.outcome.fidelity is not None and self.outcome.fidelity.finite

    @property
    def size_bytes(self) -> int | None:
        """Size of the engine files."""
        if self.outcome.built is None:
            return None
        return sum((self.folder / name).stat().st_size for name in self.built.files)

    @property
    def engine(self) -> EngineSpec:
        """The engine that the device runs it with."""
        version = self.built.version
        if not version:
            version = self.outcome.runner.version if self.outcome.runner else ""
        return EngineSpec(name=self.spec.engine, version=version, options=self.built.options)

    def becomes(
        self, status: Status, reason: str, stable_reason: str, latency: Latency | None = None
    ) -> Trial:
        """The same with another verdict."""
        update = {"status": status, "reason": reason, "stable_reason": stable_reason}
        outcome = self.outcome.model_copy(update=update)
        return replace(self, outcome=outcome, latency=latency or self.latency)

    def entry(self, *, stable: bool) -> Candidate:
        """The table's line; a stable one has no measured times."""
        latency = None if stable else self.latency
        reason = self.outcome.stable_reason if stable else self.outcome.reason
        return Candidate(
            name=self.name,
            engine=self.spec.engine,
            precision=self.spec.precision,
            status=self.status,
            reason=f"{reason}; {self.outcome.note}" if self.outcome.note else reason,
            fidelity=self.outcome.fidelity,
            latency_p50_ms=latency.p50_ms if latency else None,
            latency_p90_ms=latency.p90_ms if latency else None,
            size_bytes=self.size_bytes,
        )
