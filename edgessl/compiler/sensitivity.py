"""Which layers suffer most from integers, without labels.

Each layer is quantized alone, and kept alone in floating point while all others are quantized;
what that does to the model's outputs says what the layer costs by itself and beside the others.
All is tried in one session of a `SwitchedGraph`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.backends import BuildRequest
from edgessl.compiler.fidelity import mean_cosines
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.samples import Samples
from edgessl.compiler.switches import SwitchedGraph
from edgessl.config import Options
from edgessl.errors import TargetError

__all__ = [
    "LayerError",
    "LayerTrials",
    "Loss",
    "compare_layers",
    "open_trials",
    "rank_layers",
    "ranked_scheme",
]

# NNCF writes no ONNX file; the layers that suffer are nearly the same with our own integers.
_PROXIES = {"nncf": "u8s8"}
_SAMPLES = 4
# In place of infinity, which JSON has not.
_RUINED = 1e30
# As the fidelity gate does: wider outputs are thinned out evenly.
_MAX_COLUMNS = 65_536

Rows = NDArray[np.float32]


class Loss(Options):
    """What some layers' integers take from the outputs; of several outputs the worst.

    Attributes:
        noise: Noise over power of the outputs, the mean over samples and outputs. It adds up over
            layers, nearly. 0.01 is 20 dB.
        cosine_loss: 1 - mean cosine to the float outputs.
        centred_cosine_loss: The same after subtracting the mean of the float outputs.
        sqnr_db: Signal-to-quantization-noise ratio; None without any noise.
        finite: False if NaN or infinite values came out; the losses are then 1.
    """

    noise: float
    cosine_loss: float
    centred_cosine_loss: float
    sqnr_db: float | None
    finite: bool = True


class LayerError(Options):
    """One layer and what its integers do.

    Attributes:
        node: ONNX name, as ``keep_float`` takes it.
        error: Noise that quantizing this layer alone brings to the outputs, divided by their
            power; the mean over the outputs. 0.01 is 20 dB.
    """

    node: str
    error: float


class LayerTrials:
    """Samples, and a graph whose layers are tried with them.

    Args:
        graph: The graph.
        samples: Inputs.
        count: How many of them to run, evenly spaced.
    """

    def __init__(self, graph: SwitchedGraph, samples: Samples, *, count: int) -> None:
        self.graph = graph
        self._samples = samples
        calls = -(-min(count, samples.count) // samples.batch_size)
        spaced = np.linspace(0, samples.calls - 1, min(calls, samples.calls))
        self._calls = [int(call) for call in np.unique(spaced.round().astype(int))]
        self._float = self._outputs(())

    @property
    def count(self) -> int:
        """Samples that are run."""
        return len(self._float[0]) if self._float else 0

    def loss(self, on: Collection[int]) -> Loss:
        """What the integers of these layers (indices into the graph's) do together."""
        have = self._outputs(on)
        if not all(np.isfinite(rows).all() for rows in have):
            return Loss(
                noise=_RUINED,
                cosine_loss=1.0,
                centred_cosine_loss=1.0,
                sqnr_db=None,
                finite=False,
            )
        pairs = list(zip(self._float, have, strict=True))
        ratios = [_ratio(want, rows) for want, rows in pairs]
        cosines = [mean_cosines(want, rows) for want, rows in pairs]
        decibels = [d for want, rows in pairs if (d := _decibels(want, rows)) is not None]
        return Loss(
            noise=float(np.mean(ratios)) if ratios else 0.0,
            cosine_loss=max((max(0.0, 1.0 - c) for c, _ in cosines), default=0.0),
            centred_cosine_loss=max((max(0.0, 1.0 - c) for _, c in cosines), default=0.0),
            sqnr_db=min(decibels, default=None),
        )

    def _outputs(self, on: Collection[int]) -> list[Rows]:
        """Each floating-point output: ``(samples, D)``."""
        rows: list[list[Rows]] = []
        batch = self._samples.batch_size
        for call in self._calls:
            values = self.graph.run(self._samples.feeds(call), on)
            kept = min(batch, self._samples.count - call * batch)
            found = [_rows(value, batch)[:kept] for value in values]
            rows = [[*old, new] for old, new in zip(rows or [[]] * len(found), found, strict=True)]
        return [np.concatenate(parts) for parts in rows]


def rank_layers(request: BuildRequest, *, samples: int = _SAMPLES) -> list[LayerError]:
    """Rank the layers of a candidate, the most harmful first.

    Args:
        request: What builds the candidate; its folder takes two graphs. Layers that it keeps in
            floating point already are not ranked.
        samples: Calibration samples to run, evenly spaced.

    Raises:
        TargetError: The candidate quantizes no activations.
        ModelError: The graph cannot be quantized.
    """
    return _ranked(open_trials(request, count=samples))


def open_trials(
    request: BuildRequest, *, count: int = _SAMPLES, samples: Samples | None = None
) -> LayerTrials:
    """Quantize as a candidate does, and open the graph in which its layers can be tried.

    Args:
        request: What builds the candidate; its folder takes two graphs.
        count: Samples to run, evenly spaced.
        samples: Of which samples; None takes those of the calibration.

    Raises:
        TargetError: The candidate quantizes no activations.
        ModelError: The graph cannot be quantized.
    """
    job = request.job()
    if job.scheme == "weight-only":
        raise TargetError("weight-only candidates have no layers to rank; choose int8 or a16w8")
    proxy = ranked_scheme(job.scheme)
    job = replace(job, scheme=proxy, rough=True)
    quantized, _ = QUANTIZERS.get(proxy).quantize(job)
    graph = SwitchedGraph(_float_graph(job), quantized, threads=request.threads)
    return LayerTrials(graph, samples or job.samples, count=count)


def ranked_scheme(scheme: str) -> str:
    """The scheme whose integers are ranked in place of a scheme's own."""
    return _PROXIES.get(scheme, scheme)


def compare_layers(
    float_graph: Path, quantized: Path, samples: Samples, *, count: int = _SAMPLES
) -> list[LayerError]:
    """Rank the layers of a QDQ graph against the float graph that it was made from.

    Args:
        float_graph: The ``.onnx`` before; its nodes have the same names.
        quantized: The ``.onnx`` after.
        samples: Inputs.
        count: How many of them to run, evenly spaced.
    """
    return _ranked(LayerTrials(SwitchedGraph(float_graph, quantized), samples, count=count))


def _ranked(trials: LayerTrials) -> list[LayerError]:
    names = [name for name, _ in trials.graph.layers]
    errors = [trials.loss({k}).noise for k in range(len(names))]
    # Stable: of equals the one that comes first in the graph comes first.
    order = sorted(range(len(names)), key=lambda k: -errors[k])
    return [LayerError(node=names[k], error=errors[k]) for k in order]


def _float_graph(job: QuantizationJob) -> Path:
    """What the quantizer started from; QNN's tools fuse further."""
    fused = job.folder / "fused.onnx"
    return fused if fused.is_file() else job.folder / "float.onnx"


def _rows(value: NDArray[Any], batch: int) -> Rows:
    """One row per sample; a call takes one sample where the output has no batch."""
    count = batch if value.ndim and value.shape[0] == batch else 1
    flat = value.reshape(count, -1)
    return flat[:, :: max(1, -(-flat.shape[1] // _MAX_COLUMNS))].astype(np.float32)


def _ratio(want: Rows, have: Rows) -> float:
    """Mean over samples of noise over power."""
    reference = want.astype(np.float64)
    power = np.sum(reference**2, axis=1)
    noise = np.sum((have.astype(np.float64) - reference) ** 2, axis=1)
    silent = np.where(noise == 0, 0.0, _RUINED)
    ratios = np.where(power > 0, noise / np.where(power > 0, power, 1.0), silent)
    return float(np.mean(ratios))


def _decibels(want: Rows, have: Rows) -> float | None:
    """10 log10(signal / noise) over all samples; None without noise."""
    reference = want.astype(np.float64)
    noise = float(np.sum((have.astype(np.float64) - reference) ** 2))
    if noise == 0.0:
        return None
    return 10.0 * math.log10(max(float(np.sum(reference**2)), 1e-12 * noise) / noise)
