"""A tiny convolutional encoder with its answer in float64, as a model file and as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgessl.bundle.archive import pack
from edgessl.bundle.arrays import save_arrays
from edgessl.bundle.manifest import (
    Canaries,
    EngineSpec,
    Manifest,
    Provenance,
    TensorSpec,
)
from edgessl.preprocessing import ImageInput
from edgessl.runtime.session import ENGINES

__all__ = ["IMAGE", "expected", "samples", "write_bundle", "write_model"]

IMAGE = ImageInput(channels=3, height=8, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
_WEIGHTS = np.random.default_rng(7).standard_normal((4, 3, 3, 3)).astype(np.float32)


def samples(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Inputs ``(N, 3, 8, 8)``."""
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def expected(batch: NDArray[Any]) -> NDArray[np.float64]:
    """What the encoder computes, in float64: 3x3 convolution, ReLU, mean over the image."""
    padded = np.pad(batch.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    convolved = np.einsum("nchwij,ocij->nohw", windows, _WEIGHTS.astype(np.float64))
    means: NDArray[np.float64] = np.maximum(convolved, 0).mean(axis=(2, 3))
    return means


def write_model(path: Path, *, batch: int | str = 1) -> Path:
    """Write the encoder as ONNX; a name instead of a batch size makes it free."""
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(_WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def write_bundle(path: Path, *, engine: str = "onnxruntime", **changes: Any) -> Path:
    """Pack the encoder; ``changes`` replace fields of the manifest.

    ``canary_outputs`` replaces the reference outputs, ``batch`` the graph's batch size, and
    ``canary_count`` the number of canaries.
    """
    batch = changes.pop("batch", 1)
    count = changes.pop("canary_count", 4)
    inputs = samples(count)
    outputs = changes.pop("canary_outputs", expected(inputs).astype(np.float32))
    model = write_model(path.with_suffix(".onnx"), batch=batch)
    values: dict[str, Any] = {
        "kind": "native",
        "target": "host",
        "precision": "fp32",
        "engine": EngineSpec(
            name=engine, version=ENGINES.get(engine).version(), options={"threads": 1}
        ),
        "model": "engine/model.onnx",
        "inputs": (TensorSpec(name="image", dtype="float32", shape=(batch, 3, 8, 8)),),
        "outputs": (TensorSpec(name="embedding", dtype="float32", shape=(batch, 4)),),
        "batch_size": batch if isinstance(batch, int) else None,
        "embedding_dim": 4,
        "preprocessing": IMAGE,
        "fidelity": None,
        "canaries": Canaries(
            inputs="canaries/inputs.npz",
            outputs="canaries/outputs.npz",
            samples=count,
            min_cosine=0.99,
        ),
        "provenance": Provenance(
            edgessl_version="0",
            model_sha256="0" * 64,
            calibration_sha256=None,
            calibration_samples=0,
            seed=0,
            toolchain={},
        ),
    }
    members: dict[str, Path | bytes] = {
        "engine/model.onnx": model,
        "canaries/inputs.npz": save_arrays({"image": inputs}),
        "canaries/outputs.npz": save_arrays({"embedding": outputs}),
    }
    pack(path, Manifest.model_validate({**values, **changes}), members)
    model.unlink()
    return path
