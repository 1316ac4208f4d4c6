"""Names and functions of a graph: nodes are told apart, functions are inlined within bounds."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from contracts.small_graphs import node, write_graph
from edgessl.compiler.graph import prepare_graph
from edgessl.errors import ModelError


class TestNames:
    def test_nodes_have_names_of_their_own(self, tmp_path: Path) -> None:
        nodes = [
            node("Relu", ["x"], ["a"], name="same"),
            node("Abs", ["a"], ["b"], name="same"),
            node("Neg", ["b"], ["y"]),
        ]
        path = write_graph(tmp_path / "m.onnx", nodes)
        prepare_graph(path, tmp_path / "o.onnx", batch_size=1)
        names = [n.name for n in onnx.load(tmp_path / "o.onnx").graph.node]
        assert len(set(names)) == 3
        assert names[2] == "Neg#2"

    def test_two_inputs_of_one_name_are_refused(self, tmp_path: Path) -> None:
        path = write_graph(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])])
        model = onnx.load(path)
        model.graph.input.append(model.graph.input[0])
        onnx.save(model, path)
        with pytest.raises(ModelError, match=r"two inputs are called 'x'|not a valid"):
            prepare_graph(path, tmp_path / "o.onnx", batch_size=1)


class TestFunctions:
    def test_are_inlined(self, tmp_path: Path) -> None:
        path = _with_functions(tmp_path, {"Twice": ["Once", "Once"], "Once": ["Relu"]})
        prepare_graph(path, tmp_path / "o.onnx", batch_size=1)
        model = onnx.load(tmp_path / "o.onnx")
        assert [n.op_type for n in model.graph.node] == ["Relu", "Relu"]
        assert not model.functions

    @pytest.mark.parametrize("calls", [{"A": ["A"]}, {"A": ["B"], "B": ["A"]}])
    def test_recursion_is_refused(self, tmp_path: Path, calls: dict[str, list[str]]) -> None:
        path = _with_functions(tmp_path, calls)
        with pytest.raises(ModelError, match=r"calls itself|not a valid ONNX"):
            prepare_graph(path, tmp_path / "o.onnx", batch_size=1)

    def test_a_function_bomb_is_refused(self, tmp_path: Path) -> None:
        calls = {f"F{k}": [f"F{k + 1}"] * 10 for k in range(9)} | {"F9": ["Relu"]}
        path = _with_functions(tmp_path, calls)
        with pytest.raises(ModelError, match="1000000000 nodes"):
            prepare_graph(path, tmp_path / "o.onnx", batch_size=1)


def _with_functions(folder: Path, calls: dict[str, list[str]]) -> Path:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for name, called in calls.items():
        steps = ["i", *(f"t{k}" for k in range(len(called) - 1)), "o"]
        nodes = [
            node(kind, [steps[k]], [steps[k + 1]], domain="own" if kind in calls else "")
            for k, kind in enumerate(called)
        ]
        functions.append(helper.make_function("own", name, ["i"], ["o"], nodes, opsets))
    first = node(next(iter(calls)), ["x"], ["y"], domain="own")
    return write_graph(
        folder / "f.onnx", [first], out_shape=(1, 4, 8, 8), functions=functions, domains=["own"]
    )
