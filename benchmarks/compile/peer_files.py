"""Model files as peers' users make them: a fixed batch, and INT8 with the defaults of two tools."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["default_int8", "fix_batch", "nncf_int8"]

Floats = NDArray[np.float32]


def fix_batch(model: Path, out: Path) -> Path:
    """Write a model with a batch of one."""
    proto = onnx.load(model)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del proto.graph.value_info[:]
    onnx.save(onnx.shape_inference.infer_shapes(proto), out)
    return out


def default_int8(model: Path, images: Floats, folder: Path) -> Path:
    """``quantize_static`` as its documentation calls it: pre-process, then every default."""
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (name,) = (value.name for value in onnx.load(model).graph.input)
    feeds = iter([{name: image[None]} for image in images])

    class Reader:
        def get_next(self) -> dict[str, Floats] | None:
            return next(feeds, None)

    quant_pre_process(model, folder / "pre.onnx", skip_symbolic_shape=True)
    quantize_static(folder / "pre.onnx", folder / "default.onnx", Reader())
    return folder / "default.onnx"


def nncf_int8(model: Path, images: Floats, folder: Path, *, transformer: bool) -> Path:
    """NNCF's post-training quantization as its documentation calls it, as OpenVINO IR."""
    os.environ.setdefault("NNCF_CI", "1")
    import nncf
    import openvino

    dataset = nncf.Dataset([image[None] for image in images])
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    quantized = nncf.quantize(
        openvino.Core().read_model(model), dataset, model_type=kind, subset_size=len(images)
    )
    openvino.save_model(quantized, folder / "nncf.xml", compress_to_fp16=False)
    return folder / "nncf.xml"
