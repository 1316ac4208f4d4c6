"""A tiny graph of sound with two side inputs: a state and a sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.io import wavfile

__all__ = ["RATE_HZ", "SAMPLES", "expected", "write_sound_model", "write_sounds"]

RATE_HZ, SAMPLES = 8000, 64
_WEIGHTS = np.random.default_rng(3).standard_normal((SAMPLES, 5)).astype(np.float32)


def expected(
    windows: NDArray[np.float32], *, state: float = 0.0, rate: int = RATE_HZ
) -> NDArray[np.float64]:
    """What the graph computes: windows @ weights + the state's sum + rate / 8000."""
    product = windows.astype(np.float64) @ _WEIGHTS.astype(np.float64)
    return np.asarray(product + 2 * 4 * state + rate / 8000.0)


def write_sound_model(path: Path, *, batch: int | str = "batch") -> Path:
    """``sound (N, 64)``, ``state (2, N, 4)`` and ``rate ()`` int64 to ``features (N, 5)``."""
    nodes = [
        helper.make_node("MatMul", ["sound", "weights"], ["product"]),
        helper.make_node("ReduceSum", ["state", "axes"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "last"], ["column"]),
        helper.make_node("Add", ["product", "column"], ["added"]),
        helper.make_node("Cast", ["rate"], ["rate_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate_float", "unit"], ["ratio"]),
        helper.make_node("Add", ["added", "ratio"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sound",
        [
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, [batch, SAMPLES]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, batch, 4]),
            helper.make_tensor_value_info("rate", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 5])],
        [
            numpy_helper.from_array(_WEIGHTS, "weights"),
            numpy_helper.from_array(np.array([0, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array([1], np.int64), "last"),
            numpy_helper.from_array(np.array(8000.0, np.float32), "unit"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_sounds(folder: Path, lengths: list[int]) -> list[NDArray[np.float32]]:
    """Write a mono ``.wav`` of each length to a folder; gives what is in them."""
    rng = np.random.default_rng(4)
    folder.mkdir(parents=True, exist_ok=True)
    signals = [(0.3 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
    for number, signal in enumerate(signals):
        wavfile.write(folder / f"{number:03}.wav", RATE_HZ, signal)
    return signals
