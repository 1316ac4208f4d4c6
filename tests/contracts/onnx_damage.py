"""Ways to damage an ONNX graph: names, order, versions, types, recursion."""

from __future__ import annotations

import random
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

__all__ = ["DAMAGE", "NUMBERS", "STRINGS", "insert_on_input"]

STRINGS = (
    "",
    "../../escaped",
    "/absolute/escaped",
    "line\nbreak",
    "\x1b[31mred\x1b[2J",
    "nul\0byte",
    "x" * 100_000,
    "%s%n{0}{name}",
    "‮right to left",
    "CON",
)
NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)


def _cycle(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [n for n in model.graph.node if n.input and n.output]
    first = rng.choice(nodes)
    first.input[rng.randrange(len(first.input))] = rng.choice(nodes).output[0]


def _unsorted(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _self_calling_function(model: onnx.ModelProto, rng: random.Random) -> None:
    other = rng.choice(("twice", "again"))
    nodes = [helper.make_node(other, ["v"], ["w"], domain="local")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    del model.functions[:]
    model.functions.append(helper.make_function("local", "twice", ["v"], ["w"], nodes, opsets))
    back = [helper.make_node("twice", ["v"], ["w"], domain="local")]
    model.functions.append(helper.make_function("local", "again", ["v"], ["w"], back, opsets))
    if not any(o.domain == "local" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("local", 1))
    insert_on_input(model, [helper.make_node("twice", ["{in}"], ["{out}"], domain="local")])


def _doubling_functions(model: onnx.ModelProto, rng: random.Random) -> None:
    """Each function calls the one before twice: 2**depth nodes when inlined."""
    depth = rng.choice((10, 30, 60))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    del model.functions[:]
    for level in range(depth):
        name, domain = (f"f{level - 1}", "local") if level else ("Neg", "")
        nodes = [
            helper.make_node(name, ["v"], ["m"], domain=domain),
            helper.make_node(name, ["m"], ["w"], domain=domain),
        ]
        model.functions.append(
            helper.make_function("local", f"f{level}", ["v"], ["w"], nodes, opsets)
        )
    if not any(o.domain == "local" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("local", 1))
    node = helper.make_node(f"f{depth - 1}", ["{in}"], ["{out}"], domain="local")
    insert_on_input(model, [node])


def _duplicate_names(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    outputs = [(n, i) for n in graph.node for i in range(len(n.output))]
    node, index = rng.choice(outputs)
    choice = rng.randrange(5)
    if choice == 0:
        node.output[index] = rng.choice(outputs)[0].output[0]
    elif choice == 1:
        node.output[index] = graph.input[0].name
    elif choice == 2:
        for other in graph.node:
            other.name = "same"
    elif choice == 3 and graph.initializer:
        graph.initializer.append(graph.initializer[0])
    else:
        graph.output.append(graph.output[0])


def _strings(model: onnx.ModelProto, rng: random.Random) -> None:
    text, graph = rng.choice(STRINGS), model.graph
    choice = rng.randrange(6)
    if choice == 0:
        _rename(model, graph.input[0].name, text)
    elif choice == 1:
        _rename(model, graph.output[0].name, text)
    elif choice == 2:
        for node in graph.node:
            node.name = text
    elif choice == 3:
        node = rng.choice(graph.node)
        node.op_type, node.domain = rng.choice(((text, ""), (node.op_type, text)))
    elif choice == 4:
        graph.name = model.producer_name = model.doc_string = text
    else:
        dim = graph.input[0].type.tensor_type.shape.dim
        dim[rng.randrange(len(dim))].dim_param = text


def _metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    keys = ("edgessl.input", "edgessl.embedding_dim", "edgessl.lineage", "edgessl.version", "x")
    values = (
        *STRINGS,
        "{}",
        "[" * 50_000,
        "null",
        "1e999",
        "-1",
        "9" * 5000,
        '{"channels": 1e99}',
        '{"mean": [NaN], "std": [0], "width": 1099511627776}',
        "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    )
    for _ in range(rng.randint(1, 3)):
        entry = model.metadata_props.add()
        entry.key, entry.value = rng.choice(keys), rng.choice(values)


def _versions(model: onnx.ModelProto, rng: random.Random) -> None:
    choice = rng.randrange(4)
    if choice == 0:
        model.ir_version = rng.choice(NUMBERS)
    elif choice == 1:
        model.opset_import[0].version = rng.choice(NUMBERS)
    elif choice == 2:
        del model.opset_import[:]
    else:
        model.opset_import.append(helper.make_opsetid("", rng.choice((1, 7, 99))))


def _remove(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    parts = (graph.node, graph.input, graph.output, graph.initializer, graph.value_info)
    part = rng.choice([p for p in parts if len(p)])
    del part[rng.randrange(len(part))]  # type: ignore[arg-type]
    if rng.random() < 0.2:
        model.ClearField("graph")


def _operators(model: onnx.ModelProto, rng: random.Random) -> None:
    schemas = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})
    for _ in range(rng.choice((1, 1, 3))):
        rng.choice(model.graph.node).op_type = rng.choice([*schemas, "Nothing", "Frobnicate"])


def _node_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    choice = rng.randrange(4)
    if choice == 0:
        node.input.append(rng.choice(["", "nowhere", model.graph.input[0].name]))
    elif choice == 1 and node.input:
        del node.input[-1]
    elif choice == 2:
        node.output.append("surplus")
    else:
        node.input.extend([model.graph.input[0].name] * 3000)


def _kinds_of_value(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    choice = rng.randrange(5)
    if choice == 0:
        value.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    elif choice == 1:
        value.type.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    elif choice == 2:
        value.type.map_type.key_type = TensorProto.INT64
    elif choice == 3:
        value.ClearField("type")
    else:
        value.type.tensor_type.ClearField("shape")


def insert_on_input(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put nodes behind the first input; ``{in}`` and ``{out}`` in their names are filled in."""
    graph = model.graph
    if not graph.input:
        return
    old, new = graph.input[0].name, "inserted"
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    names = {"{in}": old, "{out}": new}
    for position, node in enumerate(nodes):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        graph.node.insert(position, node)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    graph = model.graph
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in [*graph.input, *graph.output]:
        if value.name == old:
            value.name = new


DAMAGE = {
    "cycle": _cycle,
    "unsorted": _unsorted,
    "self-calling function": _self_calling_function,
    "doubling functions": _doubling_functions,
    "duplicate names": _duplicate_names,
    "strings": _strings,
    "metadata": _metadata,
    "versions": _versions,
    "removed parts": _remove,
    "operators": _operators,
    "node inputs": _node_inputs,
    "kinds of value": _kinds_of_value,
}
