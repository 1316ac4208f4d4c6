"""Build every candidate and check it against the float32 model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgessl.bundle.manifest import EngineSpec, TensorSpec
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.fidelity import Gate, measure_fidelity
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.integer_candidates import LeftOut
from edgessl.compiler.process import WorkerFailure, ask
from edgessl.compiler.ranges import Method
from edgessl.compiler.rewrites import RewriteRemark
from edgessl.compiler.samples import Samples
from edgessl.compiler.trial import Outcome, Trial
from edgessl.compiler.work import Work
from edgessl.errors import EdgeSSLError, OutputError, TargetError, UnavailableError, nearest
from edgessl.files import atomic_path, cache_directory, sha256_file, sha256_json
from edgessl.progress import Progress, ProgressEvent
from edgessl.targets import CandidateSpec, HostFacts, Target

__all__ = ["Limits", "Search", "select_candidates"]


@dataclass(frozen=True)
class Limits:
    """What one step of one candidate may use.

    Attributes:
        timeout_s: Longest time.
        memory_bytes: Most memory of the process that does it.
    """

    timeout_s: float
    memory_bytes: int


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
        why = {str(name): reason for name, reason in target.refused.items()}.get(precision)
        raise TargetError(
            f"{by} has no precision '{precision}': {why}; choose auto or {', '.join(precisions)}"
            if why
            else f"{by} has no precision '{precision}'; choose auto or {', '.join(precisions)}"
        )
    return chosen


@dataclass(frozen=True)
class Search:
    """What all candidates have in common.

    Attributes:
        target: The device.
        host: This machine.
        obstacle: Why this machine is not such a device; None if it is.
        graph: The prepared graph.
        rewrites: What became of its rewrites.
        calibration: Samples that quantizers see.
        held_out: Samples that the gate judges by.
        reference: Outputs of the float32 model for them.
        gate: Least figures that pass.
        work: Where steps put their files.
        threads: Threads of the engines.
        method: How activation ranges are chosen.
        settings: What the user says about toolchains.
        limits: What one step may use.
        seed: Seed of the quantizers.
        progress: Told what happens.
        left_out: Candidates that are not tried.
    """

    target: Target
    host: HostFacts
    obstacle: str | None
    graph: GraphInfo
    rewrites: tuple[RewriteRemark, ...]
    calibration: Samples
    held_out: Samples
    reference: Samples
    gate: Gate
    work: Work
    threads: int
    method: Method
    settings: dict[str, str]
    limits: Limits
    seed: int
    progress: Progress
    left_out: tuple[LeftOut, ...] = ()

    def run(self, candidates: Sequence[CandidateSpec]) -> list[Trial]:
        """Try the candidates, in order."""
        trials = []
        for done, spec in enumerate(candidates):
            event = ProgressEvent("compile", done, len(candidates), unit="candidates")
            self.progress(replace(event, message=f"building {spec.name}"))
            self.progress(event)
            trials.append(self.attempt(spec))
        self.progress(replace(event, completed=len(candidates)))
        return trials

    def attempt(self, spec: CandidateSpec, *, keep_float: Sequence[str] = ()) -> Trial:
        """Build and judge one candidate, or recall what an interrupted run found.

        Args:
            spec: The candidate.
            keep_float: Names of nodes that stay in floating point.
        """
        kept = sha256_json(sorted(keep_float))[:12]
        name = f"{spec.name}-mixed-{kept}" if keep_float else spec.name
        known = self.work.recall(f"outcome-{name}", Outcome)
        if known is not None:
            return Trial(spec, self.work.folder / name, known)
        folder = self.work.fresh(name)
        missing = [f for f in spec.requires if f not in self.host.features]
        if missing and self.obstacle is None:
            reason = f"this CPU lacks {', '.join(missing)}"
            return Trial(spec, folder, Outcome.failed(reason, unavailable=True))
        try:
            outcome = self._judge(spec, folder, tuple(keep_float))
        except OutputError:
            raise
        except WorkerFailure as failure:
            reason = str(failure).replace(str(folder), ".") + _kept_log(folder, name)
            return Trial(spec, folder, Outcome.failed(reason, failure.summary))
        except EdgeSSLError as error:
            reason = str(error).replace(str(folder), ".")
            unavailable = isinstance(error, UnavailableError)
            return Trial(spec, folder, Outcome.failed(reason, unavailable=unavailable))
        return Trial(spec, folder, self.work.keep(f"outcome-{name}", outcome))

    def request(
        self, spec: CandidateSpec, folder: Path, keep_float: tuple[str, ...] = ()
    ) -> BuildRequest:
        """What a backend is asked for."""
        return BuildRequest(
            graph=self.graph,
            candidate=spec,
            target=self.target,
            here=self.obstacle is None,
            calibration=str(self.calibration.folder),
            folder=str(folder),
            threads=self.threads,
            reduce_range=self._seven_bits(),
            method=self.method,
            keep_float=keep_float,
            settings=self.settings,
            seed=self.seed,
        )

    def _seven_bits(self) -> bool:
        stored = self.graph.integers
        return self.target.reduces_range(self.host) if stored is None else stored.seven_bits

    def ask(self, folder: Path, operation: str, /, **arguments: Any) -> Any:
        """Run an operation in a worker of its own, within the limits."""
        return ask(
            folder,
            operation,
            threads=self.threads,
            timeout_s=self.limits.timeout_s,
            memory_bytes=self.limits.memory_bytes,
            **arguments,
        )

    def _judge(self, spec: CandidateSpec, folder: Path, keep_float: tuple[str, ...]) -> Outcome:
        request = self.request(spec, folder, keep_float)
        built = Built.model_validate(
            self.ask(folder, "build", request=request.model_dump(mode="json"))
        )
        runner, model = self._runner(spec, built)
        answer = self.ask(
            folder,
            "embed",
            engine=runner.name,
            model=str(folder / model),
            options=runner.options,
            samples=str(self.held_out.folder),
            out=str(folder / "results"),
        )
        fidelity = measure_fidelity(self.reference, Samples(folder / "results"))
        objection = self.gate.objection(fidelity)
        return Outcome(
            status="passed" if objection is None else "rejected",
            reason=objection or "passes",
            stable_reason=objection or "passes",
            built=built,
            runner=runner.model_copy(update={"version": answer["version"]}),
            inputs=tuple(TensorSpec.model_validate(spec) for spec in answer["inputs"]),
            outputs=tuple(TensorSpec.model_validate(spec) for spec in answer["outputs"]),
            fidelity=fidelity,
            kept_float=keep_float,
        )

    def _runner(self, spec: CandidateSpec, built: Built) -> tuple[EngineSpec, str]:
        """What runs the held-out samples on this machine, and the file that it opens."""
        if self.obstacle is None and built.kind == "native":
            return EngineSpec(name=spec.engine, version="", options=built.options), built.model
        if built.stand_ins:
            return built.stand_ins[0].engine, built.stand_ins[0].model
        raise UnavailableError(
            f"{spec.name}: {self.obstacle or 'the build is portable'}, and there is no emulator "
            "or other engine to check it with; compile it on the device"
        )


def _kept_log(folder: Path, name: str) -> str:
    """Keep what a worker that died said, and say where; the work folder goes at the end."""
    log = folder / "worker.log"
    if not log.is_file() or not log.stat().st_size:
        return ""
    place = cache_directory("compile", "logs", f"{name}-{sha256_file(log)[:12]}.log")
    try:
        with atomic_path(place) as temporary:
            shutil.copyfile(log, temporary)
    except OutputError:
        return ""
    return f" (log: {place})"
