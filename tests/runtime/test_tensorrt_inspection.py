"""Descriptions of engines as TensorRT's documentation shows them, 10 and 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgessl.errors import GateError, ModelError
from edgessl.runtime.tensorrt.inspection import Inspection, read_layers

# The convolution is the example of the developer guide, "Engine Inspector", in shorter words.
CONV_INT8 = {
    "Name": "conv1 + bn1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "x",
            "Dimensions": [16, 512, 28, 28],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "Outputs": [
        {
            "Name": "y",
            "Dimensions": [16, 256, 28, 28],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 131072},
    "Bias": {"Type": "Float", "Count": 256},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs",
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Name": "x'", "Format/Datatype": "Row major Int8 format"}],
    "ParameterType": "Reformat",
    "Origin": "QDQ",
}
GEMM_HALF = {
    "Name": "/MatMul_2+/MatMul_1+/MatMul_myl0_2",
    "LayerType": "gemm",
    "Inputs": [{"Name": "a", "Format/Datatype": "Half"}],
    "Outputs": [{"Name": "b", "Format/Datatype": "Half"}],
    "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n",
    "Metadata": "[ONNX Layer: /MatMul]\u001e[ONNX Layer: /MatMul_1]",
}
ELEVEN = {
    "Name": "__myl_Conv_myl0_7",
    "LayerType": "conv",
    "Inputs": [{"Name": "a", "Format": "Row major linear (kLINEAR)", "DataType": "Half"}],
    "Outputs": [{"Name": "b", "Format": "Row major linear (kLINEAR)", "DataType": "Half"}],
    "TacticName": "cutlass_kernel",
    "Metadata": "[ONNX Layer: conv9]",
}
DYNAMIC = {
    **CONV_INT8,
    "Inputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}],
    "Weights": {"Count": 1},
}
ON_DLA = {
    "Name": "{ForeignNode[conv1...conv5]}",
    "LayerType": "DLA",
    "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel row major Int8 format"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel row major Int8 format"}],
}


def read(*layers: Any, expected: dict[str, str] | None = None) -> Inspection:
    return read_layers(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}), expected or {})


@pytest.mark.parametrize(
    ("layer", "node", "precision"),
    [
        (CONV_INT8, "conv1", "int8"),
        (CONV_INT8, "bn1", "int8"),
        (GEMM_HALF, "/MatMul_1", "fp16"),
        (GEMM_HALF, "/MatMul", "fp16"),
        (ELEVEN, "conv9", "fp16"),
        (DYNAMIC, "conv1", "int8"),
        (ON_DLA, "conv1", "int8"),
        (ON_DLA, "conv5", "int8"),
    ],
)
def test_the_precision_of_a_node(layer: dict[str, Any], node: str, precision: str) -> None:
    found = read(layer, REFORMAT, expected={node: precision})
    assert found.by_precision == {precision: 1}
    assert (found.mismatches, found.unseen, found.checked) == ((), (), 1)
    found.require_as_asked(dla=layer is ON_DLA, where="x")


@pytest.mark.parametrize(
    ("kernel", "precision"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "fp16"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc", "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc", "fp32"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize", "bf16"),
        ("ampere_h16816gemm_64x64_ldg8_tn", "unknown"),
    ],
)
def test_kernels_tell_when_nothing_else_does(kernel: str, precision: str) -> None:
    found = read({"Name": "a", "LayerType": "gemm", "TacticName": kernel})
    assert found.by_precision == {precision: 1}


def test_no_int8_although_it_was_asked_for() -> None:
    plain = {**CONV_INT8, "Name": "conv1", "Weights": {"Type": "Half", "Count": 9}}
    found = read(plain, expected={"conv1": "int8"})
    with pytest.raises(GateError, match=r"1 of 1 layers.*conv1: fp16 instead of int8"):
        found.require_as_asked(dla=False, where="model.edge")


def test_float32_convolutions_although_float16_was_asked_for() -> None:
    layers = [{**CONV_INT8, "Name": f"c{i}", "Weights": {"Type": "Float"}} for i in range(5)]
    found = read(GEMM_HALF, *layers, expected={f"c{i}": "fp16" for i in range(5)})
    with pytest.raises(GateError, match=r"5 of 5 layers.*and 2 more"):
        found.require_as_asked(dla=False, where="model.edge")


def test_nodes_that_no_layer_names_still_need_one_of_their_precision() -> None:
    found = read(GEMM_HALF, expected={"gone": "int8"})
    assert (found.unseen, found.checked) == (("gone",), 0)
    with pytest.raises(GateError, match="no layer computes in int8"):
        found.require_as_asked(dla=False, where="model.edge")
    read(GEMM_HALF, CONV_INT8, expected={"gone": "int8"}).require_as_asked(dla=False, where="x")


def test_layers_on_the_accelerator_are_counted() -> None:
    found = read(ON_DLA, CONV_INT8, GEMM_HALF)
    assert found.by_device == {"DLA": 1, "GPU": 2}
    assert found.describe() == "3 layers: 1 fp16, 2 int8; 1 on the DLA, 2 on the GPU"
    with pytest.raises(GateError, match="no layer runs on the deep-learning accelerator"):
        read(CONV_INT8).require_as_asked(dla=True, where="model.edge")


def test_names_alone_prove_nothing() -> None:
    # What an engine built without detailed verbosity tells.
    found = read("conv1 + relu1", "conv2", expected={"conv1": "int8"})
    with pytest.raises(GateError, match="does not tell"):
        found.require_as_asked(dla=False, where="model.edge")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 3}', "not json"])
def test_unreadable_descriptions(text: str) -> None:
    with pytest.raises(ModelError, match="not readable"):
        read_layers(text, {})
