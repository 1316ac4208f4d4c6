"""Files that nobody vouches for: each kind of damage is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl import onnx_metadata
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import load_graph, prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.rewrites import RewriteRemark
from edgessl.compiler.rewrites.pipeline import apply_rewrite
from edgessl.compiler.samples import Samples
from edgessl.errors import ModelError
from edgessl.preprocessing import ImageInput
from edgessl.progress import silent


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(model: Path, share: float) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match="export") as caught:
        load_graph(model)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)
    with pytest.raises(ModelError, match=r"not a readable ONNX file|holds no ONNX graph"):
        load_graph(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_graph(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="no such file"):
        load_graph(tmp_path)


def test_an_unconnected_graph_is_refused(model: Path) -> None:
    loaded = onnx.load(model)
    loaded.graph.node[1].input[0] = "nowhere"
    onnx.save(loaded, model)
    with pytest.raises(ModelError, match="not a valid ONNX graph"):
        load_graph(model)


def test_a_file_above_the_limit_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgessl.compiler.graph.MAX_MODEL_BYTES", 1000)
    with pytest.raises(ModelError, match="limit"):
        load_graph(model)


def test_an_unknown_domain_is_named(model: Path) -> None:
    loaded = onnx.load(model)
    loaded.graph.node[1].domain = "com.example"
    loaded.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(loaded, model)
    with pytest.raises(ModelError, match=r"Relu is of the domain 'com\.example'"):
        load_graph(model)


def test_superres_names_its_domain(shared: Path) -> None:
    path = shared / "models/superres/superresolution_prepost_op18.onnx"
    if not path.is_file():
        pytest.skip("the superres model is not on this machine")
    with pytest.raises(ModelError, match=r"DecodeImage.*com\.microsoft\.extensions"):
        load_graph(path)


class TestExternalData:
    @pytest.fixture
    def split(self, model: Path) -> Path:
        loaded = onnx.load(model)
        onnx.save(loaded, model, save_as_external_data=True, location="w.bin", size_threshold=0)
        return model

    def test_beside_the_model_is_loaded(self, split: Path) -> None:
        weight = load_graph(split).graph.initializer[0]
        assert numpy_helper.to_array(weight).shape == (16, 3, 3, 3)

    @pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin"])
    def test_outside_its_folder_is_refused(self, split: Path, location: str) -> None:
        self._relocate(split, location)
        with pytest.raises(ModelError, match="outside the model's folder"):
            load_graph(split)

    def test_through_a_link_is_refused(self, split: Path, tmp_path: Path) -> None:
        outside = tmp_path / "elsewhere"
        outside.mkdir()
        folder = tmp_path / "models"
        folder.mkdir()
        (split.parent / "w.bin").rename(outside / "w.bin")
        moved = split.rename(folder / "cnn.onnx")
        (folder / "w.bin").symlink_to(outside / "w.bin")
        with pytest.raises(ModelError, match="outside the model's folder"):
            load_graph(moved)

    def test_missing_or_short_is_refused(self, split: Path) -> None:
        data = split.parent / "w.bin"
        data.write_bytes(data.read_bytes()[:100])
        with pytest.raises(ModelError, match="external data"):
            load_graph(split)
        data.unlink()
        with pytest.raises(ModelError, match="no such file"):
            load_graph(split)

    def _relocate(self, path: Path, location: str) -> None:
        loaded = onnx.load(path, load_external_data=False)
        for tensor in loaded.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(loaded.SerializeToString())


class TestPrepare:
    @pytest.mark.parametrize("batch", ["batch", 4])
    def test_fixes_the_batch(self, tmp_path: Path, batch: int | str) -> None:
        path = write_cnn(tmp_path / "cnn.onnx", batch=batch)
        info = prepare_graph(path, tmp_path / "out.onnx", batch_size=4)
        assert info.inputs[0].shape == (4, 3, 16, 16)
        assert info.outputs[0].shape == (4, 8)
        assert info.batched_inputs == ("images",)
        assert info.sample_shape(info.inputs[0]) == (3, 16, 16)

    def test_another_fixed_batch_is_refused(self, tmp_path: Path) -> None:
        path = write_cnn(tmp_path / "cnn.onnx", batch=4)
        with pytest.raises(ModelError, match="batches of 4, asked for 1"):
            prepare_graph(path, tmp_path / "out.onnx", batch_size=1)

    def test_reads_what_the_model_says_about_itself(self, tmp_path: Path) -> None:
        spec = ImageInput(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        facts = onnx_metadata.ModelFacts(spec, 8, {"run": "abc"}, "0.1.0")
        path = write_cnn(tmp_path / "cnn.onnx", properties=onnx_metadata.encode(facts))
        info = prepare_graph(path, tmp_path / "out.onnx", batch_size=1)
        assert (info.preprocessing, info.embedding_dim) == (spec, 8)
        assert info.lineage == {"run": "abc"}

    def test_state_and_scalar_inputs_are_no_batches(self, tmp_path: Path) -> None:
        path = _stateful(tmp_path / "state.onnx")
        info = prepare_graph(path, tmp_path / "out.onnx", batch_size=1)
        assert info.batched_inputs == ("x",)
        assert [s.shape for s in info.inputs] == [(1, 4), (2, 1, 4), ()]
        with pytest.raises(ModelError, match="batch of 1"):
            prepare_graph(path, tmp_path / "out.onnx", batch_size=2)

    def test_initializers_are_no_inputs(self, model: Path, tmp_path: Path) -> None:
        loaded = onnx.load(model)
        value = helper.make_tensor_value_info("w1", TensorProto.FLOAT, [16, 3, 3, 3])
        loaded.graph.input.append(value)
        onnx.save(loaded, model)
        info = prepare_graph(model, tmp_path / "out.onnx", batch_size=1)
        assert [s.name for s in info.inputs] == ["images"]


class TestSimplify:
    @pytest.fixture
    def prepared(self, tmp_path: Path) -> tuple[GraphInfo, Samples]:
        path = write_cnn(tmp_path / "cnn.onnx")
        loaded = onnx.load(path)
        loaded.graph.node[-1].output[0] = "y"
        loaded.graph.node.append(helper.make_node("Identity", ["y"], ["embeddings"]))
        onnx.save(loaded, path)
        info = prepare_graph(path, tmp_path / "prepared.onnx", batch_size=1)
        inputs = ArrayCalibration({"images": cnn_inputs(16)})
        samples = store(inputs, np.arange(16), info, tmp_path / "samples", progress=silent)
        return info, samples

    def test_removes_nodes(self, prepared: tuple[GraphInfo, Samples], tmp_path: Path) -> None:
        info, samples = prepared
        kept, remark = _slim(info, tmp_path, samples)
        assert (remark.outcome, kept.path) == ("applied", str(tmp_path / "slim.onnx"))
        assert len(onnx.load(tmp_path / "slim.onnx").graph.node) < 8

    def test_a_wrong_result_is_not_kept(
        self,
        prepared: tuple[GraphInfo, Samples],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def wrong(model: Any) -> Any:
            del model.graph.node[-1]
            model.graph.node[-1].output[0] = "embeddings"
            weight = model.graph.initializer[0]
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, "w1"))
            return model

        monkeypatch.setattr(onnxslim, "slim", wrong)
        info, samples = prepared
        kept, remark = _slim(info, tmp_path, samples)
        assert (remark.outcome, kept) == ("broke", info)
        assert "outputs differ" in remark.reason
        assert not (tmp_path / "slim.onnx").exists()

    def test_a_failure_is_a_remark(
        self,
        prepared: tuple[GraphInfo, Samples],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(model: Any) -> Any:
            raise KeyError("boom")

        monkeypatch.setattr(onnxslim, "slim", fail)
        info, samples = prepared
        kept, remark = _slim(info, tmp_path, samples)
        assert (remark.outcome, kept) == ("failed", info)
        assert "boom" in remark.reason


def _slim(info: GraphInfo, folder: Path, samples: Samples) -> tuple[GraphInfo, RewriteRemark]:
    out = folder / "slim.onnx"
    return apply_rewrite("onnxslim", info, Path(info.path), out, samples.folder)


def _stateful(path: Path) -> Path:
    nodes = [
        helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "r"], ["y"]),
        helper.make_node("Add", ["state", "y"], ["next_state"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stateful",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "n", 4]),
            helper.make_tensor_value_info("rate", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, [2, "n", 4]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path
