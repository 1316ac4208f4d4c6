"""A QDQ graph as a PyTorch module that trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.distillation.integers.constants import on_host
from edgessl.distillation.integers.graph import read_graph
from edgessl.distillation.integers.operators import Node, Operator, build_operator
from edgessl.distillation.integers.quantized_graph import Quantize, QuantizedGraph
from edgessl.distillation.integers.ranges import ActivationRanges, RangeRule
from edgessl.distillation.integers.weights import (
    BiasGrid,
    WeightGrids,
    starting_bias,
    starting_weight,
)
from edgessl.distillation.integers.writing import Integers, write_graph

__all__ = ["IntegerBackbone"]


@dataclass(frozen=True)
class _Step:
    """A node, or a fake quantization, on numbered places for tensors.

    Attributes:
        name: Of the node; for messages.
        run: What computes it; None for a fake quantization.
        inputs: Places of its inputs; None for one that is left out.
        outputs: Places of its outputs.
        done: Places whose tensors nothing reads afterwards.
        range: Of a fake quantization.
        clip: Likewise.
    """

    name: str
    run: Operator | None
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    done: tuple[int, ...]
    range: int = -1
    clip: tuple[float, float] | None = None


# A step without what is done after it: name, operator, inputs, outputs, range, clip.
_Layout = tuple[
    str,
    Operator | None,
    tuple[int | None, ...],
    tuple[int, ...],
    int,
    tuple[float, float] | None,
]


class IntegerBackbone(nn.Module):
    """Replays a QDQ graph node by node with fake quantization, and trains it.

    Weights, biases and what stays in floating point are parameters, ranges are buffers (learned
    ones have a parameter each), so that ``state_dict()`` is the whole state. In training mode
    the ranges move and gradients go straight through the rounding; in evaluation mode nothing
    moves and the module computes what the written file computes.

    Use `from_graph`.

    Source: arXiv:1712.05877
    """

    def __init__(
        self, graph: QuantizedGraph, template: bytes, *, rule: RangeRule, decay: float
    ) -> None:
        super().__init__()
        self._template, self._integers = template, Integers.of(graph)
        self._in_float = False
        self.values = nn.ParameterDict()
        starts = [torch.from_numpy(starting_weight(weight)) for weight in graph.weights]
        self._weight_keys = [
            self._hold(w.source, s) for w, s in zip(graph.weights, starts, strict=True)
        ]
        self._bias_keys = [
            self._hold(b.source, torch.from_numpy(starting_bias(b))) for b in graph.biases
        ]
        self.ranges = ActivationRanges(
            graph.ranges, symmetric=graph.symmetric, rule=rule, decay=decay
        )
        self.weight_grids = WeightGrids(graph.weights, starts)
        with torch.no_grad():
            weight_scales, _ = self.weight_grids.flat(starts)
            self.bias_grid = BiasGrid(graph.biases, graph.weights, self.ranges.scale, weight_scales)
        self._lay_out(graph)

    @classmethod
    def from_graph(
        cls,
        float_model: Path,
        model: Path,
        *,
        ranges: RangeRule = "moving_average",
        decay: float = 0.99,
    ) -> IntegerBackbone:
        """Read a QDQ graph.

        Args:
            float_model: The float ``.onnx`` that the quantizer started from.
            model: The QDQ ``.onnx`` with an open batch dimension; its nodes have the same names.
            ranges: How the ranges of activations move in training.
            decay: Of moving averages; near 1 they move slowly.

        Raises:
            ModelError: The graph cannot be replayed; names the node.
        """
        graph = read_graph(float_model, model)
        return cls(graph, model.read_bytes(), rule=ranges, decay=decay)

    def _hold(self, name: str, value: Tensor) -> str:
        """Register a parameter under the name of its tensor; layers that share it get one."""
        key = name.replace(".", "/") or "unnamed"
        while key in self.values and not torch.equal(self.values[key], value):
            key += "'"
        if key not in self.values:
            # The layout in which convolutions of the CPU and of newer GPUs compute.
            layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
            self.values[key] = nn.Parameter(value.clone(memory_format=layout))
        return key

    def _lay_out(self, graph: QuantizedGraph) -> None:
        """Number the places of tensors, and note after which step each can be freed."""
        places: dict[str, int] = {}

        def place(name: str) -> int:
            return places.setdefault(name, len(places))

        self._input = place(graph.input)
        self._weight_places = [place(w.output) for w in graph.weights]
        self._bias_places = [place(b.output) for b in graph.biases]
        self._hosted: list[tuple[int, Tensor]] = []
        self._buffered: list[tuple[int, str, str]] = []
        self._float_keys: list[tuple[int, str]] = []
        self._float_names: list[tuple[str, str]] = []
        readers: dict[str, list[tuple[Node, int]]] = {}
        for step in graph.steps:
            if isinstance(step, Node):
                for index, name in enumerate(step.inputs):
                    readers.setdefault(graph.resolve(name), []).append((step, index))
        for number, constant in enumerate(graph.constants):
            value = torch.from_numpy(constant.value.copy())
            at = place(constant.name)
            if constant.trained:
                key = self._hold(constant.name, value)
                self._float_keys.append((at, key))
                self._float_names.append((constant.name, key))
            elif on_host(readers.get(constant.name, []), constant.value):
                self._hosted.append((at, value))
            else:
                names = f"_constant_{number}", f"_float_constant_{number}"
                self.register_buffer(names[0], value, persistent=False)
                floats = torch.from_numpy(constant.floats.copy())
                self.register_buffer(names[1], floats, persistent=False)
                self._buffered.append((at, *names))
        kept = set(places.values())
        steps: list[_Layout] = []
        for step in graph.steps:
            if isinstance(step, Quantize):
                inputs: tuple[int | None, ...] = (place(graph.resolve(step.input)),)
                steps.append(
                    (step.input, None, inputs, (place(step.output),), step.range, step.clip)
                )
                continue
            names_in = [graph.resolve(name) for name in step.inputs]
            inputs = tuple(place(name) if name else None for name in names_in)
            outputs = tuple(place(name) for name in step.outputs if name)
            steps.append((step.name, build_operator(step), inputs, outputs, -1, None))
        self._output = place(graph.resolve(graph.output))
        kept.add(self._output)
        self._steps = _with_releases(steps, kept)
        self._places = len(places)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings.

        Args:
            images: ``(N, ...)`` float32, in the form that the graph takes.

        Returns:
            ``(N, D)`` float32.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._replay(images.float())

    def _replay(self, images: Tensor) -> Tensor:
        held: list[Any] = [None] * self._places
        held[self._input] = images
        self._place_constants(held)
        grids = self.ranges.grids()
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        watches = self.ranges.watches and not self._in_float
        moving = self.ranges.moving() if watches else []
        for step in self._steps:
            if step.run is not None:
                result = step.run(*(None if k is None else held[k] for k in step.inputs))
                if isinstance(result, Tensor):
                    held[step.outputs[0]] = result
                else:
                    for where, value in zip(step.outputs, result, strict=True):
                        held[where] = value
            else:
                x = held[step.inputs[0] or 0]
                if self._in_float:
                    x = x if step.clip is None else x.clamp(*step.clip)
                else:
                    if watches and moving[step.range]:
                        _look(seen, step.range, x.detach())
                    x = grids.apply(x, step.range)
                held[step.outputs[0]] = x
            for where in step.done:
                held[where] = None
        if watches:
            self.ranges.move(seen)
        embedding: Tensor = held[self._output]
        return embedding.flatten(1) if embedding.dim() > 2 else embedding

    def _place_constants(self, held: list[Any]) -> None:
        weights = [self.values[key] for key in self._weight_keys]
        biases = [self.values[key] for key in self._bias_keys]
        if self._in_float:
            rounded_weights: list[Tensor] = weights
            rounded_biases: Any = biases
        else:
            scale, zero = self.weight_grids.flat(weights)
            grids = self.weight_grids.grids(scale, zero)
            rounded_weights = [g.on_grid(w) for g, w in zip(grids, weights, strict=True)]
            with torch.no_grad():
                scales = self.bias_grid.scales(self.ranges.scales().detach(), scale)
            rounded_biases = self.bias_grid.on_grid(biases, scales)
        for where, value in zip(self._weight_places, rounded_weights, strict=True):
            held[where] = value
        for where, value in zip(self._bias_places, rounded_biases, strict=True):
            held[where] = value
        for where, value in self._hosted:
            held[where] = value
        for where, exact, floats in self._buffered:
            held[where] = getattr(self, floats if self._in_float else exact)
        for where, key in self._float_keys:
            held[where] = self.values[key]

    def freeze_ranges(self) -> None:
        """Let the ranges of activations stay where they are from now on."""
        self.ranges.frozen.fill_(True)

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Within, the module computes with the same weights and no rounding at all."""
        before, self._in_float = self._in_float, True
        try:
            yield
        finally:
            self._in_float = before

    @torch.no_grad()
    def write(self, out: Path) -> None:
        """Write the QDQ graph with today's integers, scales and zero points.

        Args:
            out: Where the ``.onnx`` goes.

        Raises:
            OutputError: The file cannot be written.
        """
        values: dict[str, Tensor] = {}
        weights = [self.values[key] for key in self._weight_keys]
        scale, zero = self.weight_grids.flat(weights)
        grids = self.weight_grids.grids(scale, zero)
        range_scales = self.ranges.scales().detach()
        biases = [self.values[key] for key in self._bias_keys]
        bias_scales = self.bias_grid.scales(range_scales, scale)
        flat = torch.cat([*biases, bias_scales[:0]])
        integers = self.bias_grid.integers(flat, bias_scales)
        for name, key in self._float_names:
            values[name] = self.values[key]
        self._integers.collect_weights(values, weights, grids)
        self._integers.collect_biases(
            values, self.bias_grid.split(integers), self.bias_grid.split(bias_scales)
        )
        self._integers.collect_ranges(values, range_scales, self.ranges.zero_point)
        write_graph(self._template, values, out)


def _look(seen: dict[int, tuple[Tensor, Tensor]], number: int, x: Tensor) -> None:
    """Note the least and greatest value; ``aminmax`` takes ten times as long as these two."""
    low, high = x.amin(), x.amax()
    if number in seen:
        low, high = torch.minimum(seen[number][0], low), torch.maximum(seen[number][1], high)
    seen[number] = (low, high)


def _with_releases(steps: list[_Layout], kept: set[int]) -> list[_Step]:
    last: dict[int, int] = {}
    for number, (_, _, inputs, outputs, _, _) in enumerate(steps):
        for where in (*inputs, *outputs):
            if where is not None and where not in kept:
                last[where] = number
    done: dict[int, list[int]] = {}
    for where, number in last.items():
        done.setdefault(number, []).append(where)
    return [
        _Step(name, run, inputs, outputs, tuple(done.get(number, ())), where, clip)
        for number, (name, run, inputs, outputs, where, clip) in enumerate(steps)
    ]
