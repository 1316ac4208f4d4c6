"""What `compile_model` tells about its work."""

from __future__ import annotations

from typing import Literal

from edgessl.bundle.manifest import Candidate, Manifest
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.integer_candidates import LeftOut
from edgessl.compiler.rewrites import RewriteRemark
from edgessl.config import Options
from edgessl.errors import GateError

__all__ = ["CompileReport", "FidelityGateError"]


class CompileReport(Options):
    """The candidates with their measured times, and the bundle that came of it.

    Attributes:
        bundle: Path of the bundle; None if nothing passed.
        size_bytes: Its size.
        target: Name of the target.
        chosen: Name of the candidate in the bundle.
        measured: True if candidates were timed; False where this machine is no such device.
        rewrites: What became of each rewrite of the graph.
        calibration_samples: Samples that set integer ranges.
        held_out_samples: Samples that the gate judged by.
        gate: Least figures that pass.
        candidates: All candidates, in the target's order.
        left_out: Candidates of the target that a model that is quantized already does not suit.
        reference: What candidates are compared with: the float32 model, or the integers that a
            quantized model says, node by node.
        manifest: The bundle's manifest; its candidates have no measured times, so that the same
            inputs give the same bytes.
    """

    schema_version: Literal[1] = 1
    bundle: str | None
    size_bytes: int | None
    target: str
    chosen: str | None
    measured: bool
    rewrites: tuple[RewriteRemark, ...]
    calibration_samples: int
    held_out_samples: int
    gate: Gate
    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...] = ()
    reference: Literal["float32", "integers"] = "float32"
    manifest: Manifest | None


class FidelityGateError(GateError):
    """No candidate passes the gate; `report` has the table."""

    def __init__(self, message: str, report: CompileReport) -> None:
        super().__init__(message)
        self.report = report
