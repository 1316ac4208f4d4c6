"""Time per operator, against graphs whose slowest operator is known and against whole runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contracts.cuda_double import Cuda
from contracts.small_graphs import node, write_graph
from contracts.tensorrt_double import MARK, TensorRT
from contracts.tiny_bundle import samples, write_model
from edgessl.errors import ModelError, UnavailableError, UsageError
from edgessl.runtime.engines.onnxruntime import read_trace
from edgessl.runtime.profiling import (
    PROFILE_WARM_UP_RUNS,
    OperatorTime,
    profile_operators,
)
from edgessl.runtime.session import ENGINES, open_session

SIZE = 512
THREADS: Mapping[str, int] = {"threads": 1}


def one_large_product(folder: Path) -> Path:
    """A product of 512 × 512 matrices between operators of one row."""
    weights = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32) / SIZE
    nodes = [
        node("Softmax", ["x"], ["a"], name="rows", axis=-1),
        node("MatMul", ["a", "w"], ["b"], name="product"),
        node("ReduceMean", ["b", "axes"], ["c"], name="mean", keepdims=1),
        node("Sigmoid", ["c"], ["y"], name="gate"),
    ]
    constants: dict[str, NDArray[Any]] = {"w": weights, "axes": np.array([0], np.int64)}
    return write_graph(folder / "m.onnx", nodes, shape=(SIZE, SIZE), constants=constants)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_large_product_is_the_slowest_and_all_together_are_a_run(
    tmp_path: Path, engine: str
) -> None:
    model = one_large_product(tmp_path)
    feeds = {"x": np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32)}
    operators = profile_operators(engine, model, THREADS, [feeds], runs=20)
    times = [operator.time_ms for operator in operators]
    assert operators[0].kind in {"MatMul", "FullyConnected"}
    assert times == sorted(times, reverse=True)
    assert times[0] > 0.5 * sum(times)
    with open_session(engine, model, THREADS) as session:
        whole = [timed(session, feeds) for _ in range(25)][5:]
    # Loose, for the two are measured one after another on a shared machine.
    assert 0.25 * min(whole) < sum(times) < 4 * max(whole)


def timed(session: Any, feeds: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return (time.perf_counter() - start) * 1e3


def test_the_trace_is_written_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "private"))
    (tmp_path / "private").mkdir()
    model = write_model(tmp_path / "model.onnx", batch=1)
    profile_operators("onnxruntime", model, THREADS, [{"image": samples(1)}], runs=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "private"]
    assert list((tmp_path / "private").iterdir()) == []


def test_a_run_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = write_model(tmp_path / "model.onnx", batch=1)
    with pytest.raises(Exception, match="image"):
        profile_operators("onnxruntime", model, THREADS, [{"image": samples(2)}], runs=2)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_branch_that_is_not_taken_costs_nothing_and_an_if_only_its_own_time(
    tmp_path: Path,
) -> None:
    operators = profile_operators(
        "onnxruntime",
        with_branches(tmp_path / "m.onnx"),
        THREADS,
        [{"x": np.ones((SIZE, SIZE), np.float32), "large": np.array(True)}],
        runs=9,
    )
    by_kind = {operator.kind: operator for operator in operators}
    assert operators[0].kind == "MatMul"
    assert by_kind["If"].time_ms < 0.5 * by_kind["MatMul"].time_ms
    assert "Sigmoid" not in by_kind


def with_branches(path: Path) -> Path:
    def branch(name: str, op: str, *more: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [SIZE, SIZE])
        made = helper.make_node(op, ["x", *more], [f"{name}_y"], name=name)
        return helper.make_graph([made], name, [], [out])

    choose = helper.make_node(
        "If",
        ["large"],
        ["y"],
        name="choose",
        then_branch=branch("product", "MatMul", "w"),
        else_branch=branch("gate", "Sigmoid"),
    )
    weights = numpy_helper.from_array(np.ones((SIZE, SIZE), np.float32), "w")
    graph = helper.make_graph(
        [choose],
        "branches",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIZE, SIZE]),
            helper.make_tensor_value_info("large", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIZE, SIZE])],
        [weights],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def event(
    name: str, start: int, duration: int, *, kind: str = "", index: int = 0
) -> dict[str, Any]:
    facts = {"op_name": kind, "provider": "CPU", "node_index": str(index)} if kind else {}
    category = "Node" if kind else "Session"
    return {"cat": category, "name": name, "ts": start, "dur": duration, "args": facts}


def test_a_loop_is_given_what_its_body_leaves() -> None:
    trace = [
        event("session_initialization", 0, 50),
        event("body_kernel_time", 110, 30, kind="Add", index=7),
        event("body_kernel_time", 150, 20, kind="Add", index=7),
        event("loop_kernel_time", 105, 80, kind="Loop", index=1),
        event("_kernel_time", 190, 5, kind="Relu", index=2),
        event("model_run", 100, 100),
        event("model_run", 300, 10),
    ]
    first, second = read_trace(json.dumps(trace))
    assert {o.name: o.time_ms for o in first} == {"loop": 0.03, "body": 0.05, "Relu": 0.005}
    assert second == []


@pytest.mark.parametrize("text", ["", "[{}]", '[{"cat": "Node", "name": "model_run"}]', "3"])
def test_a_trace_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ModelError, match="trace cannot be read"):
        read_trace(text)


class Telling:
    """An engine that tells what it is told to tell."""

    told: tuple[list[OperatorTime], ...] = ()

    @staticmethod
    def profile(*_: Any) -> tuple[list[OperatorTime], ...]:
        return Telling.told


def operator(name: str, time_ms: float) -> OperatorTime:
    return OperatorTime(name=name, kind="Conv", time_ms=time_ms, device="CPU")


def test_medians_over_runs_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES, "get", lambda name: Telling)
    Telling.told = (
        [operator("a", 1.0), operator("twin", 3.0), operator("twin", 0.5)],
        [operator("a", 9.0), operator("twin", 4.0), operator("twin", 0.7)],
        [operator("a", 2.0), operator("twin", 5.0), operator("twin", 0.6), operator("rare", 7.0)],
    )
    found = profile_operators("any", Path("m"), {}, [{}], runs=3)
    assert [(o.name, o.time_ms) for o in found] == [
        ("twin", 4.0),
        ("a", 2.0),
        ("twin #2", 0.6),
        ("rare", 0.0),
    ]


def test_an_engine_without_a_profiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES, "get", lambda name: object)
    with pytest.raises(UnavailableError, match="tiny: this engine has no profiler"):
        profile_operators("tiny", Path("m"), {}, [{}], runs=1)


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(UsageError, match="found 0 and 5"):
        profile_operators("onnxruntime", Path("m"), {}, [], runs=5)


def test_the_npu_of_qualcomm_says_why_not() -> None:
    pytest.importorskip("onnxruntime_qnn")
    with pytest.raises(UnavailableError, match="counts cycles"):
        profile_operators("qnn", Path("m.onnx"), {}, [{}], runs=5)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    double = TensorRT("10.3.0", dla_cores=1)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda())
    return double


def plan(folder: Path) -> Path:
    place = folder / "engine.plan"
    place.write_bytes(MARK + write_model(folder / "model.onnx", batch=1).read_bytes())
    return place


def test_tensorrt_reports_the_layers_of_each_run(tmp_path: Path, trt: TensorRT) -> None:
    trt.layers = [
        {"Name": "conv1", "LayerType": "CaskConvolution"},
        {"Name": "tail", "LayerType": "DLA"},
    ]
    warm = [{"conv1": 50.0, "tail": 50.0, "copy": 50.0}] * PROFILE_WARM_UP_RUNS
    timed = [{"conv1": c, "tail": 0.5, "copy": 0.1} for c in (2.0, 1.0, 3.0)]
    trt.layer_ms = [*warm, *timed]
    found = profile_operators("tensorrt", plan(tmp_path), {}, [{"image": samples(1)}], runs=3)
    assert [(o.name, o.kind, o.time_ms, o.device) for o in found] == [
        ("conv1", "CaskConvolution", 2.0, "GPU"),
        ("tail", "DLA", 0.5, "DLA"),
        ("copy", "not told", 0.1, "GPU"),
    ]
    assert trt.layer_ms == []


def test_a_tensorrt_that_reports_nothing_says_so(tmp_path: Path, trt: TensorRT) -> None:
    with pytest.raises(UnavailableError, match="reports no layers"):
        profile_operators("tensorrt", plan(tmp_path), {}, [{"image": samples(1)}], runs=3)


def test_an_engine_that_lists_only_names_gives_no_kinds(tmp_path: Path, trt: TensorRT) -> None:
    names: Any = ["conv1"]
    trt.layers = names
    trt.layer_ms = [{"conv1": 1.0}] * (PROFILE_WARM_UP_RUNS + 1)
    (found,) = profile_operators("tensorrt", plan(tmp_path), {}, [{"image": samples(1)}], runs=1)
    assert (found.name, found.kind) == ("conv1", "not told")
