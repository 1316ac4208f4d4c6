"""Every operator beside onnxruntime, and what is said of one that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from contracts.integer_graphs import SCHEMES, export_timm, make_pair, small_network
from edgessl.distillation.integers import IntegerBackbone
from edgessl.distillation.integers.graph import read_node
from edgessl.distillation.integers.operators import OPERATORS, Node, build_operator
from edgessl.errors import ModelError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 8, 6, 6)).astype(np.float32)
ROWS = RNG.standard_normal((3, 5)).astype(np.float32)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


PLAIN = ["Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish"]
PLAIN += ["Identity", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round"]
PLAIN += ["Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Tanh", "Flatten", "Transpose"]
PLAIN += ["GlobalAveragePool", "GlobalMaxPool", "LpNormalization"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"]
COMPARE = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
LOGIC = ["And", "Or"]
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2]}
Case = tuple[str, list[Any], dict[str, Any]]
CASES: list[Case] = [
    *((kind, [X], {}) for kind in PLAIN),
    *((kind, [X, f(8, 1, 1)], {}) for kind in BINARY),
    *((kind, [np.round(X), np.float32(0) * X], {}) for kind in COMPARE),
    *((kind, [X > 0, X > 0.5], {}) for kind in LOGIC),
    ("Not", [X > 0], {}),
    ("HardSigmoid", [X], {"alpha": 1 / 6}),
    ("Sqrt", [np.abs(X)], {}),
    ("Log", [np.abs(X)], {}),
    ("Pow", [np.abs(X), np.float32(1.5)], {}),
    ("Pow", [X, np.float32(2)], {}),
    ("Mod", [i(7, -7, 5), i(3, 3, -3)], {}),
    ("Div", [i(7, -7, 5), i(3, 3, -3)], {}),
    ("PRelu", [X, f(8, 1, 1)], {}),
    ("Clip", [X, np.float32(-0.5), np.float32(0.7)], {}),
    ("Clip", [X, None, np.float32(0.7)], {}),
    ("Softmax", [X], {"axis": 1}),
    ("Cast", [X], {"to": TensorProto.INT64}),
    ("Where", [X > 0, X, f(1)], {}),
    ("Gelu", [X], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Conv", [X, f(4, 8, 3, 3), f(4)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [X, f(8, 1, 3, 3)], {"group": 8, "pads": [0, 1, 1, 0]}),
    ("Conv", [X, f(4, 8, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X, f(4, 8, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    ("Conv", [f(2, 3, 9), f(4, 3, 3), f(4)], {"pads": [1, 1]}),
    ("ConvTranspose", [X, f(8, 3, 2, 2), f(3)], {"strides": [2, 2]}),
    ("ConvTranspose", [X, f(8, 3, 3, 3)], {"pads": [1, 0, 0, 1], "output_padding": [1, 1],
                                         "strides": [2, 2]}),
    ("Gemm", [ROWS, f(4, 5), f(4)], {"transB": 1}),
    ("Gemm", [ROWS, f(3, 4), f(5, 4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", [f(2, 3, 5), f(2, 5, 4)], {}),
    ("Einsum", [f(2, 3), f(3, 4)], {"equation": "ij,jk->ik"}),
    ("BatchNormalization", [X, f(8), f(8), f(8), np.abs(f(8))], {"epsilon": 1e-3}),
    ("LayerNormalization", [X, f(6), f(6)], {"epsilon": 1e-6}),
    ("LayerNormalization", [X, f(6, 6)], {"axis": 2}),
    ("InstanceNormalization", [X, f(8), f(8)], {}),
    ("GroupNormalization", [X, f(8), f(8)], {"num_groups": 4}),
    ("AveragePool", [X], {**WINDOW, "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], {**WINDOW, "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [X], {**WINDOW, "pads": [1, 1, 1, 1]}),
    ("MaxPool", [X], {**WINDOW, "pads": [0, 0, 1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "dilations": [2, 2], "ceil_mode": 1}),
    ("Resize", [X, None, np.array([1, 1, 2, 2], np.float32)],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [X, None, None, i(2, 8, 9, 5)], {"mode": "linear"}),
    ("Resize", [X, None, None, i(2, 8, 12, 12)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [X, None, np.array([1, 1, 2, 2], np.float32)], {"mode": "cubic"}),
    ("Pad", [X, i(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5)], {}),
    ("Pad", [X, i(1, 2, 1, 0), None, i(2, 3)], {"mode": "reflect"}),
    ("Pad", [X, i(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "edge"}),
    ("Concat", [X, f(2, 3, 6, 6)], {"axis": 1}),
    ("Split", [X, i(3, 5)], {"axis": 1}),
    ("Split", [X], {"axis": 1, "num_outputs": 2}),
    ("Slice", [X, i(1, -4), i(7, 100), i(1, 3), i(2, 1)], {}),
    ("Slice", [X, i(-1), i(-100), i(2), i(-2)], {}),
    ("Slice", [X, i(4), i(0), i(3), i(-1)], {}),
    ("Gather", [X, np.array(2, np.int64)], {"axis": 1}),
    ("Gather", [ROWS, np.array([[0, -1], [2, 1]], np.int64)], {}),
    ("Reshape", [X, i(0, -1, 12)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Squeeze", [f(2, 1, 3, 1), i(1)], {}),
    ("Squeeze", [f(2, 1, 3, 1)], {}),
    ("Unsqueeze", [ROWS, i(0, -1)], {}),
    ("Expand", [f(3, 1), i(2, 1, 4)], {}),
    ("Tile", [ROWS, i(2, 3)], {}),
    ("Shape", [X], {}),
    ("Shape", [X], {"start": 1, "end": 3}),
    ("Size", [X], {}),
    ("ConstantOfShape", [i(2, 3)], {"value": numpy_helper.from_array(np.array([3], np.int64))}),
    ("Range", [np.array(1, np.int64), np.array(9, np.int64), np.array(3, np.int64)], {}),
    ("DepthToSpace", [X], {"blocksize": 2}),
    ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [X], {"blocksize": 2}),
    *((f"Reduce{kind}", [X, i(2, 3)], {"keepdims": keep})
      for kind in ("L2", "Max", "Mean", "Min", "Sum", "SumSquare") for keep in (0, 1)),
    ("ReduceMean", [X], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [X], {"keepdims": 0}),
    ("Dropout", [X], {}),
]  # fmt: skip
OPSETS = {"GroupNormalization": 21}


@pytest.mark.parametrize("case", CASES, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(CASES)])
def test_an_operator_gives_what_onnxruntime_gives(case: Case) -> None:
    kind, values, attributes = case
    opset = OPSETS.get(kind, 20)
    names = ["" if value is None else f"in{k}" for k, value in enumerate(values)]
    outputs = ["out0", "out1"] if kind == "Split" else ["out0"]
    proto = helper.make_node(kind, names, outputs, "node", **attributes)
    feeds = {n: np.asarray(v) for n, v in zip(names, values, strict=True) if n}
    graph = helper.make_graph(
        [proto],
        "one",
        [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape)
            )
            for n, v in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, feeds)
    run = build_operator(read_node(onnx, proto, opset))
    found = run(*(None if v is None else torch.from_numpy(np.array(v)) for v in values))
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    assert len(found) == len(expected)
    for have, want in zip(found, expected, strict=True):
        assert have.numpy().dtype == want.dtype
        np.testing.assert_allclose(have.numpy(), want, rtol=2e-5, atol=2e-6)


def test_every_operator_of_the_table_is_tried() -> None:
    foreign = {kind for kind in OPERATORS if "." in kind}
    assert set(OPERATORS) - foreign == {kind for kind, _, _ in CASES}


def test_microsofts_gelu() -> None:
    x = torch.from_numpy(X)
    gelu = build_operator(Node("g", "com.microsoft.Gelu", 20, ("x",), ("y",)))
    torch.testing.assert_close(gelu(x), x * 0.5 * (1 + torch.erf(x / 2**0.5)))
    quick = build_operator(Node("q", "com.microsoft.QuickGelu", 20, ("x",), ("y",)))
    torch.testing.assert_close(quick(x), x * torch.sigmoid(1.702 * x))


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(ModelError, match=r"'odd' is NonMaxSuppression, .*OPERATORS"):
        build_operator(Node("odd", "NonMaxSuppression", 18, ("x",), ("y",)))


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Resize", {"coordinate_transformation_mode": "tf_crop_and_resize"}),
        ("Pad", {"mode": "wrap"}),
        ("Cast", {"to": TensorProto.STRING}),
        ("ConvTranspose", {"output_shape": (4, 4)}),
    ],
)
def test_settings_that_cannot_be_replayed_are_named(kind: str, attributes: Any) -> None:
    with pytest.raises(ModelError, match=f"node 'odd' \\({kind}\\) has"):
        build_operator(Node("odd", kind, 18, ("x",), ("y",), attributes))


def test_a_float_graph_has_nothing_to_train_for(tmp_path: Path) -> None:
    path = export_timm(small_network("conv"), tmp_path / "model.onnx", size=32)
    with pytest.raises(ModelError, match=r"model\.onnx has no integers to train for"):
        IntegerBackbone.from_graph(path, path)


def test_integers_with_two_scales_are_refused(tmp_path: Path) -> None:
    path = export_timm(small_network("conv"), tmp_path / "model.onnx", size=32)
    pair = make_pair(path, next(iter(SCHEMES)), tmp_path / "work", size=32)
    model = onnx.load(pair.model)
    node = next(
        n
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in {m.output[0] for m in model.graph.node}
    )
    other = numpy_helper.from_array(np.array(0.5, np.float32), "other")
    model.graph.initializer.append(other)
    node.input[1] = "other"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match="another scale than they were made with"):
        IntegerBackbone.from_graph(pair.float_model, tmp_path / "odd.onnx")
