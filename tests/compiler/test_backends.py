"""The backends that ship, against the contract."""

from __future__ import annotations

from typing import ClassVar

import pytest

from contracts.backend_contract import BackendContract
from edgessl.targets import CandidateSpec, detect


class TestOnnxRuntime(BackendContract):
    engine = "onnxruntime"
    candidates: ClassVar = {
        CandidateSpec(engine="onnxruntime", precision="fp32"): 0.999999,
        CandidateSpec(engine="onnxruntime", precision="int8", scheme="u8s8"): 0.99,
        CandidateSpec(engine="onnxruntime", precision="int8", scheme="s8s8"): 0.99,
    }
    unsupported = CandidateSpec(engine="onnxruntime", precision="bf16")


class TestOpenVINO(BackendContract):
    engine = "openvino"
    candidates: ClassVar = {
        CandidateSpec(engine="openvino", precision="fp32"): 0.999999,
        CandidateSpec(engine="openvino", precision="int8", scheme="nncf"): 0.97,
        CandidateSpec(engine="openvino", precision="int8", scheme="u8s8"): 0.99,
        CandidateSpec(engine="openvino", precision="w8", scheme="weight-only"): 0.999,
    }
    unsupported = CandidateSpec(engine="openvino", precision="fp16")


@pytest.mark.skipif(not detect().has_bf16, reason="this CPU has no bfloat16 instructions")
class TestOpenVINOBfloat16(BackendContract):
    engine = "openvino"
    candidates: ClassVar = {
        CandidateSpec(engine="openvino", precision="bf16"): 0.999,
        CandidateSpec(engine="openvino", precision="int8", scheme="nncf", remainder="bf16"): 0.97,
    }
