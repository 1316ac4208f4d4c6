"""Graphs of a few operators, written as lists of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["node", "write_graph"]

node = helper.make_node


def write_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    shape: Sequence[Any] = (1, 4, 8, 8),
    constants: dict[str, NDArray[Any]] | None = None,
    output: str = "y",
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    out_dtype: int | None = None,
    out_shape: Sequence[Any] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> Path:
    """One input ``x`` and one output; the output's shape is inferred if not given."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [helper.make_tensor_value_info(output, out_dtype or dtype, out_shape)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=8 if opset < 15 else 10, functions=list(functions)
    )
    onnx.save(model if out_shape is not None else onnx.shape_inference.infer_shapes(model), path)
    return path
