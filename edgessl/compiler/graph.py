"""Load an ONNX file without trusting it, check it, fix its batch, simplify it.

Everything here runs in a compile worker: onnx is imported inside the functions, so that the
process that called `compile_model` neither pays for it nor dies with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from edgessl import onnx_metadata
from edgessl.bundle.manifest import TensorSpec
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.samples import Samples
from edgessl.errors import ModelError
from edgessl.files import sha256_file
from edgessl.optional import require
from edgessl.runtime.session import open_session

__all__ = ["MAX_MODEL_BYTES", "load_graph", "prepare_graph", "simplify_graph"]

MAX_MODEL_BYTES = 2 * 1024**3
# com.microsoft holds onnxruntime's contributed operators; an engine without one of them refuses
# the file, and that candidate fails alone.
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_PARITY_SAMPLES = 2
_PARITY_TOLERANCE = 1e-4


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
    _load_external_data(onnx, model, path, size)
    _check_domains(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"{path}: not a valid ONNX graph: {_line(error)}; export or copy it again"
        ) from error
    return model


def prepare_graph(path: Path, out: Path, *, batch_size: int) -> GraphInfo:
    """Check a model, fix its batch and write the result.

    Args:
        path: The user's file.
        out: Where the checked ``.onnx`` with a fixed batch goes.
        batch_size: Samples per engine call.

    Raises:
        ModelError: See `load_graph`; or the graph has another fixed batch.
    """
    onnx = require("onnx", extra="compile")
    model = load_graph(path)
    _drop_initializer_inputs(model)
    symbol = _fix_batch(model, batch_size, path)
    batched = tuple(
        value.name for value in model.graph.input if _is_batched(value, symbol, batch_size)
    )
    if batch_size > 1 and len(batched) < len(model.graph.input):
        raise ModelError(
            f"{path}: not every input starts with the batch, so it runs one sample at a time; "
            "compile it with a batch of 1"
        )
    _bind(model, symbol, batch_size)
    properties = {item.key: item.value for item in model.metadata_props}
    facts = onnx_metadata.decode(properties, where=str(path))
    operators = {node.op_type for node in _nodes(model.graph)}
    onnx.save(model, out)
    return GraphInfo(
        path=str(out),
        sha256=sha256_file(path),
        opset=_opset(model),
        inputs=tuple(_spec(onnx, value) for value in model.graph.input),
        outputs=tuple(_spec(onnx, value) for value in model.graph.output),
        batched_inputs=batched,
        batch_size=batch_size,
        attention=bool({"Softmax", "MatMul"} <= operators or "Attention" in operators),
        preprocessing=facts.preprocessing,
        embedding_dim=facts.embedding_dim,
        lineage=dict(facts.lineage),
    )


def simplify_graph(info: GraphInfo, out: Path, samples: Samples) -> tuple[bool, str]:
    """Simplify with onnxslim; keep the result only if it computes the same.

    Args:
        info: The prepared graph.
        out: Where the simplified file goes.
        samples: Real inputs for the parity check.

    Returns:
        Whether ``out`` was written, and a remark: node counts, or why the graph stays as it is.
    """
    onnx = require("onnx", extra="compile")
    onnxslim = require("onnxslim", extra="compile")
    model = onnx.load(info.path)
    before = len(model.graph.node)
    try:
        slim = onnxslim.slim(model)
        if len(slim.graph.node) >= before:
            return False, f"kept as it is: {before} nodes, nothing to simplify"
        onnx.checker.check_model(slim)
        onnx.save(slim, out)
        worst = _parity(Path(info.path), out, samples)
    except Exception as error:  # any failure of a third-party pass means: keep what is known good
        out.unlink(missing_ok=True)
        return False, f"kept as it is: onnxslim fails ({_line(error)})"
    if not worst <= _PARITY_TOLERANCE:
        out.unlink()
        return False, f"kept as it is: after onnxslim outputs differ by {worst:.2g}"
    return True, f"simplified from {before} to {len(slim.graph.node)} nodes"


def _parity(original: Path, changed: Path, samples: Samples) -> float:
    feeds = [samples.feeds(i) for i in range(min(_PARITY_SAMPLES, samples.calls))]
    with open_session("onnxruntime", original, {"threads": 1}) as session:
        expected = [session.run(feed) for feed in feeds]
    with open_session("onnxruntime", changed, {"threads": 1}) as session:
        actual = [session.run(feed) for feed in feeds]
    worst = 0.0
    for want, have in zip(expected, actual, strict=True):
        for name, reference in want.items():
            difference = np.abs(have[name].astype(np.float64) - reference)
            scale = max(1.0, float(np.max(np.abs(reference), initial=0.0)))
            worst = max(worst, float(np.max(difference, initial=0.0)) / scale)
    return worst


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
        unsafe = unsafe or bool(PureWindowsPath(location).drive)
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


def _check_domains(model: Any, path: Path) -> None:
    local = {function.domain for function in model.functions}
    for node in (node for body in [model.graph, *model.functions] for node in _nodes(body)):
        if node.domain not in KNOWN_DOMAINS | local:
            raise ModelError(
                f"{path}: operator {node.op_type} is of the domain '{node.domain}', which no "
                "engine here runs; export the model without it (pre- and post-processing outside)"
            )
    if _opset(model) == 0:
        raise ModelError(f"{path}: names no opset of ai.onnx; export it again")


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def _opset(model: Any) -> int:
    versions = [int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def _drop_initializer_inputs(model: Any) -> None:
    # Up to IR 3 every initializer had to be listed as an input too.
    initialized = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initialized]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)


def _fix_batch(model: Any, batch_size: int, path: Path) -> str | None:
    """The symbol of the batch ("" where it has no name), or None where it is fixed already."""
    if not model.graph.input:
        raise ModelError(f"{path}: the graph has no inputs; export it again")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if not dims:
        raise ModelError(f"{path}: the first input has no batch dimension; export it with one")
    if dims[0].HasField("dim_value"):
        if dims[0].dim_value != batch_size:
            raise ModelError(
                f"{path}: the graph takes batches of {dims[0].dim_value}, asked for {batch_size}; "
                "export it with a dynamic batch or compile with that batch size"
            )
        return None
    return str(dims[0].dim_param)


def _is_batched(value: Any, symbol: str | None, batch_size: int) -> bool:
    dims = value.type.tensor_type.shape.dim
    if not dims:
        return False
    if symbol is None:
        return bool(dims[0].dim_value == batch_size)
    return bool(not dims[0].HasField("dim_value") and dims[0].dim_param == symbol)


def _bind(model: Any, symbol: str | None, batch_size: int) -> None:
    """Put the batch size in place of its symbol, wherever that stands."""
    if symbol is None:
        return
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            named = symbol != "" and dim.dim_param == symbol
            first = symbol == "" and axis == 0 and not dim.HasField("dim_value")
            if named or (first and not dim.dim_param):
                dim.dim_value = batch_size


def _spec(onnx: Any, value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
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
