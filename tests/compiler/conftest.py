"""A model, its inputs and a target that tests of compiling share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.compiling import ONNX_FP32, target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.files import cache_directory
from edgessl.targets import Target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_cnn(tmp_path / "cnn.onnx")


@pytest.fixture(scope="session")
def inputs() -> NDArray[np.float32]:
    return cnn_inputs(60)


@pytest.fixture
def fp32() -> Target:
    """One candidate, which builds in no time."""
    return target_of(ONNX_FP32)


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    """Each test compiles itself; what was measured before is still remembered."""
    yield
    shutil.rmtree(cache_directory("compile"), ignore_errors=True)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
