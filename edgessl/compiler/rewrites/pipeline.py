"""Apply rewrites one after the other, and keep each only if the outputs stay the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.process import Worker, WorkerFailure
from edgessl.compiler.rewrites import SEQUENCE, RewriteRemark, load_rewrite
from edgessl.compiler.rewrites.parity import (
    TOLERANCE,
    largest_difference,
    run_original,
    runtime_errors,
)
from edgessl.compiler.rewrites.topology import infer_shapes, name_nodes, opset_of
from edgessl.compiler.samples import Samples
from edgessl.compiler.stored_integers import fingerprint_integers
from edgessl.optional import require

__all__ = ["apply_rewrite", "rewrite_graph", "rewrite_in_workers"]

Step = Callable[[str, GraphInfo, Path], tuple[GraphInfo, RewriteRemark]]


def rewrite_graph(
    graph: GraphInfo, folder: Path, samples: Samples, *, names: Sequence[str] = SEQUENCE
) -> tuple[GraphInfo, tuple[RewriteRemark, ...]]:
    """Apply all rewrites in this process; a pass that crashes takes it along.

    Args:
        graph: The prepared graph.
        folder: Where the rewritten files go.
        samples: Real inputs for the parity check.
        names: What to apply, in order.

    Returns:
        The last good graph, and what became of each rewrite.
    """
    original = Path(graph.path)

    def step(name: str, current: GraphInfo, out: Path) -> tuple[GraphInfo, RewriteRemark]:
        return apply_rewrite(name, current, original, out, samples.folder)

    return _sequence(graph, folder, names, step)


def rewrite_in_workers(
    graph: GraphInfo,
    folder: Path,
    samples: Samples,
    *,
    names: Sequence[str] = SEQUENCE,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
) -> tuple[GraphInfo, tuple[RewriteRemark, ...]]:
    """The same in a compile worker; a crash costs the rewrite that caused it, and no other.

    Args:
        graph: The prepared graph.
        folder: Existing work folder: the files go there, and the worker's log.
        samples: Real inputs for the parity check.
        names: What to apply, in order.
        timeout_s: Longest time that one rewrite may take.
        memory_bytes: Most memory that it may use.
    """
    limits: dict[str, Any] = {"timeout_s": timeout_s, "memory_bytes": memory_bytes}
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []

        def step(name: str, current: GraphInfo, out: Path) -> tuple[GraphInfo, RewriteRemark]:
            if not workers:
                workers.append(stack.enter_context(Worker(folder, threads=1, **limits)))
            try:
                answer = workers[0].request(
                    "rewrite",
                    name=name,
                    graph=current.model_dump(mode="json"),
                    original=graph.path,
                    out=str(out),
                    samples=str(samples.folder),
                )
            except WorkerFailure as failure:
                workers.pop().close()
                out.unlink(missing_ok=True)
                remark = RewriteRemark(
                    name=name,
                    outcome="crashed",
                    nodes_before=0,
                    nodes_after=0,
                    reason=failure.summary,
                )
                return current, remark
            return (
                GraphInfo.model_validate(answer["graph"]),
                RewriteRemark.model_validate(answer["remark"]),
            )

        return _sequence(graph, folder, names, step)


def apply_rewrite(
    name: str, graph: GraphInfo, original: Path, out: Path, samples: Path
) -> tuple[GraphInfo, RewriteRemark]:
    """Apply one rewrite and check it.

    Args:
        name: Key of `edgessl.compiler.rewrites.REWRITES`.
        graph: What to rewrite.
        original: The graph whose outputs are right.
        out: Where the result goes; not written if it is not kept.
        samples: Folder of real inputs.
    """
    onnx = require("onnx", extra="compile")
    model = onnx.load(graph.path)
    interface = _interface(model)
    before, integers = len(model.graph.node), fingerprint_integers(model)

    def remark(outcome: Any, after: int = before, reason: str = "") -> RewriteRemark:
        return RewriteRemark(
            name=name, outcome=outcome, nodes_before=before, nodes_after=after, reason=reason
        )

    try:
        changed = load_rewrite(name)(model)
        if changed is None:
            return graph, remark("unchanged")
        if _interface(changed) != interface:
            return graph, remark("failed", reason="it renames inputs or outputs")
        if fingerprint_integers(changed) != integers:
            return graph, remark("failed", reason="it changes integers of the model")
        changed = infer_shapes(changed)
        name_nodes(changed)
        onnx.checker.check_model(changed)
        onnx.save(changed, out)
        try:
            run_original(original, samples)
        except runtime_errors() as error:
            out.unlink()
            reason = f"the original does not run on the samples: {_line(error)}"
            return graph, remark("unverified", reason=reason)
        worst = largest_difference(original, out, samples)
    except Exception as error:  # any failure of a pass means: keep what is known good
        out.unlink(missing_ok=True)
        return graph, remark("failed", reason=_line(error))
    if not worst <= TOLERANCE:
        out.unlink()
        return graph, remark("broke", reason=f"outputs differ by {worst:.2g}")
    kept = graph.model_copy(update={"path": str(out), "opset": opset_of(changed)})
    return kept, remark("applied", len(changed.graph.node))


def _sequence(
    graph: GraphInfo, folder: Path, names: Sequence[str], step: Step
) -> tuple[GraphInfo, tuple[RewriteRemark, ...]]:
    remarks: list[RewriteRemark] = []
    current = graph
    for index, name in enumerate(names):
        result, remark = step(name, current, folder / f"rewrite-{index:02}.onnx")
        if remark.outcome == "crashed" and remarks:
            nodes = remarks[-1].nodes_after
            remark = remark.model_copy(update={"nodes_before": nodes, "nodes_after": nodes})
        remarks.append(remark)
        if result.path != current.path and current.path != graph.path:
            Path(current.path).unlink()
        current = result
        if remark.outcome == "unverified":
            break
    return current, tuple(remarks)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _interface(model: Any) -> tuple[list[str], list[str]]:
    return [v.name for v in model.graph.input], [v.name for v in model.graph.output]
