"""`check_model`: prepare a graph as the compiler does, and ask each engine of the target."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgessl.compiler.check.report import CheckGateError, CheckReport, EngineReport
from edgessl.compiler.check.request import CHECKERS, CheckRequest
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.process import WorkerFailure, ask, memory_limit
from edgessl.compiler.rewrites import SEQUENCE, RewriteRemark
from edgessl.compiler.rewrites.pipeline import rewrite_in_workers
from edgessl.compiler.samples import Samples
from edgessl.compiler.shapes import Shapes
from edgessl.errors import ModelError, UnavailableError
from edgessl.files import output_errors
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.targets import Target, load_target

__all__ = ["check_model"]

_TIMEOUT_S = 600.0


def check_model(
    model: str | Path,
    *,
    target: str | Path | Target,
    shapes: Shapes | None = None,
    frozen: Mapping[str, int | float] | None = None,
    batch_size: int = 1,
    max_fallback: int | None = None,
    as_is: bool = False,
    progress: Progress = silent,
) -> CheckReport:
    """Say node by node what of a model a target takes, before any long work.

    The graph is prepared and rewritten as `compile_model` does it, with made-up inputs; no
    calibration data is needed.

    Args:
        model: The ``.onnx`` file.
        target: Name of a target, path of a target file, or a loaded target.
        shapes: Input name → its whole shape, for dimensions that are not fixed.
        frozen: Input name → number that takes its place for good.
        batch_size: Samples per engine call.
        max_fallback: Most nodes that may run elsewhere than on the target's unit.
        as_is: Ask about the graph as it stands, without the compiler's rewrites.
        progress: Told of each engine.

    Returns:
        Engines, nodes, problems and a verdict.

    Raises:
        ModelError: The model cannot be used.
        TargetError: The target is unknown.
        CheckGateError: No engine of the target runs the model, or the best leaves more than
            ``max_fallback`` nodes elsewhere; the error carries the report.
    """
    device = target if isinstance(target, Target) else load_target(target)
    path = Path(model)
    with (
        output_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="edgessl-check-") as name,
    ):
        folder = Path(name)
        original, samples = _prepare(path, folder, shapes, frozen, batch_size)
        names = () if as_is else SEQUENCE
        progress(ProgressEvent("check", message="rewriting the graph as the compiler does"))
        graph, remarks = rewrite_in_workers(
            original,
            folder,
            samples,
            names=names,
            timeout_s=_TIMEOUT_S,
            memory_bytes=memory_limit(),
        )
        facts = _ask(path, folder, "check_facts", graph=graph.path, target=_json(device))
        engines = []
        for engine in dict.fromkeys(c.engine for c in device.candidates):
            progress(ProgressEvent("check", message=f"asking {engine}"))
            engines.append(_place(engine, graph, device, samples, folder))
    report = _report(path, original, device, engines, remarks, facts, max_fallback)
    _judge(report)
    return report


def _prepare(
    path: Path,
    folder: Path,
    shapes: Shapes | None,
    frozen: Mapping[str, int | float] | None,
    batch_size: int,
) -> tuple[GraphInfo, Samples]:
    values = _ask(
        path,
        folder,
        "check_prepare",
        model=str(path.absolute()),
        out=str(folder / "original.onnx"),
        samples=str(folder / "samples"),
        batch_size=batch_size,
        shapes=None if shapes is None else {name: list(shapes[name]) for name in shapes},
        frozen=None if frozen is None else dict(frozen),
    )
    return GraphInfo.model_validate(values), Samples(folder / "samples")


def _place(
    engine: str, graph: GraphInfo, target: Target, samples: Samples, folder: Path
) -> EngineReport:
    unknown = EngineReport(
        engine=engine, device=engine, runs=False, asked=False, evidence="nobody was asked"
    )
    if engine not in CHECKERS.names():
        return unknown.model_copy(update={"problems": (f"edgessl has no check for {engine}",)})
    work = folder / f"check-{engine}"
    work.mkdir()
    request = CheckRequest(
        graph=graph,
        target=target,
        engine=engine,
        samples=str(samples.folder),
        folder=str(work),
    )
    try:
        answer = ask(
            folder,
            "check_place",
            threads=1,
            timeout_s=_TIMEOUT_S,
            memory_bytes=memory_limit(),
            request=request.model_dump(mode="json"),
        )
    except WorkerFailure as failure:
        problems = (f"{engine} {failure.summary}",)
        return unknown.model_copy(
            update={"asked": True, "problems": problems, "evidence": f"its process: {failure}"}
        )
    except UnavailableError as error:
        return unknown.model_copy(update={"problems": (str(error),)})
    return EngineReport.model_validate(answer)


def _report(
    path: Path,
    graph: GraphInfo,
    target: Target,
    engines: list[EngineReport],
    remarks: tuple[RewriteRemark, ...],
    facts: dict[str, Any],
    max_fallback: int | None,
) -> CheckReport:
    verdict: Literal["fits", "fallback", "refused"] = "refused"
    static = target.shapes.static and any("static shapes" in p for p in facts["problems"])
    running = [] if static else [e for e in engines if e.runs]
    if running:
        verdict = "fits" if any(e.fallback_nodes == 0 for e in running) else "fallback"
    return CheckReport(
        model=path.name,
        sha256=graph.sha256,
        target=target.name,
        opset=graph.opset,
        inputs=graph.inputs,
        outputs=graph.outputs,
        rewrites=tuple(r for r in remarks if r.outcome != "unchanged"),
        engines=tuple(engines),
        max_fallback=max_fallback,
        verdict=verdict,
        **facts,
    )


def _judge(report: CheckReport) -> None:
    if report.verdict == "refused":
        raise CheckGateError(report.describe(), report)
    limit = report.max_fallback
    if limit is not None and report.best.fallback_nodes > limit:
        names = [node.name for node in report.best.nodes if node.fallback]
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise CheckGateError(
            f"{len(names)} nodes do not run on the {report.best.device} of {report.target} "
            f"({shown}), at most {limit} may; change them or allow more",
            report,
        )


def _ask(path: Path, folder: Path, operation: str, /, **arguments: Any) -> Any:
    try:
        return ask(
            folder,
            operation,
            threads=1,
            timeout_s=_TIMEOUT_S,
            memory_bytes=memory_limit(),
            **arguments,
        )
    except WorkerFailure as failure:
        raise ModelError(
            f"{path.name}: {failure}; the file may be damaged, export it again"
        ) from failure


def _json(target: Target) -> dict[str, Any]:
    return target.model_dump(mode="json")
