"""Engines that a graph can be built for: one module each."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.samples import Samples
from edgessl.config import Options
from edgessl.errors import TargetError
from edgessl.registry import Registry
from edgessl.targets import CandidateSpec

__all__ = ["BACKENDS", "Backend", "BuildRequest", "Built"]


class BuildRequest(Options):
    """What a backend gets.

    Attributes:
        graph: The checked float graph.
        candidate: Engine, precision and scheme to build.
        calibration: Folder of the calibration `Samples`.
        folder: An empty folder for the results.
        threads: Threads that the engine will run with; 0 is all physical cores.
        per_channel: Weight scales per output channel, from the target.
        reduce_range: Weights keep to 7 bits, for CPUs whose 8-bit products saturate.
        seed: Seed for whatever draws at random.
    """

    graph: GraphInfo
    candidate: CandidateSpec
    calibration: str
    folder: str
    threads: int
    per_channel: bool
    reduce_range: bool
    seed: int

    def quantize(self) -> tuple[Path, dict[str, str]]:
        """Run the quantizer of the candidate's scheme: the integer graph, and package versions."""
        if self.candidate.scheme is None:
            raise TargetError(f"{self.candidate.name}: has no quantization scheme; name one")
        job = QuantizationJob(
            graph=self.graph,
            samples=Samples(Path(self.calibration)),
            folder=Path(self.folder),
            scheme=self.candidate.scheme,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
        )
        return QUANTIZERS.get(self.candidate.scheme).quantize(job)


class Built(Options):
    """What a backend gives: files in the request's folder.

    Attributes:
        model: Name of the file that the engine opens.
        files: Names of all files that go into the bundle, ``model`` among them.
        options: Engine options, as `edgessl.runtime.open_session` takes them.
        toolchain: Package → version of what took part.
    """

    model: str
    files: tuple[str, ...]
    options: dict[str, OptionValue]
    toolchain: dict[str, str]


class Backend(Protocol):
    """What a module in this package provides. It runs in a process of its own.

    The same request must give the same bytes: no time stamps, no paths, no host names.
    """

    @staticmethod
    def build(request: BuildRequest) -> Built:
        """Build one candidate.

        Raises:
            TargetError: The engine does not know the precision or the scheme.
            UnavailableError: A package is not installed.
        """
        ...


BACKENDS: Registry[Backend] = Registry(
    "backend",
    {
        "onnxruntime": "edgessl.compiler.backends.onnxruntime:OnnxRuntimeBackend",
        "openvino": "edgessl.compiler.backends.openvino:OpenVINOBackend",
    },
    group="edgessl.backends",
)
