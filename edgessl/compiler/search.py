"""Build every candidate, check it against the float32 model, keep the fastest that passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgessl.bundle.manifest import Candidate, Fidelity, TensorSpec
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.fidelity import Gate, measure_fidelity
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.latency import Contender, Latency, Ranking, rank
from edgessl.compiler.process import WorkerFailure, ask
from edgessl.compiler.samples import Samples
from edgessl.errors import (
    EdgeSSLError,
    ModelError,
    OutputError,
    TargetError,
    UnavailableError,
    nearest,
)
from edgessl.files import sha256_file, sha256_json
from edgessl.progress import Progress, ProgressEvent
from edgessl.targets import CandidateSpec, HostFacts, Target

__all__ = ["Search", "Trial", "select_candidates"]

# Of two equally fast candidates the more precise one is kept.
_PREFERENCE = ("fp32", "bf16", "fp16", "a16w8", "int8")
Status = Literal["chosen", "passed", "rejected", "failed"]


@dataclass(frozen=True)
class Trial:
    """One candidate and what became of it.

    Attributes:
        spec: What was tried.
        status: Where it stands.
        reason: Why, with measured times.
        stable_reason: The same without anything that differs between two runs; it goes into the
            bundle.
        built: What the backend gave; None if it failed.
        folder: Where that is.
        version: Version of the engine that ran it.
        inputs: What the engine takes.
        outputs: What it gives.
        fidelity: Closeness to the float32 model.
        latency: Time per call; None if it was not measured.
        unavailable: True if it failed because its engine is not installed.
    """

    spec: CandidateSpec
    folder: Path
    status: Status
    reason: str
    stable_reason: str
    built: Built | None = None
    version: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    unavailable: bool = False

    @property
    def size_bytes(self) -> int | None:
        """Size of the engine files."""
        if self.built is None:
            return None
        return sum((self.folder / name).stat().st_size for name in self.built.files)

    @property
    def results(self) -> Path:
        """Folder of its outputs for the held-out samples."""
        return self.folder / "results"

    def entry(self, *, stable: bool) -> Candidate:
        """The table's line; a stable one has no measured times."""
        latency = None if stable else self.latency
        return Candidate(
            name=self.spec.name,
            engine=self.spec.engine,
            precision=self.spec.precision,
            status=self.status,
            reason=self.stable_reason if stable else self.reason,
            fidelity=self.fidelity,
            latency_p50_ms=latency.p50_ms if latency else None,
            latency_p90_ms=latency.p90_ms if latency else None,
            size_bytes=self.size_bytes,
        )


def select_candidates(
    target: Target, *, precision: str, engine: str | None
) -> tuple[CandidateSpec, ...]:
    """The target's candidates of a precision (``"auto"``: any) and an engine (None: any).

    Raises:
        TargetError: There is none; the message says what there is.
    """
    engines = sorted({c.engine for c in target.candidates})
    if engine is not None and engine not in engines:
        raise TargetError(f"{target.name} has no engine '{engine}'; {nearest(engine, engines)}")
    of_engine = [c for c in target.candidates if engine in (None, c.engine)]
    chosen = tuple(c for c in of_engine if precision in ("auto", c.precision))
    if not chosen:
        precisions = sorted({c.precision for c in of_engine})
        by = f"{target.name} with {engine}" if engine else target.name
        raise TargetError(
            f"{by} has no precision '{precision}'; choose auto or {', '.join(precisions)}"
        )
    return chosen


@dataclass(frozen=True)
class Search:
    """What all candidates have in common.

    Attributes:
        target: The device.
        host: This machine.
        graph: The prepared graph.
        calibration: Samples that quantizers see.
        held_out: Samples that the gate judges by.
        reference: Outputs of the float32 model for them.
        gate: Least figures that pass.
        folder: Work folder.
        threads: Threads of the engines.
        seed: Seed of the quantizers.
        progress: Told what happens.
    """

    target: Target
    host: HostFacts
    graph: GraphInfo
    calibration: Samples
    held_out: Samples
    reference: Samples
    gate: Gate
    folder: Path
    threads: int
    seed: int
    progress: Progress

    def run(self, candidates: Sequence[CandidateSpec], *, remeasure: bool) -> list[Trial]:
        """Try the candidates; the chosen one, if any passes, has the status ``"chosen"``."""
        trials = []
        for done, spec in enumerate(candidates):
            event = ProgressEvent("compile", done, len(candidates), unit="candidates")
            self.progress(replace(event, message=f"building {spec.name}"))
            self.progress(event)
            trials.append(self._try(spec))
        self.progress(replace(event, completed=len(candidates)))
        return self._choose(trials, remeasure=remeasure)

    def _try(self, spec: CandidateSpec) -> Trial:
        folder = self.folder / spec.name
        folder.mkdir()
        missing = [f for f in spec.requires if f not in self.host.features]
        if missing:
            reason = f"this CPU lacks {', '.join(missing)}"
            return Trial(spec, folder, "failed", reason, reason, unavailable=True)
        try:
            return self._judge(spec, folder)
        except OutputError:
            raise
        except (EdgeSSLError, WorkerFailure) as error:
            reason = str(error).replace(str(folder), ".")
            stable = error.summary if isinstance(error, WorkerFailure) else reason
            unavailable = isinstance(error, UnavailableError)
            return Trial(spec, folder, "failed", reason, stable, unavailable=unavailable)

    def _judge(self, spec: CandidateSpec, folder: Path) -> Trial:
        request = BuildRequest(
            graph=self.graph,
            candidate=spec,
            target=self.target,
            here=self.target.runs_here(self.host) is None,
            calibration=str(self.calibration.folder),
            folder=str(folder),
            threads=self.threads,
            reduce_range=self.target.reduces_range(self.host),
            method=self.target.quantization.method,
            seed=self.seed,
        )
        built = Built.model_validate(
            ask(folder, "build", threads=self.threads, request=request.model_dump(mode="json"))
        )
        trial = Trial(spec, folder, "passed", "passes", "passes", built)
        answer = ask(
            folder,
            "embed",
            engine=spec.engine,
            model=str(folder / built.model),
            options=built.options,
            samples=str(self.held_out.folder),
            out=str(trial.results),
        )
        fidelity = measure_fidelity(self.reference, Samples(trial.results))
        trial = replace(
            trial,
            fidelity=fidelity,
            version=answer["version"],
            inputs=tuple(TensorSpec.model_validate(spec) for spec in answer["inputs"]),
            outputs=tuple(TensorSpec.model_validate(spec) for spec in answer["outputs"]),
        )
        objection = self.gate.objection(fidelity)
        if objection is None:
            return trial
        return replace(trial, status="rejected", reason=objection, stable_reason=objection)

    def _choose(self, trials: list[Trial], *, remeasure: bool) -> list[Trial]:
        passed = [t for t in trials if t.status == "passed"]
        if not passed:
            return trials
        running = [t for t in trials if t.fidelity is not None and t.fidelity.finite]
        if len(running) == 1:
            return [
                _chosen(t, "the only one that runs", None) if t in passed else t for t in trials
            ]
        running.sort(key=lambda t: _PREFERENCE.index(t.spec.precision))
        try:
            ranking = rank(
                [_contender(t) for t in running],
                samples=self.held_out.folder,
                folder=self.folder,
                remeasure=remeasure,
                progress=self.progress,
            )
        except WorkerFailure as failure:
            raise ModelError(
                f"{passed[0].spec.name} ran, but {failure} when it was measured; "
                "name an --engine or a --precision to leave it out"
            ) from failure
        return [_placed(t, ranking, alone=len(passed) == 1) for t in trials]


def _contender(trial: Trial) -> Contender:
    built = trial.built
    if built is None:
        raise ValueError(f"{trial.spec.name} is not built")
    digests = {name: sha256_file(trial.folder / name) for name in built.files}
    return Contender(
        name=trial.spec.name,
        engine=trial.spec.engine,
        version=trial.version,
        model=trial.folder / built.model,
        options=built.options,
        digest=sha256_json(digests),
        eligible=trial.status == "passed",
    )


def _chosen(trial: Trial, reason: str, latency: Latency | None) -> Trial:
    return replace(trial, status="chosen", reason=reason, stable_reason=reason, latency=latency)


def _placed(trial: Trial, ranking: Ranking, *, alone: bool) -> Trial:
    latency = ranking.latencies.get(trial.spec.name)
    if trial.spec.name == ranking.winner:
        reason = "the only one that passes" if alone else "the fastest that passes"
        return _chosen(trial, reason, latency)
    if trial.status != "passed":
        return replace(trial, latency=latency)
    best = ranking.latencies.get(ranking.winner)
    if latency is None or best is None:
        reason = "failed while it was measured"
        return replace(trial, status="failed", reason=reason, stable_reason=reason)
    ratio = latency.p50_ms / best.p50_ms
    reason = (
        f"slower: p50 is {ratio:.2f} times the chosen one's"
        if ratio > 1.0
        else "not 2 % faster than the chosen one, which is as precise or more"
    )
    return replace(
        trial, reason=reason, stable_reason="not faster than the chosen one", latency=latency
    )
