"""A model, its inputs and a target that tests of compiling share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.targets import CandidateSpec, Target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_cnn(tmp_path / "cnn.onnx")


@pytest.fixture(scope="session")
def inputs() -> NDArray[np.float32]:
    return cnn_inputs(60)


@pytest.fixture
def fp32() -> Target:
    """One candidate, which builds in no time."""
    return target_of(CandidateSpec(engine="onnxruntime", precision="fp32"))


def target_of(*candidates: CandidateSpec) -> Target:
    """A target for this machine with these candidates."""
    return Target(
        name="test",
        description="for tests",
        family="cpu",
        arch="any",
        candidates=candidates,
    )
