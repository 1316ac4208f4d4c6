"""Put the chosen candidate into a bundle, with canaries and provenance."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgessl import __version__
from edgessl.bundle.archive import pack
from edgessl.bundle.arrays import save_arrays
from edgessl.bundle.manifest import (
    Canaries,
    EngineSpec,
    Manifest,
    Provenance,
    Requirements,
    Variant,
)
from edgessl.compiler.report import CompileReport, FidelityGateError
from edgessl.compiler.samples import Samples
from edgessl.compiler.search import Search
from edgessl.compiler.trial import Trial
from edgessl.compiler.work import Finished
from edgessl.errors import ModelError, UnavailableError
from edgessl.files import atomic_path, write_json
from edgessl.progress import Progress, ProgressEvent

__all__ = ["embedding_dim", "finish", "reuse"]

_CANARIES = 4
_CANARY_BYTES = 2 << 20
"""Canaries must not outweigh a small model: at least one, and more while they fit into this."""
_INPUTS, _OUTPUTS = "canaries/inputs.npz", "canaries/outputs.npz"
# The same engine on another CPU rounds differently; integers and bfloat16 amplify that.
_CANARY_COSINE = {"fp32": 0.9999}
_CANARY_COSINE_LOW_PRECISION = 0.99


def finish(
    search: Search, trials: list[Trial], out: Path, report_path: str | Path | None
) -> CompileReport:
    """Write the bundle and the report, or say why there is none.

    Raises:
        FidelityGateError: Candidates run, but none passes.
        UnavailableError: No candidate's engine is installed.
        ModelError: No candidate runs.
    """
    chosen = next((t for t in trials if t.status == "chosen"), None)
    report = CompileReport(
        bundle=None,
        size_bytes=None,
        target=search.target.name,
        chosen=chosen.name if chosen else None,
        measured=search.obstacle is None,
        rewrites=search.rewrites,
        calibration_samples=search.calibration.count,
        held_out_samples=search.held_out.count,
        gate=search.gate,
        candidates=tuple(t.entry(stable=False) for t in trials),
        left_out=search.left_out,
        reference="float32" if search.graph.integers is None else "integers",
        manifest=None,
    )
    if chosen is not None:
        manifest = _write(search, trials, chosen, out)
        report = report.model_copy(
            update={"bundle": str(out), "size_bytes": out.stat().st_size, "manifest": manifest}
        )
    if report_path is not None:
        write_json(Path(report_path), report.model_dump(mode="json"))
    if chosen is None:
        _refuse(trials, report)
    return report


def reuse(
    finished: Finished, out: Path, report_path: str | Path | None, progress: Progress
) -> CompileReport:
    """Write the bundle and the report of an earlier compilation with the same inputs."""
    report = CompileReport.model_validate_json(Path(finished.report).read_bytes())
    with atomic_path(out) as temporary:
        shutil.copyfile(finished.bundle, temporary)
    report = report.model_copy(update={"bundle": str(out)})
    if report_path is not None:
        write_json(Path(report_path), report.model_dump(mode="json"))
    message = "same inputs as before: taken from the cache (remeasure=true makes it anew)"
    progress(ProgressEvent("compile", message=message))
    return report


def _refuse(trials: list[Trial], report: CompileReport) -> None:
    ran = [t for t in trials if t.outcome.fidelity is not None]
    if ran:
        best = max(ran, key=lambda t: t.outcome.fidelity.cosine_mean if t.outcome.fidelity else 0.0)
        raise FidelityGateError(
            f"{report.target}: no candidate passes; the nearest, {best.name}: "
            f"{best.outcome.reason}; try another precision, more calibration samples or a lower "
            "min_fidelity",
            report,
        )
    first = trials[0]
    kind = UnavailableError if all(t.outcome.unavailable for t in trials) else ModelError
    raise kind(f"{report.target}: no candidate runs; {first.name}: {first.outcome.reason}")


def _write(search: Search, trials: list[Trial], chosen: Trial, out: Path) -> Manifest:
    graph, results = search.graph, Samples(chosen.results)
    by_row = all(s.batched for s in (*search.held_out.streams, *results.streams))
    # A model with a state or another unbatched input runs as it is, one call per sample.
    size = max(1, sum(s.sample_bytes for s in search.held_out.streams))
    count = min(_CANARIES, results.count, max(1, _CANARY_BYTES // size)) if by_row else 1
    members = _canaries(search.held_out, _INPUTS, count, by_row=by_row)
    travelling = [
        t
        for t in trials
        if t.status == "passed" and chosen.built.kind == t.built.kind == "portable"
    ]
    # Members are named for their place, so that the candidates' files do not meet.
    for place, trial in [("", chosen), *((f"variants/{t.name}/", t) for t in travelling)]:
        members |= {place + name: trial.folder / name for name in trial.built.files}
        members |= _canaries(Samples(trial.results), place + _OUTPUTS, count, by_row=by_row)
    versions = {} if chosen.outcome.runner is None else _version(chosen.outcome.runner)
    manifest = Manifest(
        kind=chosen.built.kind,
        target=search.target.name,
        precision=chosen.spec.precision,
        engine=chosen.engine,
        model=chosen.built.model,
        inputs=chosen.outcome.inputs,
        outputs=chosen.outcome.outputs,
        batch_size=graph.batch_size if by_row else None,
        embedding_dim=graph.embedding_dim or embedding_dim(results),
        preprocessing=graph.preprocessing,
        constants=graph.constants,
        fidelity=chosen.outcome.fidelity,
        candidates=tuple(t.entry(stable=True) for t in trials),
        canaries=_described(chosen, "", count),
        provenance=Provenance(
            edgessl_version=__version__,
            model_sha256=graph.sha256,
            calibration_sha256=search.calibration.sha256(),
            calibration_samples=search.calibration.count,
            seed=search.seed,
            toolchain={**chosen.built.toolchain, **versions},
            lineage=graph.lineage,
        ),
        requirements=_requirements(search, chosen),
        stand_ins=chosen.built.stand_ins,
        variants=tuple(_variant(t, count) for t in travelling),
        workload=graph.workload,
    )
    return pack(out, manifest, members)


def _version(engine: EngineSpec) -> dict[str, str]:
    return {engine.name: engine.version}


def _requirements(search: Search, chosen: Trial) -> Requirements:
    """What the backend says; of a build for this very CPU, that it is such a one."""
    if search.obstacle is not None or search.target.family != "cpu":
        return chosen.built.requirements
    features = {*search.target.requires, *chosen.spec.requires}
    needed = {"arch": search.host.arch, "cpu_features": tuple(sorted(features))}
    return chosen.built.requirements.model_copy(update=needed)


def _variant(trial: Trial, count: int) -> Variant:
    place = f"variants/{trial.name}/"
    return Variant(
        name=trial.name,
        precision=trial.spec.precision,
        engine=trial.engine,
        model=place + trial.built.model,
        fidelity=trial.outcome.fidelity,
        canaries=_described(trial, place, count),
        stand_ins=tuple(
            s.model_copy(update={"model": place + s.model}) for s in trial.built.stand_ins
        ),
        requirements=trial.built.requirements,
    )


def _canaries(samples: Samples, name: str, count: int, *, by_row: bool) -> dict[str, Path | bytes]:
    return {name: save_arrays(samples.read(0, count) if by_row else samples.feeds(0))}


def _described(trial: Trial, place: str, count: int) -> Canaries:
    cosine = _CANARY_COSINE.get(trial.spec.precision, _CANARY_COSINE_LOW_PRECISION)
    return Canaries(inputs=_INPUTS, outputs=place + _OUTPUTS, samples=count, min_cosine=cosine)


def embedding_dim(results: Samples) -> int | None:
    """D where the only output is ``(N, D)`` of floats, D > 1, whoever exported the model."""
    (first, *rest) = results.streams
    is_row = first.batched and len(first.shape) == 1 and first.dtype.startswith("float")
    return first.shape[0] if is_row and first.shape[0] > 1 and not rest else None
