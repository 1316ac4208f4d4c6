"""TensorRT engines on an NVIDIA GPU, or on the deep-learning accelerator of a Jetson."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgessl.bundle.manifest import OptionValue
from edgessl.config import Options, build_options
from edgessl.errors import ModelError
from edgessl.runtime.profiling import OperatorTime
from edgessl.runtime.session import Array
from edgessl.runtime.tensorrt.execution import TensorRTSession
from edgessl.runtime.tensorrt.versions import load_tensorrt

__all__ = ["TensorRT", "TensorRTOptions"]


class TensorRTOptions(Options):
    """How an engine is run.

    Attributes:
        threads: Taken because every engine has it; the GPU has its own.
        device: Number of the GPU.
        dla_core: The accelerator that the engine was built for; None for the GPU alone.
    """

    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    device: Annotated[int, Field(ge=0)] = 0
    dla_core: Annotated[int, Field(ge=0, le=1)] | None = None


class TensorRT:
    """The engine, as `edgessl.runtime.session.Engine` describes it."""

    @staticmethod
    def version() -> str:
        """Version of TensorRT."""
        return str(load_tensorrt().__version__)

    @staticmethod
    def open(model: Path, options: Mapping[str, OptionValue]) -> TensorRTSession:
        """Load a serialized engine (``.plan``) with `TensorRTOptions`."""
        settings = build_options(TensorRTOptions, options, where="tensorrt options")
        if model.suffix == ".onnx":
            raise ModelError(
                f"{model.name}: TensorRT runs engines that were built on the device; "
                "build one there with: edgessl finalize"
            )
        return TensorRTSession(model, device=settings.device, dla_core=settings.dla_core)

    @staticmethod
    def profile(
        model: Path,
        options: Mapping[str, OptionValue],
        feeds: Sequence[Mapping[str, Array]],
        runs: int,
    ) -> list[list[OperatorTime]]:
        """Times of the engine's layers, per run; copies between host and device are no layers."""
        with TensorRT.open(model, options) as session:
            return session.profile(feeds, runs)
