"""What the caller says about a model's inputs: preprocessing of one, constants for others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgessl.bundle.manifest import TensorSpec
from edgessl.compiler.freezing import check_number
from edgessl.compiler.graph_info import GraphInfo
from edgessl.errors import UsageError, nearest
from edgessl.preprocess_option import parse_preprocess
from edgessl.preprocessing import MediaInput

__all__ = ["describe_inputs", "media_input_of", "parse_constants", "preprocessing_for"]

Number = int | float


def parse_constants(pairs: Sequence[str], *, option: str = "--constant") -> dict[str, Number]:
    """Read ``--constant sr=16000,state=0``: input name → the value that fills it.

    Args:
        pairs: The words of the option, each with one pair or several.
        option: How messages call it.

    Raises:
        UsageError: A word without ``=``, a name given twice, or a value that is no finite number.
    """
    found: dict[str, Number] = {}
    for pair in (word for text in pairs for word in text.split(",")):
        # Input names may hold "=", numbers never do.
        name, equals, text = (part.strip() for part in pair.rpartition("="))
        if not equals or not name:
            raise UsageError(f"{option}: '{pair}' is not name=value; write one like sr=16000")
        if name in found:
            raise UsageError(f"{option}: '{name}' is given twice; give it once")
        found[name] = _number(name, text, option)
    return found


def _number(name: str, text: str, option: str) -> Number:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{option}: {name}={text} is not a number; write one like {name}=0")
    return value


def describe_inputs(
    graph: GraphInfo,
    *,
    preprocess: str | None = None,
    constants: Mapping[str, Number] | None = None,
) -> GraphInfo:
    """Add what the caller says to what the file says.

    Args:
        graph: The prepared graph.
        preprocess: The option ``--preprocess``; it overrides the model's metadata key by key.
        constants: Input name → the value that fills it in every sample.

    Raises:
        UsageError: The option is wrong, or a constant does not fit an input.
    """
    given = dict(constants or {})
    for name, value in given.items():
        _check_constant(graph, name, value)
    described = graph.model_copy(update={"constants": given})
    return described.model_copy(update={"preprocessing": preprocessing_for(described, preprocess)})


def _check_constant(graph: GraphInfo, name: str, value: Number) -> None:
    specs = {spec.name: spec for spec in graph.inputs}
    if name not in specs:
        raise UsageError(f"constant '{name}' is no input of the model; {nearest(name, specs)}")
    if len(specs) == 1:
        raise UsageError(f"'{name}' is the model's only input; a constant leaves nothing to give")
    spec = specs[name]
    check_number(name, value, np.dtype(spec.dtype))
    open_sizes = [d for d in graph.sample_shape(spec) if isinstance(d, str)]
    if open_sizes:
        sizes = "x".join("1" if isinstance(d, str) else str(d) for d in spec.shape)
        raise UsageError(
            f"constant '{name}' needs a fixed shape, the input is {_dims(spec.shape)}; "
            f"fix it, like --shape {name}={sizes}"
        )


def media_input_of(graph: GraphInfo) -> TensorSpec | None:
    """The input that images or sounds go to: the only one without a constant, if there is one."""
    rest = [spec for spec in graph.inputs if spec.name not in graph.constants]
    return rest[0] if len(rest) == 1 else None


def preprocessing_for(graph: GraphInfo, option: str | None) -> MediaInput | None:
    """How images or sounds become the model's input.

    Args:
        graph: The prepared graph, with its constants.
        option: The option ``--preprocess``; None leaves what the model's metadata say.

    Raises:
        UsageError: The option is wrong, or several inputs have no constant.
    """
    if option is None:
        return graph.preprocessing
    spec = media_input_of(graph)
    if spec is None:
        names = [s.name for s in graph.inputs if s.name not in graph.constants]
        raise UsageError(
            f"--preprocess is about one input, the model has {names}; fill the others with "
            f"constants, like --constant {names[-1]}=0, or give an .npz of arrays"
        )
    return parse_preprocess(
        option,
        name=spec.name,
        shape=spec.shape,
        dtype=spec.dtype,
        described=graph.preprocessing,
    )


def _dims(shape: Sequence[int | str]) -> str:
    return "[" + "x".join(str(d) for d in shape) + "]"
