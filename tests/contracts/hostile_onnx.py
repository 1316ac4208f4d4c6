"""Small ONNX models, and seeded ways to damage them or to make them hostile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contracts.onnx_bombs import BOMBS
from contracts.onnx_damage import DAMAGE

__all__ = ["KINDS", "Mutant", "base_models", "mutant", "mutants"]

_TEXTS = {
    "mlp": """
        <ir_version: 9, opset_import: ["" : 18]>
        mlp (float[N, 8] x) => (float[N, 4] y) {
            h = MatMul(x, w1)
            a = Add(h, b1)
            r = Relu(a)
            z = MatMul(r, w2)
            y = Softmax<axis: int = -1>(z)
        }""",
    "shapes": """
        <ir_version: 9, opset_import: ["" : 18]>
        shapes (float[N, 4, 8] x) => (float[N, 32] y, float[N, 4, 8] z) {
            s = Shape(x)
            zero = Constant<value_ints: ints = [0]>()
            n = Gather<axis: int = 0>(s, zero)
            rest = Constant<value_ints: ints = [32]>()
            shape = Concat<axis: int = 0>(n, rest)
            y = Reshape(x, shape)
            ones = ConstantOfShape<value: tensor = float[1] {1.0}>(s)
            z = Add(x, ones)
        }""",
    "tokens": """
        <ir_version: 9, opset_import: ["" : 18]>
        tokens (int64[N, 6] ids) => (float[N, 4] y) {
            e = Gather<axis: int = 0>(table, ids)
            n = LayerNormalization<axis: int = -1>(e, scale)
            y = ReduceMean<keepdims: int = 0>(n, axes)
        }""",
    "branch": """
        <ir_version: 9, opset_import: ["" : 18]>
        branch (float[1, 4] x, float[1, 4] state) => (float[1, 4] y, float[1, 4] next) {
            total = ReduceSum<keepdims: int = 0>(x)
            limit = Constant<value_float: float = 0.0>()
            positive = Greater(total, limit)
            y = If(positive) <
                then_branch = yes () => (float[1, 4] a) { a = Add(x, state) },
                else_branch = no () => (float[1, 4] b) { b = Sub(x, state) }
            >
            next = Tanh(y)
        }""",
    "function": """
        <ir_version: 9, opset_import: ["" : 18, "local" : 1]>
        function (float[N, 4] x) => (float[N, 4] y) {
            h = local.twice(x)
            y = local.twice(h)
        }
        <domain: "local", opset_import: ["" : 18]>
        twice (v) => (w) { w = Add(v, v) }""",
}
_WEIGHTS = {
    "mlp": {"w1": (8, 16), "b1": (16,), "w2": (16, 4)},
    "tokens": {"table": (10, 4), "scale": (4,)},
}


@cache
def base_models() -> dict[str, bytes]:
    """Name → bytes of a valid model."""
    models = {name: _parsed(name) for name in _TEXTS}
    models["conv"] = _convolution()
    return {name: model.SerializeToString() for name, model in models.items()}


@dataclass(frozen=True)
class Mutant:
    """A damaged model.

    Attributes:
        kind: One of `KINDS`.
        base: Which model it was.
        data: The file's bytes.
        files: Files beside it by name: bytes, or the target of a symbolic link.
    """

    kind: str
    base: str
    data: bytes
    files: tuple[tuple[str, bytes | str], ...] = ()

    def write(self, folder: Path) -> Path:
        """Write ``model.onnx`` and what lies beside it."""
        for name, content in self.files:
            if isinstance(content, str):
                (folder / name).symlink_to(content)
            else:
                (folder / name).write_bytes(content)
        path = folder / "model.onnx"
        path.write_bytes(self.data)
        return path


def mutants(count: int, *, seed: int) -> Iterator[Mutant]:
    """``count`` mutants, all kinds in turn."""
    for index in range(count):
        yield mutant(KINDS[index % len(KINDS)], seed=seed * 1_000_003 + index)


def mutant(kind: str, *, seed: int) -> Mutant:
    """One mutant of a kind, of a base model that the seed picks."""
    rng = random.Random(f"{kind} {seed}")
    base = rng.choice(sorted(base_models()))
    data = base_models()[base]
    if kind in _BYTES:
        return Mutant(kind, base, _BYTES[kind](data, rng))
    model = onnx.ModelProto.FromString(data)
    beside = _STRUCTURE[kind](model, rng) or {}
    return Mutant(kind, base, model.SerializeToString(), tuple(beside.items()))


# Bytes


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(data)), rng.choice((1, 4, 10, 64))
    fill = rng.choice((b"\0", b"\xff", b"\x7f", rng.randbytes(1)))
    return data[:start] + fill * size + data[start + size :]


def _splice(data: bytes, rng: random.Random) -> bytes:
    a, b, place = (rng.randrange(len(data)) for _ in range(3))
    return data[:place] + data[min(a, b) : max(a, b)] + data[place:]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def _noise(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", rng.randbytes(rng.randint(1, 500)), b"PK\3\4" + data, data + data))


def _deep(data: bytes, rng: random.Random) -> bytes:
    """Subgraphs within subgraphs, deeper than protobuf's own writer would go."""
    inner = b""
    for _ in range(rng.choice((5, 20, 31, 34, 60, 500, 5000))):
        # AttributeProto: name = 1, g = 6, type = 20. NodeProto: op_type = 4, attribute = 5.
        attribute = _field(1, b"then_branch") + _field(6, inner) + b"\xa0\x01\x05"
        inner = _field(1, _field(4, b"If") + _field(5, attribute))  # GraphProto: node = 1
    return data + _field(7, inner)  # a second graph = 7 is merged with the first


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field as protobuf writes it."""
    size, prefix = len(content), bytearray([number << 3 | 2])
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    return bytes([*prefix, size]) + content


def _parsed(name: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(_TEXTS[name])
    for weight, shape in _WEIGHTS.get(name, {}).items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, weight))
    if name == "tokens":
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    onnx.checker.check_model(model, full_check=True)
    return model


def _convolution() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["m"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncate,
    "bits": _flip_bits,
    "overwritten": _overwrite,
    "spliced": _splice,
    "cut out": _cut_out,
    "noise": _noise,
    "deep": _deep,
}
_STRUCTURE: dict[str, Callable[..., dict[str, bytes | str] | None]] = {**DAMAGE, **BOMBS}
KINDS = (*_BYTES, *_STRUCTURE)
"""What can be done to a model."""
