"""What a checker gets, and the table of checkers."""

from __future__ import annotations

from typing import Protocol

from edgessl.compiler.check.report import EngineReport
from edgessl.compiler.graph_info import GraphInfo
from edgessl.config import Options
from edgessl.registry import Registry
from edgessl.targets import CandidateSpec, Target

__all__ = ["CHECKERS", "CheckRequest", "Checker"]


class CheckRequest(Options):
    """What a checker gets.

    Attributes:
        graph: The prepared graph; its nodes have names of their own.
        target: The device.
        engine: Name of the engine.
        samples: Folder of made-up inputs, for engines that quantize before they answer.
        folder: An empty folder.
    """

    graph: GraphInfo
    target: Target
    engine: str
    samples: str
    folder: str

    @property
    def candidates(self) -> tuple[CandidateSpec, ...]:
        """The target's candidates of this engine."""
        return tuple(c for c in self.target.candidates if c.engine == self.engine)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Their precisions, each once."""
        return tuple(dict.fromkeys(c.precision for c in self.candidates))


class Checker(Protocol):
    """What a module in this package provides. It runs in a process of its own."""

    @staticmethod
    def check(request: CheckRequest) -> EngineReport:
        """Place every node of the graph.

        Raises:
            UnavailableError: The engine is not installed.
        """
        ...


CHECKERS: Registry[Checker] = Registry(
    "check",
    {
        "onnxruntime": "edgessl.compiler.check.onnxruntime:OnnxRuntimeCheck",
        "openvino": "edgessl.compiler.check.openvino:OpenVINOCheck",
        "qnn": "edgessl.compiler.check.qnn:QnnCheck",
        "tensorrt": "edgessl.compiler.check.tensorrt:TensorRTCheck",
    },
    group="edgessl.checks",
)
