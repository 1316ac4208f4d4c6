"""Each rewrite against its original on onnxruntime, and a wrong one is dropped by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from contracts.small_graphs import node, write_graph
from edgessl.compiler import rewrites
from edgessl.compiler.check.operation import write_made_up_samples
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.rewrites import RewriteRemark
from edgessl.compiler.rewrites.as_strided import grid_of
from edgessl.compiler.rewrites.parity import run_plainly
from edgessl.compiler.rewrites.pipeline import rewrite_graph, rewrite_in_workers
from edgessl.compiler.samples import Samples
from edgessl.errors import UsageError

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape, dtype=np.float32)


class Rewriter:
    """Prepares a graph, applies rewrites, and compares with the original once more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self, path: Path, **arguments: Any) -> tuple[GraphInfo, Samples]:
        graph = prepare_graph(path, self._folder / "prepared.onnx", batch_size=1, **arguments)
        return graph, write_made_up_samples(graph, self._folder / "samples")

    def __call__(self, path: Path, *names: str) -> tuple[list[str], list[RewriteRemark]]:
        graph, samples = self.prepare(path)
        result, remarks = rewrite_graph(graph, self._folder, samples, names=names)
        feeds = samples.feeds(1)
        want, have = run_plainly(Path(graph.path), feeds), run_plainly(Path(result.path), feeds)
        for name, values in want.items():
            np.testing.assert_allclose(have[name], values, rtol=1e-4, atol=1e-5)
        return [n.op_type for n in onnx.load(result.path).graph.node], list(remarks)


@pytest.fixture
def rewrite(tmp_path: Path) -> Rewriter:
    return Rewriter(tmp_path)


class TestAsStrided:
    @pytest.mark.parametrize(
        ("table", "operators"),
        [
            (np.arange(24).reshape(2, 3, 4), ["Reshape"]),
            (np.arange(24).reshape(4, 6).T, ["Reshape", "Transpose"]),
            (np.arange(24).reshape(4, 6)[1:3, 2:], ["Reshape", "Slice"]),
            (np.arange(24).reshape(4, 6)[:, 3], ["Reshape", "Slice"]),
            (np.arange(24).reshape(4, 6)[:, ::2], ["Reshape", "Slice"]),
            (np.broadcast_to(np.arange(24).reshape(4, 1, 6), (4, 3, 6)), ["Reshape", "Expand"]),
            (np.arange(24).reshape(1, 24, 1, 1) - 24, ["Reshape"]),
        ],
    )
    def test_grids_become_views(
        self, rewrite: Rewriter, tmp_path: Path, table: NDArray[Any], operators: list[str]
    ) -> None:
        kinds, remarks = rewrite(_gather(tmp_path, table), "as-strided", "onnxslim")
        assert remarks[0].outcome == "applied"
        assert "Gather" not in kinds
        assert set(kinds) <= {*operators, "Relu", "Reshape"}

    @pytest.mark.parametrize(
        "table", [np.array([3, 1, 2]), np.array([[0, 1, 2], [1, 2, 3]]), np.arange(24)[::-1]]
    )
    def test_other_tables_stay(
        self, rewrite: Rewriter, tmp_path: Path, table: NDArray[Any]
    ) -> None:
        kinds, remarks = rewrite(_gather(tmp_path, table), "as-strided")
        assert remarks[0].outcome == "unchanged"
        assert "Gather" in kinds

    def test_a_grid_is_told_by_its_strides(self) -> None:
        assert grid_of(np.arange(24).reshape(4, 6)[1:, ::2]) == (6, (6, 2))
        assert grid_of(np.array([0, 1, 3])) is None


class TestConstants:
    def test_are_computed_ahead(self, rewrite: Rewriter, tmp_path: Path) -> None:
        nodes = [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "one"], ["c"]),
            node("Unsqueeze", ["c", "zero"], ["u"]),
            node("Concat", ["minus", "u"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ]
        constants = {
            "one": np.array(1, np.int64),
            "zero": np.array([0], np.int64),
            "minus": np.array([-1], np.int64),
        }
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        kinds, _ = rewrite(path, "fold-constants")
        assert kinds == ["Reshape"]

    def test_a_small_graph_does_not_unfold_into_a_huge_one(
        self, rewrite: Rewriter, tmp_path: Path
    ) -> None:
        nodes = [node("Expand", ["c", "s"], ["e"]), node("ReduceSum", ["e"], ["r"])]
        nodes += [node("Add", ["x", "r"], ["y"])]
        constants = {"c": normal(1), "s": np.array([4000, 1000], np.int64)}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        kinds, _ = rewrite(path, "fold-constants")
        assert "Expand" in kinds

    def test_random_and_quantized_values_stay(self, tmp_path: Path, rewrite: Rewriter) -> None:
        nodes = [
            node("DequantizeLinear", ["q", "scale"], ["w"]),
            node("Mul", ["x", "w"], ["y"]),
        ]
        constants = {"q": np.array([3], np.int8), "scale": np.array(0.1, np.float32)}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        kinds, _ = rewrite(path, "fold-constants")
        assert kinds == ["DequantizeLinear", "Mul"]


class TestConditions:
    @pytest.mark.parametrize("taken", [True, False])
    def test_the_branch_that_is_taken_stays(
        self, rewrite: Rewriter, tmp_path: Path, taken: bool
    ) -> None:
        def branch(kind: str) -> onnx.GraphProto:
            # Both branches call their tensor t, and one reads the outer x.
            nodes = [node(kind, ["x"], ["t"]), node("Neg", ["t"], ["r"])]
            out = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
            return helper.make_graph(nodes, kind, [], out)

        nodes = [
            node("If", ["c"], ["i"], then_branch=branch("Relu"), else_branch=branch("Abs")),
            node("If", ["c"], ["j"], then_branch=branch("Exp"), else_branch=branch("Tanh")),
            node("Add", ["i", "j"], ["y"]),
        ]
        path = write_graph(tmp_path / "m.onnx", nodes, constants={"c": np.array(taken)})
        kinds, _ = rewrite(path, "inline-if", "remove-copies")
        first, second = ("Relu", "Exp") if taken else ("Abs", "Tanh")
        assert sorted(kinds) == sorted([first, second, "Neg", "Neg", "Add"])

    def test_one_that_depends_on_an_input_stays(self, rewrite: Rewriter, tmp_path: Path) -> None:
        out = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
        branches = [helper.make_graph([node(k, ["x"], ["r"])], k, [], out) for k in ("Abs", "Exp")]
        nodes = [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        ]
        kinds, remarks = rewrite(write_graph(tmp_path / "m.onnx", nodes), "inline-if")
        assert "If" in kinds
        assert remarks[0].outcome == "unchanged"


class TestCopies:
    def test_are_removed(self, rewrite: Rewriter, tmp_path: Path) -> None:
        nodes = [
            node("Identity", ["x"], ["a"]),
            node("Dropout", ["a"], ["b", "mask"]),
            node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
            node("Transpose", ["c"], ["d"], perm=[0, 2, 3, 1]),
            node("Transpose", ["d"], ["e"], perm=[0, 3, 1, 2]),
            node("Relu", ["e"], ["f"]),
            node("Identity", ["f"], ["y"]),
        ]
        kinds, _ = rewrite(write_graph(tmp_path / "m.onnx", nodes), "remove-copies")
        assert kinds == ["Relu"]

    def test_the_interface_stays(self, rewrite: Rewriter, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "m.onnx", [node("Identity", ["x"], ["y"])])
        kinds, remarks = rewrite(path, "remove-copies")
        assert kinds == ["Identity"]
        assert remarks[0].outcome == "unchanged"

    def test_a_transposition_that_another_reads_stays(
        self, rewrite: Rewriter, tmp_path: Path
    ) -> None:
        nodes = [
            node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
            node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
            node("Flatten", ["a"], ["c"]),
            node("Flatten", ["b"], ["d"]),
            node("Add", ["c", "d"], ["y"]),
        ]
        kinds, _ = rewrite(write_graph(tmp_path / "m.onnx", nodes), "remove-copies")
        assert kinds.count("Transpose") == 2


class TestConvolutions:
    @pytest.mark.parametrize("group", [1, 4])
    def test_a_normalisation_is_folded(self, rewrite: Rewriter, tmp_path: Path, group: int) -> None:
        nodes = [
            node("Conv", ["x", "w"], ["c"], group=group),
            node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"]),
        ]
        constants = {"w": normal(4, 4 // group, 3, 3), **_statistics()}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        assert rewrite(path, "fold-batch-norm")[0] == ["Conv"]

    @pytest.mark.parametrize("group", [1, 2, 4])
    def test_a_re_parameterisable_block_becomes_one_convolution(
        self, rewrite: Rewriter, tmp_path: Path, group: int
    ) -> None:
        nodes = [
            node("Conv", ["x", "w3", "b"], ["c3"], group=group, pads=[1, 1, 1, 1]),
            node("Conv", ["x", "w1"], ["c1"], group=group),
            node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"]),
            node("Add", ["c3", "c1"], ["s"]),
            node("Add", ["n", "s"], ["t"]),
            node("Add", ["t", "x"], ["u"]),
            node("BatchNormalization", ["u", "g", "b", "m", "v"], ["y"]),
        ]
        constants = {"w3": normal(4, 4 // group, 3, 3), "w1": normal(4, 4 // group, 1, 1)}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants | _statistics())
        kinds, remarks = rewrite(path, "fuse-branches", "fold-batch-norm")
        assert kinds == ["Conv"]
        assert [r.outcome for r in remarks] == ["applied", "applied"]

    @pytest.mark.parametrize(
        "change",
        [{"strides": [2, 2]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"pads": [0, 0, 2, 2]}],
    )
    def test_branches_that_do_not_fit_stay(
        self, rewrite: Rewriter, tmp_path: Path, change: dict[str, list[int]]
    ) -> None:
        first = {"pads": [1, 1, 1, 1], **change}
        second = {"strides": change.get("strides", [1, 1])}
        nodes = [
            node("Conv", ["x", "w3"], ["a"], **first),
            node("Conv", ["x", "w2"], ["b"], pads=[1, 1, 0, 0], **second),
            node("Add", ["a", "b"], ["y"]),
        ]
        constants = {"w3": normal(4, 4, 3, 3), "w2": normal(4, 4, 2, 2)}
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        assert rewrite(path, "fuse-branches")[0] == ["Conv", "Conv", "Add"]


class TestPipeline:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        nodes = [node("Identity", ["x"], ["a"]), node("Relu", ["a"], ["y"])]
        return write_graph(tmp_path / "m.onnx", nodes)

    def test_one_that_breaks_parity_is_dropped_by_name(
        self, rewrite: Rewriter, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _register(monkeypatch, wrong=_wrong)
        kinds, remarks = rewrite(path, "wrong", "remove-copies")
        assert kinds == ["Relu"]
        assert [(r.name, r.outcome) for r in remarks] == [
            ("wrong", "broke"),
            ("remove-copies", "applied"),
        ]
        assert "outputs differ" in remarks[0].describe()

    def test_one_that_fails_or_renames_is_dropped(
        self, rewrite: Rewriter, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _register(monkeypatch, fails=_fails, renames=_renames)
        _, remarks = rewrite(path, "fails", "renames", "remove-copies")
        assert [r.outcome for r in remarks] == ["failed", "failed", "applied"]
        assert "boom" in remarks[0].reason

    def test_a_crash_costs_one_rewrite(
        self, rewrite: Rewriter, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph, samples = rewrite.prepare(path)
        site = Path(graph.path).parent / "site"
        site.mkdir()
        # The worker is another process, and Python imports this module when it starts.
        (site / "sitecustomize.py").write_text(
            "from edgessl.compiler.rewrites import REWRITES\nREWRITES['crash'] = 'crashing:crash'\n"
        )
        (site / "crashing.py").write_text("import os\n\ndef crash(model):\n    os.abort()\n")
        monkeypatch.syspath_prepend(str(site))
        names = ("opset", "crash", "remove-copies")
        result, remarks = rewrite_in_workers(graph, site, samples, names=names)
        assert [r.outcome for r in remarks] == ["unchanged", "crashed", "applied"]
        assert "SIGABRT" in remarks[1].reason
        assert [n.op_type for n in onnx.load(result.path).graph.node] == ["Relu"]

    def test_a_graph_that_does_not_run_stays_as_it_is(
        self, rewrite: Rewriter, tmp_path: Path
    ) -> None:
        constants = {"table": normal(3, 2), "one": np.array(7, np.int64)}
        nodes = [
            node("Gather", ["table", "one"], ["row"]),
            node("ReduceSum", ["row"], ["s"]),
            node("Add", ["x", "s"], ["a"]),
            node("Identity", ["a"], ["b"]),
            node("Relu", ["b"], ["y"]),
        ]
        path = write_graph(tmp_path / "m.onnx", nodes, constants=constants)
        graph, samples = rewrite.prepare(path)
        result, remarks = rewrite_graph(graph, tmp_path, samples, names=("opset", "remove-copies"))
        assert result == graph
        assert [r.outcome for r in remarks] == ["unchanged", "unverified"]
        assert "does not run on the samples" in remarks[1].describe()

    def test_an_unknown_name_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="remove-copies"):
            rewrites.load_rewrite("remove-copy")

    def test_every_name_of_the_sequence_exists(self) -> None:
        assert all(callable(rewrites.load_rewrite(name)) for name in rewrites.SEQUENCE)

    def test_ultraface_of_opset_9(self, shared: Path, tmp_path: Path) -> None:
        path = shared / "models/ultraface/version-RFB-320.onnx"
        if not path.is_file():
            pytest.skip("ultraface is not on this machine")
        rewriter = Rewriter(tmp_path)
        graph, samples = rewriter.prepare(path)
        result, remarks = rewrite_graph(graph, tmp_path, samples)
        assert (graph.opset, result.opset) == (9, 13)
        assert not [r for r in remarks if r.outcome not in ("applied", "unchanged")]
        kinds = {n.op_type for n in onnx.load(result.path).graph.node}
        assert not kinds & {"BatchNormalization", "Shape", "Gather", "Constant"}


def _gather(folder: Path, table: NDArray[Any]) -> Path:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Reshape", ["r", "flat"], ["f"]),
        node("Gather", ["f", "table"], ["y"], name="as_strided"),
    ]
    constants = {"flat": np.array([-1], np.int64), "table": table.astype(np.int64)}
    return write_graph(folder / "g.onnx", nodes, shape=(1, 4, 3, 2), constants=constants)


def _statistics() -> dict[str, NDArray[np.float32]]:
    return {"g": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4)) + 0.5}


def _wrong(model: Any) -> Any:
    model.graph.node[-1].op_type = "Abs"
    return model


def _fails(model: Any) -> Any:
    raise KeyError("boom")


def _renames(model: Any) -> Any:
    model.graph.output[0].name = "a"
    return model


def _register(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    monkeypatch.setattr(
        "edgessl.compiler.rewrites.pipeline.load_rewrite",
        lambda name: functions.get(name) or rewrites.load_rewrite(name),
    )
