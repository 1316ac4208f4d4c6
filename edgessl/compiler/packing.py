"""Put the chosen candidate into a bundle, with canaries and provenance."""

from __future__ import annotations

from pathlib import Path

from edgessl import __version__
from edgessl.bundle.archive import pack
from edgessl.bundle.arrays import save_arrays
from edgessl.bundle.manifest import Canaries, EngineSpec, Manifest, Provenance
from edgessl.compiler.report import CompileReport, FidelityGateError
from edgessl.compiler.samples import Samples
from edgessl.compiler.search import Search, Trial
from edgessl.errors import ModelError, UnavailableError
from edgessl.files import write_json

__all__ = ["finish"]

_CANARIES = 4
# The same engine on another CPU rounds differently; integers and bfloat16 amplify that.
_CANARY_COSINE = {"fp32": 0.9999}
_CANARY_COSINE_LOW_PRECISION = 0.99


def finish(
    search: Search, trials: list[Trial], remark: str, out: Path, report_path: str | Path | None
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
        chosen=chosen.spec.name if chosen else None,
        graph=remark,
        calibration_samples=search.calibration.count,
        held_out_samples=search.held_out.count,
        gate=search.gate,
        candidates=tuple(t.entry(stable=False) for t in trials),
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


def _refuse(trials: list[Trial], report: CompileReport) -> None:
    ran = [t for t in trials if t.fidelity is not None]
    if ran:
        best = max(ran, key=lambda t: t.fidelity.cosine_mean if t.fidelity else 0.0)
        raise FidelityGateError(
            f"{report.target}: no candidate passes; the nearest, {best.spec.name}: {best.reason}; "
            "try another precision, more calibration samples or a lower min_fidelity",
            report,
        )
    first = trials[0]
    kind = UnavailableError if all(t.unavailable for t in trials) else ModelError
    raise kind(f"{report.target}: no candidate runs; {first.spec.name}: {first.reason}")


def _write(search: Search, trials: list[Trial], chosen: Trial, out: Path) -> Manifest:
    built, graph = chosen.built, search.graph
    if built is None:
        raise ValueError(f"{chosen.spec.name} is chosen but not built")
    results = Samples(chosen.results)
    by_row = all(s.batched for s in (*search.held_out.streams, *results.streams))
    # A model with a state or another unbatched input runs as it is, one call per sample.
    count = min(_CANARIES, results.count) if by_row else 1
    inputs, outputs = (
        part.read(0, count) if by_row else part.feeds(0) for part in (search.held_out, results)
    )
    manifest = Manifest(
        kind="native",
        target=search.target.name,
        precision=chosen.spec.precision,
        engine=EngineSpec(name=chosen.spec.engine, version=chosen.version, options=built.options),
        model=built.model,
        inputs=chosen.inputs,
        outputs=chosen.outputs,
        batch_size=graph.batch_size if by_row else None,
        embedding_dim=graph.embedding_dim or _embedding_dim(results),
        preprocessing=graph.preprocessing,
        fidelity=chosen.fidelity,
        candidates=tuple(t.entry(stable=True) for t in trials),
        canaries=Canaries(
            inputs="canaries/inputs.npz",
            outputs="canaries/outputs.npz",
            samples=count,
            min_cosine=_CANARY_COSINE.get(chosen.spec.precision, _CANARY_COSINE_LOW_PRECISION),
        ),
        provenance=Provenance(
            edgessl_version=__version__,
            model_sha256=graph.sha256,
            calibration_sha256=search.calibration.sha256(),
            calibration_samples=search.calibration.count,
            seed=search.seed,
            toolchain={**built.toolchain, chosen.spec.engine: chosen.version},
            lineage=graph.lineage,
        ),
    )
    members: dict[str, Path | bytes] = {name: chosen.folder / name for name in built.files}
    members["canaries/inputs.npz"] = save_arrays(inputs)
    members["canaries/outputs.npz"] = save_arrays(outputs)
    return pack(out, manifest, members)


def _embedding_dim(results: Samples) -> int | None:
    """D where the only output is ``(N, D)`` of floats, whoever exported the model."""
    (first, *rest) = results.streams
    is_row = first.batched and len(first.shape) == 1 and first.dtype.startswith("float")
    return first.shape[0] if is_row and not rest else None
