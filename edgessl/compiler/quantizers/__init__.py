"""Toolkits that turn a float graph into an integer one: one module each, found by scheme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.ranges import Method
from edgessl.compiler.samples import Samples
from edgessl.registry import Registry

__all__ = ["QUANTIZERS", "QuantizationJob", "Quantizer"]


@dataclass(frozen=True)
class QuantizationJob:
    """What a quantizer gets.

    Attributes:
        graph: The float graph; ``graph.path`` is its ``.onnx``.
        samples: Calibration inputs.
        folder: Where the integer graph goes.
        scheme: Name under which the quantizer was found (``"u8s8"``, ``"nncf"``).
        precision: ``"int8"``, ``"a16w8"``, ``"w8"`` or ``"w4"``.
        remainder: Precision of what stays in floating point; None is float32.
        per_channel: One weight scale per output channel instead of one per tensor.
        reduce_range: Weights keep to 7 bits, for CPUs whose 8-bit products saturate.
        method: How activation ranges are chosen: ``"minmax"``, ``"percentile"``, ``"mse"`` or
            ``"entropy"``.
        keep_float: Names of nodes that stay in floating point.
        engine: Engine that will run the result.
        rough: True if only the placement of integers matters, not their values: a quantizer may
            then leave out what only makes the values better.
    """

    graph: GraphInfo
    samples: Samples
    folder: Path
    scheme: str
    precision: str
    remainder: str | None
    per_channel: bool
    reduce_range: bool
    method: Method
    keep_float: tuple[str, ...]
    engine: str = "onnxruntime"
    rough: bool = False


class Quantizer(Protocol):
    """What a module in this package provides."""

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """Quantize after training, from calibration samples.

        Returns:
            The integer graph, ``.onnx`` or OpenVINO's ``.xml``; and package → version of what
            took part.

        Raises:
            UnavailableError: The toolkit is not installed.
        """
        ...


QUANTIZERS: Registry[Quantizer] = Registry(
    "quantization scheme",
    {
        "nncf": "edgessl.compiler.quantizers.nncf:Nncf",
        "qnn": "edgessl.compiler.quantizers.qnn:Qnn",
        "s8s8": "edgessl.compiler.quantizers.onnxruntime:OnnxRuntimeQdq",
        "tensorrt": "edgessl.compiler.quantizers.tensorrt:TensorRT",
        "tensorrt-dla": "edgessl.compiler.quantizers.tensorrt:TensorRT",
        "u8s8": "edgessl.compiler.quantizers.onnxruntime:OnnxRuntimeQdq",
        "weight-only": "edgessl.compiler.quantizers.weight_only:WeightOnly",
    },
    group="edgessl.quantizers",
)
