"""The integer graph of a job is made once, and anew when anything changes that it depends on."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.once import quantize_once
from edgessl.compiler.quantizers.onnxruntime import OnnxRuntimeQdq
from edgessl.files import cache_directory
from edgessl.progress import silent


@pytest.fixture
def job(tmp_path: Path) -> QuantizationJob:
    graph = prepare_graph(write_cnn(tmp_path / "cnn.onnx"), tmp_path / "p.onnx", batch_size=1)
    calibration = ArrayCalibration({"images": cnn_inputs(16)})
    samples = store(calibration, np.arange(16), graph, tmp_path / "samples", progress=silent)
    (tmp_path / "first").mkdir()
    return QuantizationJob(
        graph=graph,
        samples=samples,
        folder=tmp_path / "first",
        scheme="u8s8",
        precision="int8",
        remainder=None,
        per_channel=True,
        reduce_range=False,
        method="minmax",
        keep_float=(),
    )


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[QuantizationJob]]:
    """The jobs that were really done, with nothing left of other tests."""
    shutil.rmtree(cache_directory("quantized"), ignore_errors=True)
    plain, jobs = OnnxRuntimeQdq.quantize, []

    def counted(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        jobs.append(job)
        return plain(job)

    monkeypatch.setattr(OnnxRuntimeQdq, "quantize", staticmethod(counted))
    yield jobs
    shutil.rmtree(cache_directory("quantized"), ignore_errors=True)


def _again(job: QuantizationJob, **changes: object) -> tuple[Path, dict[str, str]]:
    folder = job.folder.parent / f"again-{len(list(job.folder.parent.iterdir()))}"
    folder.mkdir()
    return quantize_once(dataclasses.replace(job, folder=folder, **changes))


def test_the_same_job_is_done_once(job: QuantizationJob, made: list[QuantizationJob]) -> None:
    first, versions = quantize_once(job)
    second, same = _again(job, remainder="bf16")
    assert len(made) == 1
    assert second.parent != first.parent
    assert second.read_bytes() == first.read_bytes()
    assert same == versions


@pytest.mark.parametrize(
    "changes",
    [{"scheme": "s8s8"}, {"method": "mse"}, {"keep_float": ("conv1",)}, {"per_channel": False}],
)
def test_another_job_is_done(
    job: QuantizationJob, made: list[QuantizationJob], changes: dict[str, object]
) -> None:
    first, _ = quantize_once(job)
    other, _ = _again(job, **changes)
    assert len(made) == 2
    assert other.read_bytes() != first.read_bytes()


def test_a_damaged_entry_is_made_again(job: QuantizationJob, made: list[QuantizationJob]) -> None:
    first, _ = quantize_once(job)
    (note,) = cache_directory("quantized").glob("*/quantized.json")
    note.write_text("{")
    second, _ = _again(job)
    assert len(made) == 2
    assert second.read_bytes() == first.read_bytes()
