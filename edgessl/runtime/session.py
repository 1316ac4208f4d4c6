"""One interface over the engines: open a model file, feed arrays, get arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.closing import Closing
from edgessl.errors import DataError
from edgessl.registry import Registry

__all__ = ["ENGINES", "Array", "Engine", "Session", "open_session"]

Array = NDArray[Any]


class Session(Closing):
    """An opened model. `run` checks the feeds, the engine's `run_impl` computes.

    A session whose engine times transfers and computation apart has a method
    ``phases(feeds) -> edgessl.runtime.profiling.Phases`` too.

    Attributes:
        inputs: What the graph takes.
        outputs: What it gives, in the graph's order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feeds: One array per input name, of the input's dtype and shape.

        Returns:
            One array per output name.

        Raises:
            DataError: A missing or unknown input, a wrong dtype or a wrong shape.
        """
        self.check(feeds)
        return self.run_impl(feeds)

    def check(self, feeds: Mapping[str, Array]) -> None:
        """Compare feeds with the graph's inputs.

        Raises:
            DataError: As `run`.
        """
        expected = {spec.name for spec in self.inputs}
        if expected != set(feeds):
            raise DataError(
                f"the model takes {sorted(expected)}, found {sorted(feeds)}; name them alike"
            )
        for spec in self.inputs:
            check_array(feeds[spec.name], spec)

    @abstractmethod
    def run_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute; the feeds are checked."""

    @abstractmethod
    def close(self) -> None:
        """Give the engine's memory back."""


class Engine(Protocol):
    """What a module in ``edgessl/runtime/engines/`` provides."""

    @staticmethod
    def version() -> str:
        """Version of the engine installed here.

        Raises:
            UnavailableError: It is not installed.
        """
        ...

    @staticmethod
    def open(model: Path, options: Mapping[str, OptionValue]) -> Session:
        """Load a model file and prepare it.

        Raises:
            UnavailableError: The engine or the device is not here.
            ModelError: The engine refuses the file.
            UsageError: An option that the engine does not know.
        """
        ...


ENGINES: Registry[Engine] = Registry(
    "engine",
    {
        "onnxruntime": "edgessl.runtime.engines.onnxruntime:OnnxRuntime",
        "openvino": "edgessl.runtime.engines.openvino:OpenVINO",
        "qnn": "edgessl.runtime.engines.qnn:Qnn",
        "tensorrt": "edgessl.runtime.engines.tensorrt:TensorRT",
    },
    group="edgessl.engines",
)


def open_session(
    engine: str, model: Path, options: Mapping[str, OptionValue] | None = None
) -> Session:
    """Open a model file with a named engine.

    Args:
        engine: Name in the registry.
        model: The file: ``.onnx`` for onnxruntime, ``.xml`` (with its ``.bin``) or ``.onnx`` for
            openvino.
        options: Engine options; every engine knows ``threads`` (int, 0 = all physical cores).
    """
    return ENGINES.get(engine).open(Path(model), options or {})


def check_array(array: Array, spec: TensorSpec) -> None:
    """Compare an array with an input's dtype and shape; symbolic dimensions take any size."""
    fits = array.ndim == len(spec.shape) and all(
        isinstance(want, str) or want == have
        for want, have in zip(spec.shape, array.shape, strict=False)
    )
    if array.dtype != np.dtype(spec.dtype) or not fits:
        want = "x".join(str(d) for d in spec.shape)
        have = "x".join(str(d) for d in array.shape)
        raise DataError(
            f"input '{spec.name}' takes {spec.dtype} [{want}], found {array.dtype} [{have}]; "
            "convert the array"
        )
