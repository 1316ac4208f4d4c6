"""The portable build for TensorRT: types, integers, recipe; all of it run by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from contracts.compiling import target_of
from contracts.tensorrt_graphs import (
    images,
    write_branch,
    write_concat,
    write_float,
    write_large,
    write_qdq,
)
from edgessl.bundle.manifest import TensorSpec
from edgessl.compiler.backends import BACKENDS, BuildRequest, Built
from edgessl.compiler.backends.strong_typing import name_nodes, overflowing, to_float16
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import ModelError, TargetError, UsageError
from edgessl.runtime.session import open_session
from edgessl.runtime.tensorrt.recipe import Recipe, read_recipe
from edgessl.targets import CandidateSpec

FP16 = CandidateSpec(engine="tensorrt", precision="fp16")
FP32 = CandidateSpec(engine="tensorrt", precision="fp32")
INT8 = CandidateSpec(engine="tensorrt", precision="int8", scheme="tensorrt", remainder="fp16")
INT8_FP32 = CandidateSpec(engine="tensorrt", precision="int8", scheme="tensorrt")
DLA_INT8 = CandidateSpec(
    engine="tensorrt", precision="int8", scheme="tensorrt-dla", remainder="fp16"
)
NVIDIA = {"family": "nvidia", "arch": "aarch64"}
JETSON = {**NVIDIA, "nvidia": {"compute_capability": "8.7", "tensorrt": ["10.3", "11.4"]}}
DLA = {**NVIDIA, "nvidia": {"dla_core": 1, "tensorrt": ["10.3"]}}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("work") / "samples"
    stream = Stream(name="x", dtype="float32", shape=(16, 16, 16), batched=True)
    with SampleWriter(folder, (stream,), batch_size=1) as writer:
        writer.append({"x": images(8)})
    return Samples(folder)


class Bench:
    """Builds candidates; quantization gives a graph made by hand."""

    def __init__(self, folder: Path, samples: Samples, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._samples, self._patch = folder, samples, patch
        self.quantized = folder / "qdq.onnx"
        self._runs = 0

    def build(
        self, candidate: CandidateSpec, target: dict[str, Any], source: Path, **more: Any
    ) -> tuple[Built, Path]:
        self._runs += 1
        folder = self.folder / str(self._runs)
        folder.mkdir()
        versions = {"quantizer": "1.0"}
        self._patch.setattr(BuildRequest, "quantize", lambda request: (source, versions))
        first = onnx.load(source).graph.input[0].type.tensor_type.shape.dim[0]
        batch = first.dim_param or first.dim_value
        graph = GraphInfo(
            path=str(source),
            sha256="0" * 64,
            opset=17,
            inputs=(TensorSpec(name="x", dtype="float32", shape=(batch, 16, 16, 16)),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(batch, 32)),),
            batched_inputs=("x",),
            batch_size=1,
            attention=False,
            preprocessing=None,
            embedding_dim=32,
            lineage={},
        )
        request = BuildRequest(
            graph=graph,
            candidate=candidate,
            target=target_of(candidate, **target),
            here=False,
            calibration=str(self._samples.folder),
            folder=str(folder),
            threads=1,
            reduce_range=False,
            **more,
        )
        return BACKENDS.get("tensorrt").build(request), folder


@pytest.fixture
def bench(tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, samples, monkeypatch)


def run(model: onnx.ModelProto | Path, x: NDArray[np.float32], *watched: str) -> list[NDArray[Any]]:
    """Outputs, then watched tensors, as the graph says and without any rewriting."""
    model = onnx.load(model) if isinstance(model, Path) else model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = [o.name for o in copy.graph.output]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run([*outputs, *watched], {"x": x}))


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    infos = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    found = {info.name: info.type.tensor_type.elem_type for info in infos}
    return {**found, **{i.name: i.data_type for i in inferred.graph.initializer}}


def quantizing(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (n for n in model.graph.node if n.op_type.endswith("quantizeLinear"[1:]))


def check_strong_types(model: onnx.ModelProto) -> None:
    """A Q takes and a DQ gives the type of its scale, and no cast follows: so TensorRT wants it."""
    found = types(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert found[node.input[0]] == found[node.input[1]], node.name
        elif node.op_type == "DequantizeLinear":
            assert found[node.output[0]] == found[node.input[1]], node.name
        elif node.op_type == "Conv":
            floats = {found[name] for name in node.input}
            assert len(floats) == 1, node.name
            feeders = [makers[name].op_type for name in node.input[:2] if name in makers]
            quantized = [f for f in feeders if f == "DequantizeLinear"]
            assert not quantized or feeders == ["DequantizeLinear"] * 2, node.name


def test_int8_beside_float16_is_strongly_typed(bench: Bench) -> None:
    built, folder = bench.build(INT8, JETSON, write_qdq(bench.quantized))
    model = onnx.load(folder / built.model)
    onnx.checker.check_model(model, full_check=True)
    check_strong_types(model)
    found = types(model)
    assert (found["x"], found["y"]) == (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert {found[n.output[0]] for n in convolutions} == {onnx.TensorProto.FLOAT16}
    assert 9 <= model.ir_version <= 10
    assert model.opset_import[0].version == 19


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
@pytest.mark.parametrize("shared", [True, False])
def test_the_integers_are_those_of_the_float_graph(bench: Bench, opset: int, shared: bool) -> None:
    source = write_qdq(bench.quantized, opset=opset, shared_scale=shared)
    built, folder = bench.build(INT8, JETSON, source)
    names = ("w1_q", "w2_q", "x_q", "b_q")
    x = images(1, seed=8)
    ours, theirs = run(folder / built.model, x, *names), run(source, x, *names)
    for name, mine, other in zip(names, ours[1:], theirs[1:], strict=True):
        assert mine.dtype == other.dtype == np.int8
        difference = np.abs(mine.astype(int) - other.astype(int))
        if name.startswith("w"):
            assert difference.max() == 0, name
        else:  # float16 rounds the activation before it is quantized
            assert difference.max() <= 1, name
            assert (difference == 0).mean() > 0.97, name
    cosine = float(ours[0].ravel() @ theirs[0].ravel())
    cosine /= float(np.linalg.norm(ours[0]) * np.linalg.norm(theirs[0]))
    assert cosine > 0.9999


def test_int8_beside_float32_computes_exactly_the_same(bench: Bench) -> None:
    source = write_qdq(bench.quantized)
    built, folder = bench.build(INT8_FP32, JETSON, source)
    x = images(1, seed=8)
    for mine, other in zip(
        run(folder / built.model, x, "x_q", "b_q", "w1_q"),
        run(source, x, "x_q", "b_q", "w1_q"),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, other)


def test_a_scale_that_float16_does_not_hold_keeps_its_convolution_in_float32(
    bench: Bench,
) -> None:
    source = write_qdq(bench.quantized, tiny_channel=1e-3)
    built, folder = bench.build(INT8, JETSON, source)
    model = onnx.load(folder / built.model)
    check_strong_types(model)
    found = types(model)
    convolutions = {n.name: found[n.output[0]] for n in model.graph.node if n.op_type == "Conv"}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert convolutions == {"conv1": half, "conv2": single}
    recipe = read_recipe(folder / "recipe.json")
    assert "conv2" in recipe.float32_nodes
    # It still multiplies integers; only what comes out is float32.
    assert recipe.expected == {"conv1": "int8", "conv2": "int8"}
    x = images(1)
    ours, theirs = run(folder / built.model, x, "w2_q"), run(source, x, "w2_q")
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_a_dead_channel_does_not_divide_by_zero(bench: Bench) -> None:
    source = write_qdq(bench.quantized, dead_channel=True)
    built, folder = bench.build(INT8, JETSON, source)
    model = onnx.load(folder / built.model)
    scales = [n.input[1] for n in quantizing(model)]
    for initializer in model.graph.initializer:
        if initializer.name in scales:
            values = onnx.numpy_helper.to_array(initializer).astype(np.float32)
            assert (values >= 2.0**-14).all()
    (ours,), (theirs,) = run(model, images(1)), run(source, images(1))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    assert read_recipe(folder / "recipe.json").float32_nodes == ()


def test_operators_that_overflow_stay_in_float32(bench: Bench) -> None:
    source = write_float(bench.quantized, gain=1e5)
    built, folder = bench.build(FP16, JETSON, source)
    model = onnx.load(folder / built.model)
    recipe = read_recipe(folder / "recipe.json")
    assert set(recipe.float32_nodes) == {"up", "down"}
    assert recipe.expected == {"conv1": "fp16", "conv2": "fp16"}
    # Without a float16 hop in between, where the value would be infinite.
    makers = {name: node.name for node in model.graph.node for name in node.output}
    down = next(n for n in model.graph.node if n.name == "down")
    assert makers[down.input[0]] == "up"
    (ours,), (theirs,) = run(model, images(1)), run(source, images(1))
    np.testing.assert_allclose(ours, theirs, atol=0.01)


@pytest.mark.parametrize("large_output", [False, True])
def test_float32_nodes_share_a_cast_and_read_masks(bench: Bench, large_output: bool) -> None:
    source = write_large(bench.quantized, large_output=large_output)
    built, folder = bench.build(FP16, JETSON, source)
    model = onnx.load(folder / built.model)
    found, large = types(model), {"up", "masked", "difference", "sum"}
    assert large <= set(read_recipe(folder / "recipe.json").float32_nodes)
    for node in (n for n in model.graph.node if n.name in large):
        assert {found[name] for name in node.input} == {onnx.TensorProto.FLOAT}, node.name
    assert found["a"] == found["m"] == onnx.TensorProto.FLOAT16
    (ours,), (theirs,) = run(model, images(1)), run(source, images(1))
    assert (np.abs(theirs).max() > 65504) == large_output
    np.testing.assert_allclose(ours, theirs, atol=0.002 * float(np.abs(theirs).max()))


def test_without_that_it_would_overflow(bench: Bench, samples: Samples) -> None:
    model = onnx.load(write_float(bench.quantized, gain=1e5))
    assert overflowing(model, samples) == {"up", "down"}
    blind, _ = to_float16(model, keep_float32=())
    assert np.isinf(run(blind, images(1), "c")[1]).any()


def test_float32_is_shipped_as_it_is(bench: Bench) -> None:
    source = write_float(bench.quantized)
    built, folder = bench.build(FP32, JETSON, source)
    np.testing.assert_array_equal(run(folder / built.model, images(1)), run(source, images(1)))
    assert read_recipe(folder / "recipe.json").expected == {"conv1": "fp32", "conv2": "fp32"}


def test_what_the_bundle_says(bench: Bench) -> None:
    built, folder = bench.build(INT8, JETSON, write_qdq(bench.quantized))
    assert (built.kind, built.version, built.model) == ("portable", "10.3", "model.onnx")
    assert sorted(built.files) == sorted(p.name for p in folder.iterdir())
    (stand_in,) = built.stand_ins
    assert (stand_in.kind, stand_in.engine.name) == ("host", "onnxruntime")
    assert stand_in.model == built.model
    needs = built.requirements
    assert (needs.arch, needs.compute_capability) == ("aarch64", "8.7")
    assert (needs.engine_min_version, needs.dla) == ("10.3", False)
    recipe = read_recipe(folder / "recipe.json")
    assert (recipe.precision, recipe.remainder) == ("int8", "fp16")
    assert recipe.expected == {"conv1": "int8", "conv2": "int8"}


def test_the_commands_for_trtexec(bench: Bench) -> None:
    _, folder = bench.build(INT8, JETSON, write_qdq(bench.quantized))
    lines = read_recipe(folder / "recipe.json").trtexec
    assert lines["10.3"].split()[:2] == ["trtexec", "--onnx=model.onnx"]
    assert {"--fp16", "--int8", "--memPoolSize=workspace:1024M"} <= set(lines["10.3"].split())
    # trtexec 11 refuses flags of precision.
    assert "--stronglyTyped" in lines["11"]
    assert not {"--fp16", "--int8", "--best"} & set(lines["11"].split())


def test_the_same_request_gives_the_same_bytes(bench: Bench) -> None:
    source = write_qdq(bench.quantized)
    (built, first), (again, second) = (bench.build(INT8, JETSON, source) for _ in range(2))
    assert built == again
    for name in built.files:
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert str(bench.folder).encode() not in (first / name).read_bytes()


def test_a_dla_gets_the_same_integers_as_ranges_too(bench: Bench) -> None:
    source = write_qdq(bench.quantized)
    built, folder = bench.build(DLA_INT8, DLA, source)
    assert built.options == {"dla_core": 1}
    assert built.requirements.dla
    recipe = read_recipe(folder / "recipe.json")
    assert recipe.dla_core == 1
    assert "--useDLACore=1 --allowGPUFallback" in recipe.trtexec["11"]
    assert "10.3" not in recipe.trtexec  # trtexec takes no ranges
    assert recipe.implicit is not None
    assert recipe.implicit.ranges == pytest.approx({"x": 3.7, "b": 4.9}, rel=1e-5)
    plain = onnx.load(folder / recipe.implicit.model)
    assert not list(quantizing(plain))
    (ours,), (theirs,) = run(plain, images(1)), run(source, images(1))
    np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_a_dla_has_no_float32(bench: Bench) -> None:
    for candidate in (FP32, INT8_FP32):
        with pytest.raises(TargetError, match="DLA computes in fp16 and int8 only"):
            bench.build(candidate, DLA, write_qdq(bench.quantized))


@pytest.mark.parametrize("precision", ["bf16", "w4"])
def test_other_precisions_are_refused(bench: Bench, precision: str) -> None:
    scheme = "weight-only" if precision == "w4" else None
    values = {"engine": "tensorrt", "precision": precision, "scheme": scheme}
    with pytest.raises(TargetError, match="choose fp32, fp16, int8"):
        bench.build(CandidateSpec.model_validate(values), JETSON, write_float(bench.quantized))


def test_free_sizes_get_a_profile(bench: Bench) -> None:
    source = write_float(bench.quantized, batch="batch")
    _, folder = bench.build(FP16, JETSON, source)
    (profile,) = read_recipe(folder / "recipe.json").profiles
    assert profile["x"].least == profile["x"].most == (1, 16, 16, 16)
    asked = {"tensorrt_profile": "x=1x16x16x16:4x16x16x16:8x16x16x16"}
    _, folder = bench.build(FP16, JETSON, source, settings=asked)
    recipe = read_recipe(folder / "recipe.json")
    assert recipe.profiles[0]["x"].most[0] == 8
    assert "--optShapes=x:4x16x16x16" in recipe.trtexec["10.3"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("x=1x16", "LEAST:TYPICAL:MOST"),
        ("x=2x16x16x16:1x16x16x16:3x16x16x16", "at least as large"),
        ("z=1:1:1", "no input 'z'"),
        ("x=1x8x16x16:1x8x16x16:1x8x16x16", "each fixed size"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(bench: Bench, text: str, word: str) -> None:
    source = write_float(bench.quantized, batch="batch")
    with pytest.raises(UsageError, match=word):
        bench.build(FP16, JETSON, source, settings={"tensorrt_profile": text})


def test_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    model = onnx.load(write_float(tmp_path / "m.onnx"))
    for node in model.graph.node:
        node.name = "same" if node.op_type == "Conv" else ""
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_the_recipe_is_a_schema(bench: Bench) -> None:
    _, folder = bench.build(INT8, JETSON, write_qdq(bench.quantized))
    text = (folder / "recipe.json").read_text()
    assert Recipe.model_validate(json.loads(text)).to_json() == text


def test_the_stand_in_runs_what_onnxruntime_would_fuse_wrongly(bench: Bench) -> None:
    source = write_concat(bench.quantized)
    built, folder = bench.build(INT8, JETSON, source)
    (stand_in,) = built.stand_ins
    with open_session("onnxruntime", folder / stand_in.model, stand_in.engine.options) as session:
        found = session.run({"x": images(1)})["y"]
    np.testing.assert_allclose(found, run(source, images(1))[0], atol=2e-3)
    # onnxruntime makes a QLinearConcat of it, which takes no float16 scale.
    with pytest.raises(ModelError, match="float16"):
        open_session("onnxruntime", folder / stand_in.model, {"threads": 1})


def test_branches_find_the_converted_input(bench: Bench) -> None:
    source = write_branch(bench.quantized)
    built, folder = bench.build(FP16, JETSON, source)
    ours, theirs = run(folder / built.model, images(1))[0], run(source, images(1))[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
