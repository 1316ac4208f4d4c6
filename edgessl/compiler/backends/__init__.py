"""Engines that a graph can be built for: one module each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from edgessl.bundle.manifest import OptionValue, Requirements, StandIn
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.once import quantize_once
from edgessl.compiler.ranges import Method
from edgessl.compiler.samples import Samples
from edgessl.config import Options
from edgessl.errors import TargetError
from edgessl.optional import require
from edgessl.registry import Registry
from edgessl.targets import CandidateSpec, Target

__all__ = ["BACKENDS", "Backend", "BuildRequest", "Built"]


class BuildRequest(Options):
    """What a backend gets.

    Attributes:
        graph: The checked float graph.
        candidate: Engine, precision and scheme to build.
        target: The device.
        here: True if this machine is such a device, so that its engine can be asked.
        calibration: Folder of the calibration `Samples`.
        folder: An empty folder for the results.
        threads: Threads that the engine will run with; 0 is all physical cores.
        reduce_range: Weights keep to 7 bits, for CPUs whose 8-bit products saturate.
        method: How activation ranges are chosen: ``"minmax"``, ``"percentile"``, ``"mse"`` or
            ``"entropy"``.
        keep_float: Names of nodes that stay in floating point.
        settings: What the user says about toolchains, by name (``"npu_compiler"`` → a path).
        seed: Seed for whatever draws at random.
    """

    graph: GraphInfo
    candidate: CandidateSpec
    target: Target
    here: bool
    calibration: str
    folder: str
    threads: int
    reduce_range: bool
    method: Method = "minmax"
    keep_float: tuple[str, ...] = ()
    settings: dict[str, str] = Field(default_factory=dict)
    seed: int = 0

    @property
    def options(self) -> dict[str, OptionValue]:
        """Engine options that the target asks for."""
        return self.target.engine_options.get(self.candidate.engine, {})

    def quantize(self) -> tuple[Path, dict[str, str]]:
        """The integer graph, and package versions: by the quantizer of the candidate's scheme.

        A graph that holds its integers already stays as it is.
        """
        if self.graph.integers is not None:
            return Path(self.graph.path), {
                "onnx": str(require("onnx", extra="compile").__version__)
            }
        return quantize_once(self.job())

    def job(self) -> QuantizationJob:
        """What the quantizer of the candidate's scheme gets."""
        if self.candidate.scheme is None:
            raise TargetError(f"{self.candidate.name}: has no quantization scheme; name one")
        return QuantizationJob(
            graph=self.graph,
            samples=Samples(Path(self.calibration)),
            folder=Path(self.folder),
            scheme=self.candidate.scheme,
            precision=self.candidate.precision,
            remainder=self.candidate.remainder,
            per_channel=self.target.quantization.per_channel,
            reduce_range=self.reduce_range,
            method=self.method,
            keep_float=self.keep_float,
            engine=self.candidate.engine,
        )


class Built(Options):
    """What a backend gives: files in the request's folder.

    Attributes:
        model: Name of the file that the engine opens.
        files: Names of all files that go into the bundle, ``model`` among them.
        options: Engine options, as `edgessl.runtime.open_session` takes them.
        toolchain: Package → version of what took part.
        kind: ``"portable"`` if `finalize` must finish it on the device.
        version: Version of the engine that it is for; empty to ask the one that is here.
        stand_ins: How a machine that is not the device computes the same, best first; the file
            names are among ``files``. Fidelity is measured with the first where the device is not
            at hand. None are needed where the engine runs anywhere as it is.
        requirements: What the machine must be to run it.
    """

    model: str
    files: tuple[str, ...]
    options: dict[str, OptionValue]
    toolchain: dict[str, str]
    kind: Literal["native", "portable"] = "native"
    version: str = ""
    stand_ins: tuple[StandIn, ...] = ()
    requirements: Requirements = Requirements()


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
        "qnn": "edgessl.compiler.backends.qnn:QnnBackend",
        "tensorrt": "edgessl.compiler.backends.tensorrt:TensorRTBackend",
    },
    group="edgessl.backends",
)
