"""Ways to make an ONNX graph ask for too much: sizes, loops, files that are not its own."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from contracts.onnx_damage import NUMBERS, insert_on_input

__all__ = ["BOMBS"]

_HUGE = (
    (2**20, 2**20),
    (2**40,),
    (2**62, 4),
    (2**32, 2**32),
    (2**63 - 1,),
    (-1,),
    (-(2**63), 2),
    (0, 2**62),
    (2**31, 1, 1, 1),
    (60_000, 60_000),
    (1,) * 5000,
)


def _initializers(model: onnx.ModelProto, rng: random.Random) -> None:
    """An initializer that declares more, or something else, than it holds."""
    tensors = list(model.graph.initializer)
    if not tensors:
        tensors = [a.t for n in model.graph.node for a in n.attribute if a.HasField("t")]
    if not tensors:
        model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "spare"))
        tensors = list(model.graph.initializer)
    tensor = rng.choice(tensors)
    choice = rng.randrange(5)
    if choice <= 1:
        del tensor.dims[:]
        tensor.dims.extend(rng.choice(_HUGE))
    elif choice == 2:
        tensor.data_type = rng.choice((*range(30), 2**31 - 1, -1))
    elif choice == 3:
        tensor.raw_data = tensor.raw_data[: rng.randrange(8)]
    else:
        tensor.float_data.extend([1.0] * 7)
        tensor.int64_data.extend([2**62] * 3)
        tensor.string_data.append(b"\xff\0")


def _value_shapes(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    choice = rng.randrange(3)
    if choice == 0 and tensor.shape.dim:
        rng.choice(tensor.shape.dim).dim_value = rng.choice((*NUMBERS, 2**20, 300_000))
    elif choice == 1:
        for size in rng.choice(_HUGE[:-1]):
            tensor.shape.dim.add().dim_value = size
    else:
        del tensor.shape.dim[:]
        for _ in range(rng.choice((0, 1, 7, 300))):
            tensor.shape.dim.add().dim_value = rng.choice((1, 2))


def _dtypes(model: onnx.ModelProto, rng: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    for value in rng.sample(values, k=rng.randint(1, len(values))):
        value.type.tensor_type.elem_type = rng.choice((*range(24), 99, -1))


def _attributes(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    choice = rng.randrange(6)
    if choice == 0 or not node.attribute:
        names = ("axis", "kernel_shape", "pads", "surprise", "group", "perm", "to", "alpha", "")
        value = rng.choice((1, -1, 2**62, 1.5, "text", [0, 0], [2**62] * 4, [-1] * 8))
        node.attribute.append(helper.make_attribute(rng.choice(names), value))
        return
    attribute = rng.choice(node.attribute)
    if choice == 1:
        attribute.i = rng.choice(NUMBERS)
        attribute.ints[:] = [rng.choice(NUMBERS) for _ in attribute.ints]
    elif choice == 2:
        attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))
    elif choice == 3:
        attribute.ints.extend([1] * rng.choice((1, 1000)))
    elif choice == 4:
        node.attribute.append(attribute)
    else:
        attribute.ref_attr_name = "elsewhere"


def _shape_at_run_time(model: onnx.ModelProto, rng: random.Random) -> None:
    """A few bytes of graph that ask for terabytes when they run."""
    sizes = rng.choice(
        ([2**40], [2**20, 2**20], [2**34], [2**62], [-5], [2**32, 2**32], [2**15] * 3)
    )
    choice = rng.randrange(8)
    shape = _constant(sizes, "bomb_shape")
    one = _constant(1.0, "bomb_one")
    after = [
        helper.make_node("ReduceMax", ["bomb"], ["bomb_max"], keepdims=0),
        helper.make_node("Cast", ["bomb_max"], ["bomb_int"], to=TensorProto.INT64),
        helper.make_node("Identity", ["bomb_int"], ["bomb_end"]),
    ]
    makers = [
        [helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb"])],
        [helper.make_node("Expand", ["bomb_one", "bomb_shape"], ["bomb"])],
        [
            helper.make_node("Unsqueeze", ["bomb_one", "bomb_zero"], ["bomb_row"]),
            helper.make_node("Tile", ["bomb_row", "bomb_size"], ["bomb"]),
        ],
        [helper.make_node("Range", ["bomb_start", "bomb_stop", "bomb_step"], ["bomb"])],
        [helper.make_node("Reshape", ["bomb_one", "bomb_shape"], ["bomb"])],
        [
            helper.make_node("Unsqueeze", ["bomb_one", "bomb_zero"], ["bomb_row"]),
            helper.make_node("Pad", ["bomb_row", "bomb_pads"], ["bomb"]),
        ],
        [helper.make_node("RandomNormal", [], ["bomb"], shape=sizes)],
        [helper.make_node("OneHot", ["bomb_indices", "bomb_depth", "bomb_values"], ["bomb"])],
    ]
    constants = [
        shape,
        one,
        _constant([0], "bomb_zero"),
        _constant(sizes[:1], "bomb_size"),
        _constant(0, "bomb_start"),
        _constant(sizes[0], "bomb_stop"),
        _constant(1, "bomb_step"),
        _constant([0, sizes[0]], "bomb_pads"),
        _constant([1, 2], "bomb_indices"),
        _constant(sizes[0], "bomb_depth"),
        _constant([0.0, 1.0], "bomb_values"),
    ]
    if rng.random() < 0.5:
        # From the input, so that nothing can be folded away.
        model.graph.node.insert(0, helper.make_node("Identity", ["bomb_one_0"], ["bomb_one"]))
        constants[1] = _constant(1.0, "bomb_one_0")
    _prepend(model, [*constants, *makers[choice], *after])
    if rng.random() < 0.7:
        model.graph.output.append(helper.make_tensor_value_info("bomb_end", TensorProto.INT64, []))


def _long_loop(model: onnx.ModelProto, rng: random.Random) -> None:
    """A loop that counts for ages, or that piles up its outputs."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["count", "step"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [
            scalar("i", TensorProto.INT64, []),
            scalar("go", TensorProto.BOOL, []),
            scalar("count", TensorProto.FLOAT, []),
        ],
        [
            scalar("go_on", TensorProto.BOOL, []),
            scalar("next", TensorProto.FLOAT, []),
            scalar("seen", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "step")],
    )
    trips = rng.choice((2**62, 10, 3, 1, -1))
    nodes = [
        _constant(trips, "trips"),
        _constant(0.0, "start"),
        helper.make_node("Loop", ["trips", "", "start"], ["total", "all_seen"], body=body),
    ]
    _prepend(model, nodes)
    model.graph.output.append(scalar("total", TensorProto.FLOAT, []))


def _external_data(model: onnx.ModelProto, rng: random.Random) -> dict[str, bytes | str]:
    """Weights that lie, or pretend to lie, in a file beside the model or elsewhere."""
    if not model.graph.initializer:
        spare = numpy_helper.from_array(np.ones(64, np.float32), "spare")
        model.graph.initializer.append(spare)
        insert_on_input(model, [helper.make_node("Identity", ["{in}"], ["{out}"])])
    tensor = rng.choice(model.graph.initializer)
    content = tensor.raw_data or bytes(64)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    locations = (
        "weights.bin",
        "weights.bin",
        "weights.bin",
        "link.bin",
        "/etc/passwd",
        "../secret.txt",
        "a/../../secret.txt",
        "..\\secret.txt",
        "C:\\secret.txt",
        "missing.bin",
        "",
        ".",
        "weights.bin\0.txt",
        "/dev/zero",
        "folder_link/secret.txt",
        "x" * 5000,
        "file:///etc/passwd",
        "weights.bin/",
        "/proc/self/mem",
    )
    entries = {"location": rng.choice(locations)}
    numbers = (
        "0",
        "-1",
        str(2**40),
        str(2**63),
        "nonsense",
        "",
        "1e9",
        " 4",
        "99999999999999999999",
    )
    if rng.random() < 0.6:
        entries["offset"] = rng.choice(numbers)
    if rng.random() < 0.6:
        entries["length"] = rng.choice((str(len(content)), *numbers))
    if rng.random() < 0.2:
        entries["surprise"] = "x"
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    if rng.random() < 0.1:
        tensor.external_data.add(key="location", value="../secret.txt")
    return {"weights.bin": content, "link.bin": "../secret.txt", "folder_link": ".."}


def _constant(value: object, name: str) -> onnx.NodeProto:
    array = np.array(value)
    array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))


def _prepend(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


BOMBS = {
    "initializers": _initializers,
    "value shapes": _value_shapes,
    "dtypes": _dtypes,
    "attributes": _attributes,
    "shapes at run time": _shape_at_run_time,
    "long loop": _long_loop,
    "external data": _external_data,
}
