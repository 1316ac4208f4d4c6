"""Load an ONNX file without trusting it, check it, fix its batch and shapes.

Everything here runs in a compile worker: onnx is imported inside the functions, so that the
process that called `compile_model` neither pays for it nor dies with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgessl import onnx_metadata
from edgessl.bundle.manifest import TensorSpec, Workload
from edgessl.compiler.freezing import freeze_inputs, resolve_conditions
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.rewrites.topology import infer_shapes, name_nodes, nodes_of, opset_of
from edgessl.compiler.shapes import Shapes, dynamic_inputs, fix_shapes
from edgessl.compiler.stored_integers import read_integers
from edgessl.compiler.workload import count_workload
from edgessl.errors import ModelError
from edgessl.files import sha256_file
from edgessl.optional import require

__all__ = ["MAX_MODEL_BYTES", "load_graph", "prepare_graph", "workload_of_file"]

MAX_MODEL_BYTES = 2 * 1024**3
MAX_NODES = 1_000_000
_PORTABLE_IR = 10  # what onnxruntime 1.20 reads
_LAST_PORTABLE_TYPE = 22  # INT4
# com.microsoft holds onnxruntime's contributed operators; an engine without one of them refuses
# the file, and that candidate fails alone.
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


def load_graph(path: Path) -> Any:
    """Read and check an ONNX file.

    Args:
        path: The file; external data beside it or below is followed.

    Returns:
        The ``onnx.ModelProto``, its external data loaded.

    Raises:
        ModelError: Missing, too large, truncated, invalid, of an operator domain that no engine
            here knows, or with external data outside its folder.
    """
    onnx = require("onnx", extra="compile")
    path = Path(path)
    size = _file_size(path, path)
    if size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: {size} bytes, above the limit of 2 GiB; use a smaller model")
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    except Exception as error:  # protobuf's DecodeError is not importable under one stable name
        raise ModelError(
            f"{path}: not a readable ONNX file (truncated or damaged: {_line(error)}); "
            "export or copy it again"
        ) from error
    if model.ir_version <= 0 or not model.graph.node:
        raise ModelError(f"{path}: holds no ONNX graph; export or copy it again")
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ModelError(f"{path}: holds a text that is not UTF-8; export or copy it again")
    _load_external_data(onnx, model, path, size)
    _check_domains(model, path)
    _check_names(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"{path}: not a valid ONNX graph: {_line(error)}; export or copy it again"
        ) from error
    return model


def prepare_graph(
    path: Path,
    out: Path,
    *,
    batch_size: int,
    shapes: Shapes | None = None,
    static: bool = False,
    frozen: Mapping[str, int | float] | None = None,
) -> GraphInfo:
    """Check a model, fix its batch and shapes, name its nodes and write the result.

    Args:
        path: The user's file.
        out: Where the checked ``.onnx`` goes.
        batch_size: Samples per engine call.
        shapes: Input name → its whole shape, the batch included; an empty shape is a scalar.
        static: Refuse a graph that still has a dynamic input dimension.
        frozen: Input name → number that takes its place for good.

    Raises:
        ModelError: See `load_graph`; the graph has another fixed batch; a shape does not fit; a
            dimension stays dynamic where it must not; or it holds integers of no known scheme.
    """
    onnx = require("onnx", extra="compile")
    model = load_graph(path)
    _drop_initializer_inputs(model)
    _lower_ir_version(model)
    if not model.graph.input:
        raise ModelError(f"{path}: the graph has no inputs; export it again")
    batched = fix_shapes(model, batch_size=batch_size, shapes=shapes, path=path)
    freeze_inputs(model, frozen or {}, path)
    batched = tuple(name for name in batched if name not in (frozen or {}))
    if batch_size > 1 and len(batched) < len(model.graph.input):
        raise ModelError(
            f"{path}: not every input starts with the batch, so it runs one sample at a time; "
            "compile it with a batch of 1"
        )
    if static:
        _require_static(model, path)
    model = infer_shapes(_inline_functions(model, path))
    if frozen:
        model = infer_shapes(resolve_conditions(model))
    name_nodes(model)
    properties = {item.key: item.value for item in model.metadata_props}
    facts = onnx_metadata.decode(properties, where=str(path))
    operators = {node.op_type for node in nodes_of(model.graph)}
    onnx.save(model, out)
    return GraphInfo(
        path=str(out),
        sha256=sha256_file(path),
        opset=opset_of(model),
        inputs=tuple(_spec(onnx, value) for value in model.graph.input),
        outputs=tuple(_spec(onnx, value) for value in model.graph.output),
        batched_inputs=batched,
        batch_size=batch_size,
        attention=bool({"Softmax", "MatMul"} <= operators or "Attention" in operators),
        preprocessing=facts.preprocessing,
        embedding_dim=facts.embedding_dim,
        lineage=dict(facts.lineage),
        workload=count_workload(model),
        integers=read_integers(model, facts.integers, where=str(path)),
    )


def workload_of_file(path: Path) -> Workload | None:
    """Count what one run of a model computes, with its own batch, or one sample if that is open.

    Raises:
        ModelError: See `load_graph`.
    """
    model = load_graph(path)
    _drop_initializer_inputs(model)
    first = next((v for v in model.graph.input if v.type.tensor_type.shape.dim), None)
    batch = 1 if first is None else first.type.tensor_type.shape.dim[0].dim_value or 1
    fix_shapes(model, batch_size=batch, shapes=None, path=path)
    return count_workload(infer_shapes(_inline_functions(model, path)))


def _require_static(model: Any, path: Path) -> None:
    for name, shape in dynamic_inputs(model).items():
        sizes = "x".join(str(size) for size in shape)
        raise ModelError(
            f"{path}: the target needs static shapes and '{name}' is {sizes}; fix it with "
            f"--shape {name}=" + "x".join(s if str(s).isdecimal() else "N" for s in map(str, shape))
        )


def _inline_functions(model: Any, path: Path) -> Any:
    """Engines and passes see operators, not the model's own functions."""
    if not model.functions:
        return model
    inliner = require("onnx.inliner", extra="compile")
    calls = {
        (f.domain, f.name): [(n.domain, n.op_type) for n in nodes_of(f)] for f in model.functions
    }
    sizes: dict[tuple[str, str], int] = {}
    # The inliner would not come back from a function that calls itself, nor from one that calls
    # another twice, which calls another twice, and so on.
    while pending := calls.keys() - sizes.keys():
        ready = [key for key in pending if pending.isdisjoint(calls[key])]
        if not ready:
            raise ModelError(f"{path}: function {min(pending)[1]} calls itself; export it again")
        sizes.update({key: sum(sizes.get(call, 1) for call in calls[key]) for key in ready})
    nodes = sum(sizes.get((node.domain, node.op_type), 1) for node in nodes_of(model.graph))
    if nodes > MAX_NODES:
        raise ModelError(f"{path}: its functions make {nodes} nodes, above {MAX_NODES}")
    try:
        return inliner.inline_local_functions(model)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: a function cannot be put in its place ({_line(error)}); export it again"
        ) from error


def _texts(message: Any) -> Iterator[str | bytes]:
    """Every text in a model; protobuf gives those that are not UTF-8 as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if hasattr(value, "__len__") else [value]:
                yield from _texts(inner)


def _file_size(path: Path, model: Path) -> int:
    try:
        if not path.is_file():
            raise ModelError(f"{model}: no such file: {path}; check the path")
        return path.stat().st_size
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror}); check it") from error


def _load_external_data(onnx: Any, model: Any, path: Path, size: int) -> None:
    folder = path.parent.resolve()
    locations: set[str] = set()
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            locations.update(e.value for e in tensor.external_data if e.key == "location")
    if not locations:
        return
    for location in sorted(locations):
        relative = PurePosixPath(location)
        unsafe = relative.is_absolute() or ".." in relative.parts or "\\" in location
        unsafe = unsafe or bool(PureWindowsPath(location).drive) or "\0" in location
        if unsafe or not (folder / location).resolve().is_relative_to(folder):
            raise ModelError(
                f"{path}: external data '{location}' lies outside the model's folder; "
                "do not use this file unless you trust it, then export it as one file"
            )
        size += _file_size(folder / location, path)
    if size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: {size} bytes with external data, above the limit of 2 GiB")
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    except Exception as error:  # onnx raises a different class for each kind of damage
        raise ModelError(f"{path}: external data is damaged: {_line(error)}") from error


def _check_names(model: Any, path: Path) -> None:
    # The checker takes two inputs, outputs or initializers of one name for one value.
    graph = model.graph
    for kind, values in (
        ("input", graph.input),
        ("output", graph.output),
        ("initializer", graph.initializer),
    ):
        names = [value.name for value in values]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError(f"{path}: two {kind}s are called '{twice}'; export it again")
        if odd := [name for name in names if not name.isprintable()]:
            # Engines cut a name at a zero byte, and others cannot be shown or typed.
            raise ModelError(
                f"{path}: {kind} {odd[0][:80]!r} has control characters in its name; "
                "export it again"
            )


def _check_domains(model: Any, path: Path) -> None:
    local = {function.domain for function in model.functions}
    for node in (node for body in [model.graph, *model.functions] for node in nodes_of(body)):
        if node.domain not in KNOWN_DOMAINS | local:
            raise ModelError(
                f"{path}: operator {node.op_type} is of the domain '{node.domain}', which no "
                "engine here runs; export the model without it (pre- and post-processing outside)"
            )
    if opset_of(model) == 0 and any(n.domain in ("", "ai.onnx") for n in nodes_of(model.graph)):
        raise ModelError(f"{path}: names no opset of ai.onnx; export it again")


def _drop_initializer_inputs(model: Any) -> None:
    # Up to IR 3 every initializer had to be listed as an input too.
    initialized = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initialized]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)


def _lower_ir_version(model: Any) -> None:
    # Engines refuse a newer file format outright, whatever it holds; the operators' version is
    # the opset, which stays. What came after this one are element types.
    if all(tensor.data_type <= _LAST_PORTABLE_TYPE for tensor in model.graph.initializer):
        model.ir_version = min(model.ir_version, _PORTABLE_IR)


def _spec(onnx: Any, value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    known = onnx.TensorProto.DataType.values()
    code = tensor.elem_type  # 0 is "undefined"
    dtype = onnx.helper.tensor_dtype_to_np_dtype(code) if code and code in known else None
    if dtype is None or dtype.kind not in "fiub":
        raise ModelError(f"'{value.name}' is not a numeric tensor; export the model without it")
    shape: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        fixed = dim.HasField("dim_value") and dim.dim_value > 0
        shape.append(int(dim.dim_value) if fixed else (dim.dim_param or f"dim_{axis}"))
    return TensorSpec(name=value.name, dtype=dtype.name, shape=tuple(shape))


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:160] or type(error).__name__
