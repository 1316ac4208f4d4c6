"""What a target takes, by engines that are here and documented limits of those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from contracts.compiling import ONNX_FP32, OPENVINO_FP32, target_of
from contracts.small_graphs import node, write_graph
from edgessl.cli.main import main
from edgessl.compiler.check import CheckGateError, CheckReport, EngineReport, check_model
from edgessl.compiler.check.inventory import Inventory, shape_problems
from edgessl.compiler.check.operation import write_made_up_samples
from edgessl.compiler.check.request import CHECKERS, CheckRequest
from edgessl.compiler.check.tensorrt import operator_types
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.shapes import Shapes
from edgessl.errors import ModelError
from edgessl.optional import is_available
from edgessl.targets import Target, load_target

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape, dtype=np.float32)


def placed(path: Path, target: str | Target, engine: str, shapes: Shapes | None = None) -> Any:
    """One engine's report, in this process."""
    folder = path.parent / f"check-{engine}"
    folder.mkdir()
    graph = prepare_graph(path, folder / "prepared.onnx", batch_size=1, shapes=shapes)
    device = target if isinstance(target, Target) else load_target(target)
    request = CheckRequest(
        graph=graph,
        target=device,
        engine=engine,
        samples=str(write_made_up_samples(graph, folder / "samples").folder),
        folder=str(folder),
    )
    return CHECKERS.get(engine).check(request)


def problems_of(report: EngineReport) -> dict[str, str]:
    return {n.name: n.problem for n in report.nodes if n.problem}


class TestEnginesThatAnswer:
    def test_onnxruntime_and_openvino_take_a_network(self, model: Path) -> None:
        report = check_model(model, target=target_of(ONNX_FP32, OPENVINO_FP32))
        assert report.verdict == "fits"
        assert [e.engine for e in report.engines] == ["onnxruntime", "openvino"]
        for engine in report.engines:
            assert engine.asked
            assert {n.placed_on for n in engine.nodes} == {"CPU"}
            assert engine.partitions == 1
        assert report.weights_bytes == 4 * (16 * 3 * 9 + 32 * 16 * 9 + 8 * 32)
        assert CheckReport.model_validate_json(report.model_dump_json()) == report

    def test_an_operator_of_no_engine_is_named(self, tmp_path: Path) -> None:
        nodes = [node("Relu", ["x"], ["a"]), node("FancyOp", ["a"], ["y"], domain="com.microsoft")]
        path = write_graph(
            tmp_path / "m.onnx", nodes, out_shape=(1, 4, 8, 8), domains=["com.microsoft"]
        )
        with pytest.raises(CheckGateError, match="FancyOp#1") as caught:
            check_model(path, target=target_of(ONNX_FP32, OPENVINO_FP32))
        assert caught.value.exit_code == 1
        assert "\n" not in str(caught.value)
        for engine in caught.value.report.engines:
            assert not engine.runs
            assert list(problems_of(engine)) == ["FancyOp#1"]

    def test_one_engine_that_takes_all_is_enough(self, tmp_path: Path) -> None:
        # onnxruntime has it, OpenVINO's converter has not.
        nodes = [node("Relu", ["x"], ["a"]), node("Bernoulli", ["a"], ["y"], name="draw")]
        path = write_graph(tmp_path / "m.onnx", nodes, out_shape=(1, 4, 8, 8))
        report = check_model(path, target=target_of(OPENVINO_FP32, ONNX_FP32), as_is=True)
        assert report.verdict == "fits"
        assert report.best.engine == "onnxruntime"
        assert list(problems_of(report.engines[0])) == ["draw"]

    def test_openvino_says_when_another_plugin_answered(self, model: Path) -> None:
        report = placed(model, "npu-intel-4000", "openvino")
        assert not report.asked
        assert "no NPU" in report.evidence
        assert {n.placed_on for n in report.nodes} == {"NPU"}
        assert report.nodes[0].precisions == ("int8", "fp16")

    def test_data_dependent_sizes_are_nothing_for_an_intel_npu(self, tmp_path: Path) -> None:
        nodes = [
            node("NonZero", ["x"], ["n"], name="find"),
            node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
        ]
        path = write_graph(tmp_path / "m.onnx", nodes, out_shape=(4, "n"))
        assert "static shapes" in problems_of(placed(path, "npu-intel-4000", "openvino"))["find"]

    def test_a_model_that_is_damaged_is_an_error(self, model: Path) -> None:
        model.write_bytes(model.read_bytes()[:200])
        with pytest.raises(ModelError, match="export or copy it again"):
            check_model(model, target="host")

    def test_superres_names_its_operator(self, shared: Path) -> None:
        path = shared / "models/superres/superresolution_prepost_op18.onnx"
        if not path.is_file():
            pytest.skip("the superres model is not on this machine")
        with pytest.raises(ModelError, match=r"DecodeImage.*com\.microsoft\.extensions"):
            check_model(path, target="host")


class TestFrozenInputs:
    def test_silero_has_no_condition_left(self, shared: Path, tmp_path: Path) -> None:
        path = shared / "models/silero-vad/silero_vad_op18_ifless.onnx"
        if not path.is_file():
            pytest.skip("silero is not on this machine")
        report = check_model(
            path,
            target="npu-intel-4000",
            shapes={"input": (1, 576)},
            frozen={"sr": 16_000},
        )
        assert report.verdict == "fits"
        assert [spec.name for spec in report.inputs] == ["input", "state"]
        assert "If" not in {n.op_type for n in report.best.nodes}


@pytest.mark.skipif(not is_available("onnxruntime_qnn"), reason="onnxruntime-qnn is not installed")
class TestQualcomm:
    def test_as_strided_aborts_as_it_is_and_runs_rewritten(self, tmp_path: Path) -> None:
        path = write_strided_head(tmp_path / "m.onnx")
        with pytest.raises(CheckGateError, match="as_strided") as caught:
            check_model(path, target="npu-qualcomm-8gen3", as_is=True)
        assert "strided (Gather)" in str(caught.value)
        report = check_model(path, target="npu-qualcomm-8gen3")
        assert report.verdict == "fits"
        assert "as-strided" in [r.name for r in report.rewrites if r.outcome == "applied"]
        assert {n.precisions for n in report.engines[0].nodes} == {("int8", "a16w8")}

    def test_a_node_that_the_npu_refuses_is_named(self, tmp_path: Path) -> None:
        nodes = [
            node("Conv", ["x", "w"], ["c"], name="conv"),
            node("Det", ["c"], ["y"], name="determinant"),
        ]
        path = write_graph(tmp_path / "m.onnx", nodes, constants={"w": normal(4, 4, 1, 1)})
        with pytest.raises(CheckGateError, match="determinant") as caught:
            check_model(path, target="npu-qualcomm-8gen3")
        (engine,) = caught.value.report.engines
        assert [n.name for n in engine.nodes if n.fallback] == ["determinant"]
        assert engine.nodes[0].placed_on == "NPU"

    def test_dynamic_shapes_are_refused_with_the_flag_that_fixes_them(self, tmp_path: Path) -> None:
        path = write_graph(
            tmp_path / "m.onnx",
            [node("Conv", ["x", "w"], ["y"])],
            shape=(1, 4, "h", 8),
            constants={"w": normal(4, 4, 1, 1)},
        )
        with pytest.raises(CheckGateError, match=r"static shapes.*--shape x=1x4xNx8"):
            check_model(path, target="npu-qualcomm-8gen3")
        report = check_model(path, target="npu-qualcomm-8gen3", shapes={"x": (1, 4, 8, 8)})
        assert report.verdict == "fits"


class TestTensorRT:
    def test_takes_a_network_and_says_that_a_table_answered(self, model: Path) -> None:
        report = placed(model, "jetson-orin-nano", "tensorrt")
        assert report.runs
        assert not report.asked
        assert "operators.md" in report.evidence
        assert report.nodes[0].precisions == ("int8", "fp16")

    @pytest.mark.parametrize(
        ("made", "reason"),
        [
            (node("Unique", ["x"], ["y"], name="bad"), "has no Unique"),
            (node("MaxPool", ["x"], ["y", "i"], name="bad", kernel_shape=[2, 2]), "first output"),
            (
                node("MaxPool", ["x"], ["y"], name="bad", kernel_shape=[2, 2], dilations=[2, 2]),
                "dilations",
            ),
            (
                node("Resize", ["x", "", "s"], ["y"], name="bad", mode="cubic"),
                "nearest and linear",
            ),
            (node("Gelu", ["x"], ["y"], name="bad", domain="com.microsoft"), "plugin"),
        ],
    )
    def test_names_what_the_parser_does_not_take(
        self, tmp_path: Path, made: onnx.NodeProto, reason: str
    ) -> None:
        path = write_graph(
            tmp_path / "m.onnx",
            [made],
            constants={"s": np.array([1, 1, 2, 2], np.float32)},
            out_shape=(None,) * (1 if made.op_type == "Unique" else 4),
            domains=["com.microsoft"],
        )
        report = placed(path, "jetson-orin-nano", "tensorrt")
        assert not report.runs
        assert reason in problems_of(report)["bad"]
        assert report.nodes[0].placed_on == ""

    def test_bodies_are_read(self, tmp_path: Path) -> None:
        out = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
        bodies = [
            helper.make_graph([node(kind, ["x"], ["r"])], kind, [], out)
            for kind in ("Relu", "Bernoulli")
        ]
        made = node("If", ["c"], ["y"], name="if", then_branch=bodies[0], else_branch=bodies[1])
        path = write_graph(
            tmp_path / "m.onnx", [made], constants={"c": np.array(True)}, out_shape=(1, 4, 8, 8)
        )
        assert "Bernoulli" in problems_of(placed(path, "nvidia-gpu", "tensorrt"))["if"]

    def test_an_opset_that_is_too_new_is_a_problem(self, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], opset=25)
        assert "opset 25" in placed(path, "nvidia-gpu", "tensorrt").problems[0]

    def test_float64_is_named(self, tmp_path: Path) -> None:
        path = write_graph(
            tmp_path / "m.onnx", [node("Exp", ["x"], ["y"], name="e")], dtype=TensorProto.DOUBLE
        )
        assert "float32" in problems_of(placed(path, "nvidia-gpu", "tensorrt"))["e"]
        found = shape_problems(Inventory(path), load_target("nvidia-gpu"))
        assert "float64, the first is e" in found[0]

    def test_the_table_knows_what_onnx_knows(self) -> None:
        known = {schema.name for schema in onnx.defs.get_all_schemas()}
        extensions = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
        assert set(operator_types()) - known == extensions


class TestDLA:
    target = "jetson-agx-orin-dla"

    @pytest.mark.parametrize(
        ("kernel", "attributes", "taken"),
        [
            ((3, 3), {}, True),
            ((32, 1), {"pads": [31, 0, 0, 0]}, True),
            ((33, 1), {"pads": [31, 0, 31, 0]}, False),
            ((3, 3), {"strides": [8, 8]}, True),
            ((3, 3), {"strides": [9, 1]}, False),
            ((1, 1), {"pads": [32, 0, 0, 0]}, False),
        ],
    )
    def test_limits_of_a_convolution(
        self, tmp_path: Path, kernel: tuple[int, int], attributes: dict[str, Any], taken: bool
    ) -> None:
        path = write_graph(
            tmp_path / "m.onnx",
            [node("Conv", ["x", "w"], ["y"], name="conv", **attributes)],
            shape=(1, 4, 16, 16),
            constants={"w": normal(4, 4, *kernel)},
        )
        report = placed(path, self.target, "tensorrt")
        assert report.nodes[0].placed_on == ("DLA" if taken else "GPU")
        assert report.runs

    def test_what_it_has_not_falls_back_by_name(self, tmp_path: Path) -> None:
        nodes = [
            node("Conv", ["x", "w"], ["a"], name="conv1"),
            node("HardSwish", ["a"], ["b"], name="act"),
            node("Conv", ["b", "w"], ["c"], name="conv2"),
            node("Flatten", ["c"], ["d"], name="flat"),
            node("Gemm", ["d", "g"], ["y"], name="head"),
        ]
        constants = {"w": normal(4, 4, 1, 1), "g": normal(256, 3)}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        report = placed(path, self.target, "tensorrt")
        assert [n.name for n in report.nodes if n.fallback] == ["act", "flat", "head"]
        assert "1×1 Conv" in problems_of(report)["head"]
        assert report.partitions == 4

    def test_broadcasting(self, tmp_path: Path) -> None:
        nodes = [
            node("Mul", ["x", "channel"], ["a"], name="channel"),
            node("Mul", ["a", "one"], ["b"], name="one"),
            node("ReduceMax", ["b", "axes"], ["m"], name="max"),
            node("Mul", ["b", "m"], ["y"], name="row"),
        ]
        constants = {"channel": normal(4, 1, 1), "one": normal(1), "axes": np.array([3])}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        assert list(problems_of(placed(path, self.target, "tensorrt"))) == ["row"]

    def test_dynamic_shapes_are_refused(self, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], shape=(1, 4, "h", 8))
        assert "static shapes" in shape_problems(Inventory(path), load_target(self.target))[0]


class TestSizes:
    def test_activations_are_those_that_live_at_once(self, tmp_path: Path) -> None:
        nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
        path = write_graph(tmp_path / "m.onnx", nodes)
        assert Inventory(path).activations_bytes() == 2 * 4 * 256
        nodes[2] = node("Add", ["x", "b"], ["y"])
        assert Inventory(write_graph(path, nodes)).activations_bytes() == 3 * 4 * 256

    def test_a_model_larger_than_the_memory_is_named(self, model: Path) -> None:
        small = {"memory_bytes": {"value": 1000}}
        target = target_of(ONNX_FP32, hardware=small)
        assert "take a smaller model" in shape_problems(Inventory(model), target)[0]
        assert shape_problems(Inventory(model), target_of(ONNX_FP32)) == ()


class TestCommand:
    @pytest.fixture
    def swish(self, tmp_path: Path) -> Path:
        nodes = [node("HardSwish", ["x"], ["a"], name="act"), node("Relu", ["a"], ["y"])]
        return write_graph(tmp_path / "m.onnx", nodes)

    def test_prints_a_table_and_a_verdict(
        self, swish: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["check", str(swish), "--target", "jetson-agx-orin-dla"]
        assert main([*words, "--max-fallback", "1"]) == 0
        said = capsys.readouterr()
        assert "the DLA has no HardSwish" in said.out
        assert "1 of 2 nodes run on the DLA" in said.out
        assert main([*words, "--max-fallback", "0", "--json"]) == 1
        said = capsys.readouterr()
        report = json.loads(said.out)
        assert report["engines"][0]["nodes"][0]["name"] == "act"
        assert report["verdict"] == "fallback"
        assert said.err.splitlines()[-1].startswith("error: 1 nodes do not run on the DLA")

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["--shape", "x=1x4"], "has 4 dimensions"),
            (["--shape", "x"], "not a shape"),
            (["--shape", "z=1"], "no input 'z'"),
            (["--batch", "2"], "batches of 1, asked for 2"),
        ],
    )
    def test_mistakes_are_one_line(
        self, swish: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["check", str(swish), "--target", "host", *words]) == 2
        assert reason in capsys.readouterr().err.splitlines()[-1]


def write_strided_head(path: Path) -> Path:
    """A convolution, pooling, and what torch's dynamo exporter makes of ``as_strided``."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        node("Reshape", ["p", "flat"], ["f"], name="flatten"),
        node("Gather", ["f", "table"], ["g"], name="strided"),
        node("Transpose", ["g"], ["y"], name="turn", perm=[0, 2, 3, 1]),
    ]
    constants = {
        "w": normal(8, 4, 3, 3),
        "flat": np.array([-1], np.int64),
        "table": np.arange(8, dtype=np.int64).reshape(1, 8, 1, 1),
    }
    return write_graph(path, nodes, constants=constants)
