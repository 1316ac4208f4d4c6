"""What the compiler knows about a prepared graph; passes between processes as JSON."""

from __future__ import annotations

from pydantic import Field

from edgessl.bundle.manifest import TensorSpec, Workload
from edgessl.config import Options
from edgessl.preprocessing import MediaInput

__all__ = ["GraphInfo", "StoredIntegers"]


class StoredIntegers(Options):
    """What a graph that is quantized already computes with.

    Attributes:
        scheme: ``"u8s8"``, ``"s8s8"``, ``"tensorrt"``, ``"tensorrt-dla"`` or ``"qnn"``.
        precision: ``"int8"`` or ``"a16w8"``.
        target: Target whose rules it follows; None if the file does not say.
        seven_bits: True if no signed weight needs the eighth bit.
    """

    scheme: str
    precision: str
    target: str | None
    seven_bits: bool


class GraphInfo(Options):
    """A checked ONNX graph with a fixed batch.

    Attributes:
        path: The prepared ``.onnx``.
        sha256: Hash of the user's file.
        opset: Version of the ai.onnx operators.
        inputs: What it takes; dimensions other than the batch may stay symbolic.
        outputs: What it gives.
        batched_inputs: Inputs whose first dimension is the batch; of any other input (a state, a
            sample rate) a sample holds the whole tensor.
        batch_size: Samples per engine call.
        attention: True if the graph has attention, which quantizers treat differently.
        preprocessing: What the model takes, if the file or the caller says so.
        embedding_dim: D of the ``(N, D)`` output; None for models that are not encoders.
        lineage: Stage → hash of what the model was made from.
        constants: Value that fills an input of which the calibration holds no array.
        workload: What one run of the prepared graph computes; None where that cannot be counted.
        integers: What it computes with, if it is quantized already; None for a float model.
    """

    path: str
    sha256: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched_inputs: tuple[str, ...]
    batch_size: int
    attention: bool
    preprocessing: MediaInput | None
    embedding_dim: int | None
    lineage: dict[str, str]
    constants: dict[str, int | float] = Field(default_factory=dict)
    workload: Workload | None = None
    integers: StoredIntegers | None = None

    def sample_shape(self, spec: TensorSpec) -> tuple[int | str, ...]:
        """Shape of one sample of an input: without the batch, where it has one."""
        return spec.shape[1:] if spec.name in self.batched_inputs else spec.shape
