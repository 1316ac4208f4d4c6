"""The order of a build on 10.3, 10.13 and 11.4, against a double that records."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.tensorrt_double import MARK, TensorRT, layer
from contracts.tensorrt_graphs import write_float, write_qdq
from edgessl.errors import GateError, ModelError, TargetError, UnavailableError
from edgessl.progress import ProgressEvent, silent
from edgessl.runtime.tensorrt.build import BuiltEngine, build_engine
from edgessl.runtime.tensorrt.recipe import ImplicitQuantization, Recipe, ShapeRange

VERSIONS = ("10.3.0", "10.13.3.9", "11.4.0.106")
INT8 = Recipe(precision="int8", remainder="fp16", expected={"conv1": "int8", "conv2": "int8"})
FP16 = Recipe(precision="fp16", remainder="fp16", float32_nodes=("up", "down"))
FP32 = Recipe(precision="fp32", remainder="fp32")
Install = Callable[..., TensorRT]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def put(version: str, **facts: Any) -> TensorRT:
        double = TensorRT(version, **facts)
        monkeypatch.setitem(sys.modules, "tensorrt", double)
        return double

    return put


def build(folder: Path, recipe: Recipe, progress: Any = silent) -> BuiltEngine:
    quantized = recipe.precision == "int8"
    (write_qdq if quantized else write_float)(folder / recipe.model)
    if recipe.implicit:
        write_float(folder / recipe.implicit.model)
    place = folder / "cache" / "timing.cache"
    return build_engine(folder, recipe, timing_cache=place, progress=progress)


def test_10_3_gets_flags_and_pinned_layers(tmp_path: Path, install: Install) -> None:
    trt = install("10.3.0")
    built = build(tmp_path, INT8)
    assert built.plan.startswith(MARK)
    assert trt.recorded("create_network") == [0]
    assert trt.recorded("build") == [["FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"]]
    # Convolutions are fed by Q/DQ nodes, so their precision stays as these say.
    pinned = {name for name, _ in trt.recorded("precision")}
    assert not pinned & {"conv1", "conv2"}
    assert any("FP16, INT8" in remark for remark in built.remarks)


def test_10_3_pins_what_overflows_to_float32(tmp_path: Path, install: Install) -> None:
    trt = install("10.3.0")
    build(tmp_path, FP16)
    pinned = dict(trt.recorded("precision"))
    assert (pinned["up"], pinned["down"]) == ("FLOAT", "FLOAT")
    assert (pinned["conv1"], pinned["conv2"]) == ("HALF", "HALF")
    assert "flatten" not in pinned


@pytest.mark.parametrize(("version", "bit"), [("10.13.3.9", 1), ("11.4.0.106", 0)])
def test_later_ones_are_strongly_typed_and_get_no_flag(
    tmp_path: Path, install: Install, version: str, bit: int
) -> None:
    trt = install(version)
    built = build(tmp_path, INT8)
    assert trt.recorded("create_network") == [1 << bit]
    assert trt.recorded("build") == [["EDITABLE_TIMING_CACHE"]]
    assert trt.recorded("precision") == []
    assert built.remarks == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_float32_means_float32_and_not_tf32(tmp_path: Path, install: Install, version: str) -> None:
    trt = install(version)
    build(tmp_path, FP32)
    (flags,) = trt.recorded("build")
    assert set(flags) <= {"EDITABLE_TIMING_CACHE"}


@pytest.mark.parametrize("version", VERSIONS)
def test_limits_and_profiles(tmp_path: Path, install: Install, version: str) -> None:
    trt = install(version)
    sizes = ShapeRange(least=(1, 16), typical=(4, 16), most=(8, 16))
    recipe = FP32.model_copy(
        update={
            "workspace_mib": 64,
            "builder_optimization_level": 5,
            "profiles": ({"x": sizes},),
        }
    )
    build(tmp_path, recipe)
    assert trt.recorded("workspace") == [64 * 2**20]
    assert trt.recorded("builder_optimization_level") == [5]
    assert trt.recorded("set_shape") == [("x", (1, 16), (4, 16), (8, 16))]


DLA = INT8.model_copy(
    update={
        "dla_core": 1,
        "implicit": ImplicitQuantization(model="implicit.onnx", ranges={"x": 3.7, "b": 4.9}),
    }
)


def test_the_dla_of_10_3_gets_ranges_instead_of_nodes(tmp_path: Path, install: Install) -> None:
    trt = install("10.3.0", dla_cores=2)
    build(tmp_path, DLA)
    assert trt.recorded("parse") == ["implicit.onnx"]
    assert trt.recorded("create_network") == [0]
    assert sorted(trt.recorded("range")) == [("b", -4.9, 4.9), ("x", -3.7, 3.7)]
    assert trt.recorded("default_device_type") == [trt.DeviceType.DLA]
    assert trt.recorded("DLA_core") == [1]
    assert trt.recorded("build") == [["FP16", "GPU_FALLBACK", "INT8"]]
    assert trt.recorded("load") == [1]


def test_the_dla_of_11_gets_the_typed_graph(tmp_path: Path, install: Install) -> None:
    trt = install("11.4.1", dla_cores=2)
    build(tmp_path, DLA.model_copy(update={"gpu_fallback": False}))
    assert trt.recorded("parse") == ["model.onnx"]
    assert trt.recorded("parser_flag") == ["ADJUST_FOR_DLA"]
    assert trt.recorded("range") == []
    assert trt.recorded("build") == [["EDITABLE_TIMING_CACHE"]]


def test_no_dla_is_one_clear_error(tmp_path: Path, install: Install) -> None:
    trt = install("10.13.3.9")
    with pytest.raises(UnavailableError, match="Thor and Orin Nano"):
        build(tmp_path, DLA)
    assert trt.recorded("build") == []
    install("10.3.0", dla_cores=1)
    with pytest.raises(UnavailableError, match="--dla-core 0"):
        build(tmp_path, DLA)


def test_integers_for_a_dla_without_ranges_are_refused(tmp_path: Path, install: Install) -> None:
    install("10.3.0", dla_cores=2)
    with pytest.raises(TargetError, match="takes no Q/DQ nodes"):
        build(tmp_path, DLA.model_copy(update={"implicit": None}))


def test_what_the_parser_refuses_is_named(tmp_path: Path, install: Install) -> None:
    install("10.3.0").refuse = "parse"
    with pytest.raises(ModelError, match=r"node 'foo_7' \(Foo\): In function") as caught:
        build(tmp_path, FP32)
    assert "\n" not in str(caught.value)


def test_no_engine_gives_the_loggers_last_errors(tmp_path: Path, install: Install) -> None:
    install("11.4.0").refuse = "build"
    with pytest.raises(ModelError, match="Could not find any implementation") as caught:
        build(tmp_path, FP32)
    assert "\n" not in str(caught.value)


def test_phases_become_progress(tmp_path: Path, install: Install) -> None:
    install("10.3.0")
    events: list[ProgressEvent] = []
    build(tmp_path, FP32, events.append)
    steps = [(e.completed, e.total) for e in events if e.stage == "build: Timing"]
    assert steps == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (5, 5)]


def test_ctrl_c_ends_the_build_and_keeps_what_was_timed(tmp_path: Path, install: Install) -> None:
    trt = install("10.3.0")
    steps = []

    def press() -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            # The main thread wakes, asks the build to end, and waits for it.
            assert trt.monitor.cancelled.wait(timeout=30)

    trt.step = press
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, FP32)
    assert len(steps) == 2
    assert (tmp_path / "cache" / "timing.cache").read_text().split() == ["kernel0", "kernel1"]


def test_an_error_of_the_callback_comes_back(tmp_path: Path, install: Install) -> None:
    install("10.3.0")

    def fail(event: ProgressEvent) -> None:
        if event.completed == 2:
            raise RuntimeError("broken pipe")

    with pytest.raises(RuntimeError, match="broken pipe"):
        build(tmp_path, FP32, fail)


def test_the_timing_cache_is_kept_and_merged(tmp_path: Path, install: Install) -> None:
    install("10.3.0")
    place = tmp_path / "cache" / "timing.cache"
    place.parent.mkdir()
    place.write_text("known")
    trt = install("10.3.0")
    # Another finalize writes while this one builds.
    trt.step = lambda: place.write_text("known other")
    build(tmp_path, FP32)
    assert {"known", "other", "kernel0", "kernel4"} <= set(place.read_text().split())


def test_a_foreign_timing_cache_is_replaced(tmp_path: Path, install: Install) -> None:
    install("10.3.0")
    place = tmp_path / "cache" / "timing.cache"
    place.parent.mkdir()
    place.write_text("foreign")
    built = build(tmp_path, FP32)
    assert any("another device" in remark for remark in built.remarks)
    assert "kernel0" in place.read_text()


def test_an_unwritable_cache_is_a_warning(tmp_path: Path, install: Install) -> None:
    install("10.3.0")
    (tmp_path / "cache").write_text("a file where a folder should be")
    events: list[ProgressEvent] = []
    assert build(tmp_path, FP32, events.append).plan
    assert any(e.warning and "timing cache" in str(e.message) for e in events)


def test_the_engine_is_inspected(tmp_path: Path, install: Install) -> None:
    trt = install("10.3.0")
    trt.layers = [layer("conv1", "Int8"), layer("conv2", "Float")]
    built = build(tmp_path, INT8)
    assert built.inspection.mismatches == ("conv2: fp32 instead of int8",)
    with pytest.raises(GateError, match="conv2: fp32 instead of int8"):
        built.inspection.require_as_asked(dla=False, where="model.edge")
