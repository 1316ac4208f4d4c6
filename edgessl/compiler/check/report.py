"""What `check_model` finds: nodes, engines, and whether the model fits the target."""

from __future__ import annotations

from typing import Literal

from edgessl.bundle.manifest import TensorSpec
from edgessl.compiler.rewrites import RewriteRemark
from edgessl.config import Options
from edgessl.errors import GateError

__all__ = ["CheckGateError", "CheckReport", "EngineReport", "NodeReport"]


class NodeReport(Options):
    """One node as one engine sees it.

    Attributes:
        name: Its ONNX name; ``Conv#7`` for the eighth node of a graph, if it has none.
        op_type: Operator; with its domain where that is not ai.onnx.
        placed_on: ``"CPU"``, ``"GPU"``, ``"NPU"``, ``"DLA"``; empty if nothing runs it.
        precisions: What it can compute in there.
        fallback: True if it does not run on the unit that the target is about.
        problem: Why, and whatever else is wrong with it; else empty.
    """

    name: str
    op_type: str
    placed_on: str
    precisions: tuple[str, ...] = ()
    fallback: bool = False
    problem: str = ""


class EngineReport(Options):
    """One engine of the target.

    Attributes:
        engine: Its name.
        device: The unit that the target is about.
        runs: False if the model cannot be compiled for it as it is.
        asked: True if the engine itself answered; else a table did.
        evidence: Who answered, with version or source and date.
        nodes: In the order of the graph.
        partitions: Connected parts of the graph, each of which one unit runs.
        problems: What keeps the graph as a whole from being compiled.
        remarks: What does not, and is worth knowing.
    """

    engine: str
    device: str
    runs: bool
    asked: bool
    evidence: str
    nodes: tuple[NodeReport, ...] = ()
    partitions: int = 0
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def fallback_nodes(self) -> int:
        """Nodes that do not run on the unit that the target is about."""
        return sum(node.fallback for node in self.nodes)


class CheckReport(Options):
    """What stands between a model and a target.

    Attributes:
        model: The file.
        sha256: Its hash.
        target: Name of the target.
        opset: Version of the ai.onnx operators, before any rewrite.
        inputs: What the model takes, its batch and shapes fixed as asked.
        outputs: What it gives.
        node_count: Nodes that were placed.
        weights_bytes: Size of all initializers.
        activations_bytes: Most that the tensors between the nodes take at once; None where shapes
            are not fixed.
        rewrites: What the compiler changes before any engine sees the graph.
        engines: One report each, in the target's order.
        problems: What is wrong whichever engine runs it.
        max_fallback: Most fallback nodes that were allowed; None if there was no limit.
        verdict: ``"fits"``: an engine runs all of it; ``"fallback"``: one runs it, but not all on
            the target's unit; ``"refused"``: none can.
    """

    model: str
    sha256: str
    target: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    node_count: int
    weights_bytes: int
    activations_bytes: int | None
    rewrites: tuple[RewriteRemark, ...] = ()
    engines: tuple[EngineReport, ...]
    problems: tuple[str, ...] = ()
    max_fallback: int | None = None
    verdict: Literal["fits", "fallback", "refused"]

    @property
    def best(self) -> EngineReport:
        """The engine with the fewest fallback nodes among those that run the model."""
        return min(self.engines, key=lambda e: (not e.runs, e.fallback_nodes))

    def describe(self) -> str:
        """The verdict in one line."""
        best, n = self.best, self.node_count
        if self.verdict == "refused":
            reasons = [*best.problems, *self.problems]
            refused = [x for x in best.nodes if x.fallback]
            if refused and not best.problems:
                first = refused[0]
                reasons.insert(
                    0,
                    f"{len(refused)} of {n} nodes do not run on the {best.device} ({best.engine}), "
                    f"the first is {first.name} ({first.op_type}): {first.problem}",
                )
            why = "; ".join(reasons[:2]) or "no engine takes it"
            return f"{self.target} cannot run this model: {why}"
        if self.verdict == "fits":
            return f"{self.target}: all {n} nodes run on the {best.device} ({best.engine})"
        elsewhere = best.fallback_nodes
        return (
            f"{self.target}: {n - elsewhere} of {n} nodes run on the {best.device} "
            f"({best.engine}), {elsewhere} do not; {best.partitions} partitions"
        )


class CheckGateError(GateError):
    """The target cannot run the model, or too much of it runs elsewhere; carries the report."""

    def __init__(self, message: str, report: CheckReport) -> None:
        super().__init__(message)
        self.report = report
