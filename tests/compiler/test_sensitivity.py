"""The ranking of layers by what their integers do to the outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contracts.compiling import target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop, sqnr_db
from edgessl.compiler.backends import BuildRequest
from edgessl.compiler.sensitivity import compare_layers, rank_layers
from edgessl.errors import TargetError
from edgessl.targets import CandidateSpec


def _ruin(path: Path) -> Path:
    """Give one input channel of conv2 weights of another order of magnitude, per-tensor poison."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            values = numpy_helper.to_array(tensor).copy()
            values[0] *= 3000
            tensor.CopyFrom(numpy_helper.from_array(values, "w2"))
        if tensor.name == "w3":
            values = numpy_helper.to_array(tensor).copy()
            values[:, 0] /= 3000
            tensor.CopyFrom(numpy_helper.from_array(values, "w3"))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("sensitivity")
    path = _ruin(write_cnn(folder / "cnn.onnx"))
    return Workshop.of(path, {"images": cnn_inputs(12)}, folder)


def _request(workshop: Workshop, folder: Path, spec: CandidateSpec, **changes: Any) -> BuildRequest:
    folder.mkdir(exist_ok=True)
    return BuildRequest(
        graph=workshop.graph,
        candidate=spec,
        target=target_of(spec, quantization={"per_channel": False}),
        here=True,
        calibration=str(workshop.samples.folder),
        folder=str(folder),
        threads=1,
        reduce_range=False,
        **changes,
    )


SCHEMES = [
    ("onnxruntime", "u8s8"),
    ("onnxruntime", "s8s8"),
    ("tensorrt", "tensorrt"),
    ("tensorrt", "tensorrt-dla"),
    ("qnn", "qnn"),
    ("openvino", "nncf"),
]


class TestRanking:
    @pytest.mark.parametrize(("engine", "scheme"), SCHEMES)
    def test_the_ruined_layer_comes_first_and_its_name_is_accepted(
        self, workshop: Workshop, tmp_path: Path, engine: str, scheme: str
    ) -> None:
        spec = CandidateSpec(engine=engine, precision="int8", scheme=scheme)  # type: ignore[arg-type]
        layers = rank_layers(_request(workshop, tmp_path / "rank", spec))
        errors = [layer.error for layer in layers]
        assert errors == sorted(errors, reverse=True)
        assert json.loads(json.dumps([layer.model_dump() for layer in layers]))
        # The scales of conv2 and of what reads its output are ruled by one channel.
        assert layers[0].node in ("conv2", "pool", "relu2", "head")
        kept = _request(workshop, tmp_path / "kept", spec, keep_float=(layers[0].node,))
        path, _ = kept.quantize()
        assert path.is_file()

    def test_an_error_is_what_the_layer_alone_does(self, workshop: Workshop) -> None:
        quantized = workshop.quantize("tensorrt", per_channel=False)
        float_graph = quantized.with_name("float.onnx")
        layers = compare_layers(float_graph, quantized, workshop.samples, count=12)
        graph = workshop.graph
        # Pooling has integers only behind a convolution that has them.
        for layer in [layer for layer in layers if layer.node.startswith("conv")]:
            others = tuple(other.node for other in layers if other.node != layer.node)
            alone = workshop.quantize("tensorrt", per_channel=False, keep_float=others)
            expected = workshop.run(Path(graph.path))
            noise_db = -sqnr_db(expected, workshop.run(alone))
            measured = 10 * np.log10(layer.error)
            assert measured == pytest.approx(noise_db, abs=3), layer.node

    def test_putting_the_first_back_helps_more_than_the_last(self, workshop: Workshop) -> None:
        quantized = workshop.quantize("u8s8", per_channel=False)
        layers = compare_layers(
            quantized.with_name("float.onnx"), quantized, workshop.samples, count=12
        )
        first, last = (
            workshop.fidelity_db(
                workshop.quantize("u8s8", per_channel=False, keep_float=(layers[k].node,))
            )
            for k in (0, -1)
        )
        assert first > last

    def test_layers_kept_in_float_are_not_ranked(self, workshop: Workshop, tmp_path: Path) -> None:
        spec = CandidateSpec(engine="onnxruntime", precision="int8", scheme="u8s8")
        layers = rank_layers(_request(workshop, tmp_path / "a", spec, keep_float=("conv1",)))
        assert "conv1" not in {layer.node for layer in layers}

    def test_weight_only_has_nothing_to_rank(self, workshop: Workshop, tmp_path: Path) -> None:
        spec = CandidateSpec(engine="openvino", precision="w8", scheme="weight-only")
        with pytest.raises(TargetError, match="no layers to rank"):
            rank_layers(_request(workshop, tmp_path / "a", spec))

    def test_same_answer_twice(self, workshop: Workshop) -> None:
        quantized = workshop.quantize("u8s8")
        graph = quantized.with_name("float.onnx")
        first, second = (compare_layers(graph, quantized, workshop.samples) for _ in range(2))
        assert first == second
