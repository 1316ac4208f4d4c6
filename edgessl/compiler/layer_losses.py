"""What `edgessl.compiler.layer_report.sensitivity_report` tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgessl.compiler.sensitivity import Loss
from edgessl.config import Options

__all__ = [
    "LayerLosses",
    "LayerSensitivity",
    "LeftFloat",
    "SensitivityReport",
    "in_order",
    "loss_of",
]


class LayerSensitivity(Options):
    """One layer.

    Attributes:
        node: ONNX name of the node, as ``keep_float`` takes it.
        operator: ``"Conv"``.
        alone: What is lost with only this layer in integers.
        left_without: What is lost with all layers in integers but this one.
    """

    node: str
    operator: str
    alone: Loss
    left_without: Loss


class LeftFloat(Options):
    """A node that the target's quantizer leaves in floating point.

    Attributes:
        node: ONNX name.
        operator: ``"LayerNormalization"``.
    """

    node: str
    operator: str


class LayerLosses(Options):
    """What an interrupted run found."""

    count: int
    losses: tuple[Loss, ...]


class SensitivityReport(Options):
    """What each layer's integers take from the outputs.

    Attributes:
        model: Name of the file.
        model_sha256: Its hash.
        data_sha256: Hash of the held-out samples, as the model takes them.
        calibration_sha256: Hash of the samples that set the ranges.
        target: Name of the target.
        engine: Engine of the candidate whose integers are tried.
        precision: ``"int8"`` or ``"a16w8"``.
        scheme: Its quantization scheme.
        method: How activation ranges were chosen.
        encoder: True if the direction of the output counts (cosines), False if its values do
            (`Loss.sqnr_db`).
        seed: Drew the samples.
        samples: Held-out samples N that the losses are means of.
        calibration_samples: Samples that set the ranges.
        cpu: Processor that it was computed on.
        versions: Package → version.
        all_quantized: What is lost with all layers in integers.
        layers: The layers, the most harmful alone first.
        left_float: Nodes that compute without integers in any case.
    """

    schema_version: Literal[1] = 1
    model: str
    model_sha256: str
    data_sha256: str
    calibration_sha256: str
    target: str
    engine: str
    precision: str
    scheme: str
    method: str
    encoder: bool
    seed: int
    samples: int
    calibration_samples: int
    cpu: str
    versions: dict[str, str]
    all_quantized: Loss
    layers: tuple[LayerSensitivity, ...]
    left_float: tuple[LeftFloat, ...]

    def removed(self, layer: LayerSensitivity) -> float:
        """Loss that goes if this layer stays in float and all others do not; see `loss_of`."""
        whole, left = self.all_quantized, layer.left_without
        return loss_of(whole, encoder=self.encoder) - loss_of(left, encoder=self.encoder)


def loss_of(loss: Loss, *, encoder: bool) -> float:
    """The loss that layers are ranked by: 1 - cosine, or noise over power of the outputs."""
    return loss.cosine_loss if encoder else loss.noise


def in_order(layers: Sequence[LayerSensitivity], *, encoder: bool) -> tuple[LayerSensitivity, ...]:
    """The most harmful first; of equals the one that comes first in the graph."""
    return tuple(sorted(layers, key=lambda layer: -loss_of(layer.alone, encoder=encoder)))
