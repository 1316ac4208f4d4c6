"""Running an engine, against doubles of TensorRT and CUDA; copies are real, kernels are not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.cuda_double import Cuda
from contracts.session_contract import SessionContract
from contracts.tensorrt_double import MARK, TensorRT
from contracts.tiny_bundle import expected, samples, write_model
from edgessl.benchmarking.arm import TellsPhases
from edgessl.bundle.manifest import OptionValue
from edgessl.errors import DataError, ModelError, UnavailableError
from edgessl.runtime.profiling import Phases
from edgessl.runtime.session import open_session
from edgessl.runtime.tensorrt.execution import TensorRTSession


@pytest.fixture(autouse=True)
def trt(monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    double = TensorRT("10.3.0", dla_cores=1)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    return double


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    double = Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", double)
    return double


def plan(folder: Path, *, batch: int | str = 1) -> Path:
    model = write_model(folder / "model.onnx", batch=batch)
    place = folder / "engine.plan"
    place.write_bytes(MARK + model.read_bytes())
    return place


class TestTensorRT(SessionContract):
    engine = "tensorrt"
    exact_options: Mapping[str, OptionValue] = {}

    def convert(self, onnx_file: Path) -> Path:
        place = onnx_file.with_suffix(".plan")
        place.write_bytes(MARK + onnx_file.read_bytes())
        return place


def test_memory_grows_and_all_of_it_is_given_back(tmp_path: Path, cuda: Cuda) -> None:
    with open_session("tensorrt", plan(tmp_path, batch="N")) as session:
        for count in (2, 7, 1):
            batch = samples(count, seed=count)
            found = session.run({"image": batch})["embedding"]
            np.testing.assert_allclose(found, expected(batch), rtol=1e-4, atol=1e-6)
            assert len(cuda.host) == len(cuda.device) == 2
        assert cuda.streams == 1
    assert (cuda.host, cuda.device, cuda.streams) == ({}, {}, 0)


def test_an_error_of_cuda_names_what_it_was_doing(tmp_path: Path, cuda: Cuda) -> None:
    with open_session("tensorrt", plan(tmp_path)) as session:
        cuda.failing = "cudaMalloc"
        with pytest.raises(ModelError, match="asking for 768 bytes: out of memory"):
            session.run({"image": samples(1)})
        cuda.failing = ""
        session.run({"image": samples(1)})
    assert (cuda.host, cuda.device, cuda.streams) == ({}, {}, 0)


@pytest.mark.parametrize("name", ["cudaSetDevice", "cudaStreamCreateWithFlags"])
def test_without_a_gpu_it_is_unavailable(tmp_path: Path, cuda: Cuda, name: str) -> None:
    cuda.failing = name
    with pytest.raises(UnavailableError, match="check the GPU and its driver"):
        open_session("tensorrt", plan(tmp_path))


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaHostAlloc"])
def test_every_code_is_looked_at(tmp_path: Path, cuda: Cuda, name: str) -> None:
    with open_session("tensorrt", plan(tmp_path)) as session:
        cuda.failing = name
        with pytest.raises(ModelError, match="out of memory"):
            session.run({"image": samples(1)})
        cuda.failing = ""


def test_phases_are_those_of_the_devices_clock(tmp_path: Path, cuda: Cuda) -> None:
    with open_session("tensorrt", plan(tmp_path)) as session:
        assert isinstance(session, TensorRTSession)
        assert isinstance(session, TellsPhases)
        copy, execute = cuda.cudaMemcpyAsync, session._context.execute_async_v3

        def slow_copy(*arguments: Any) -> tuple[Any, ...]:
            cuda.clock_ms += 0.25 if arguments[3] == 1 else 0.5
            return copy(*arguments)

        def slow_execute(stream: int) -> bool:
            cuda.clock_ms += 4.0
            cuda.log.append("run")
            return bool(execute(stream))

        cuda.cudaMemcpyAsync = slow_copy  # type: ignore[method-assign]
        session._context.execute_async_v3 = slow_execute
        found = session.phases({"image": samples(1)})
        assert found == Phases(host_to_device_ms=0.25, compute_ms=4.0, device_to_host_ms=0.5)
        assert cuda.log == ["event", "in", "event", "run", "event", "out", "event"]
        assert cuda.events == {}
        with pytest.raises(DataError, match="takes"):
            session.phases({"other": samples(1)})


@pytest.mark.parametrize("name", ["cudaEventCreate", "cudaEventRecord", "cudaEventElapsedTime"])
def test_events_that_fail_are_given_back(tmp_path: Path, cuda: Cuda, name: str) -> None:
    with open_session("tensorrt", plan(tmp_path)) as session:
        assert isinstance(session, TensorRTSession)
        cuda.failing = name
        with pytest.raises(ModelError, match=r"event.*: out of memory"):
            session.phases({"image": samples(1)})
        cuda.failing = ""
    assert len(cuda.events) <= (name == "cudaEventCreate")


def test_an_engine_of_elsewhere_names_the_remedy(tmp_path: Path, trt: TensorRT, cuda: Cuda) -> None:
    trt.refuse = "load"
    with pytest.raises(ModelError, match=r"Magic tag does not match.*finalize"):
        open_session("tensorrt", plan(tmp_path))
    assert cuda.streams == 0


def test_a_failing_run_is_an_error(tmp_path: Path, trt: TensorRT) -> None:
    with open_session("tensorrt", plan(tmp_path)) as session:
        trt.refuse = "run"
        with pytest.raises(ModelError, match="fails while running"):
            session.run({"image": samples(1)})


def test_a_graph_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="edgessl finalize"):
        open_session("tensorrt", write_model(tmp_path / "model.onnx"))


def test_the_accelerator_of_the_engine_is_chosen(tmp_path: Path, trt: TensorRT) -> None:
    open_session("tensorrt", plan(tmp_path), {"dla_core": 0}).close()
    assert trt.recorded("load") == [0]
    with pytest.raises(UnavailableError, match="DLA core 1, this device has 1"):
        open_session("tensorrt", plan(tmp_path), {"dla_core": 1})


def test_an_old_tensorrt_is_refused(tmp_path: Path, trt: TensorRT) -> None:
    trt.__version__ = "8.6.2"
    with pytest.raises(UnavailableError, match=r"8\.6\.2 is too old"):
        open_session("tensorrt", plan(tmp_path))


def test_bindings_without_libraries_are_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableError, match=r"libnvinfer\.so\.10"):
        open_session("tensorrt", plan(tmp_path))
