"""What edgessl writes into an ONNX file's ``metadata_props``, and reads back from it.

Exporting and compiling never import each other; this module holds the keys that they share. All
keys are optional: a third-party model comes without any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import pydantic

from edgessl.config import describe_validation
from edgessl.errors import ModelError
from edgessl.preprocessing import MediaInput

__all__ = [
    "DIM_KEY",
    "INPUT_KEY",
    "INTEGERS_KEY",
    "LINEAGE_KEY",
    "VERSION_KEY",
    "IntegerFacts",
    "ModelFacts",
    "decode",
    "encode",
]

INPUT_KEY = "edgessl.input"
DIM_KEY = "edgessl.embedding_dim"
LINEAGE_KEY = "edgessl.lineage"
INTEGERS_KEY = "edgessl.integers"
VERSION_KEY = "edgessl.version"
_INPUT: pydantic.TypeAdapter[MediaInput] = pydantic.TypeAdapter(MediaInput)


@dataclass(frozen=True)
class IntegerFacts:
    """What the integers of a quantized model are for.

    Attributes:
        target: Name of the target whose rules they follow.
        scheme: Quantization scheme, ``"u8s8"``.
        precision: ``"int8"`` or ``"a16w8"``.
    """

    target: str
    scheme: str
    precision: str


@dataclass(frozen=True)
class ModelFacts:
    """What a model says about itself.

    Attributes:
        preprocessing: What the model takes; None if the file does not say.
        embedding_dim: D of the ``(N, D)`` output; None for models that are not encoders.
        lineage: Stage → hash of what the model was made from.
        version: Version of edgessl that exported it; None for third-party models.
        integers: Whose integers it computes with; None if it is a floating-point model.
    """

    preprocessing: MediaInput | None = None
    embedding_dim: int | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    integers: IntegerFacts | None = None


def encode(facts: ModelFacts) -> dict[str, str]:
    """The metadata properties that hold these facts; absent facts get no key."""
    properties: dict[str, str] = {}
    if facts.preprocessing is not None:
        values = facts.preprocessing.model_dump(mode="json")
        properties[INPUT_KEY] = json.dumps(values, sort_keys=True)
    if facts.embedding_dim is not None:
        properties[DIM_KEY] = str(facts.embedding_dim)
    if facts.lineage:
        properties[LINEAGE_KEY] = json.dumps(dict(facts.lineage), sort_keys=True)
    if facts.version is not None:
        properties[VERSION_KEY] = facts.version
    if facts.integers is not None:
        properties[INTEGERS_KEY] = json.dumps(asdict(facts.integers), sort_keys=True)
    return properties


def decode(properties: Mapping[str, str], *, where: str) -> ModelFacts:
    """Read the facts back; keys of others are ignored.

    Args:
        properties: All metadata properties of the file.
        where: The file, for messages.

    Raises:
        ModelError: A key of edgessl holds something else than edgessl writes.
    """
    return ModelFacts(
        preprocessing=_input(properties.get(INPUT_KEY), where),
        embedding_dim=_dim(properties.get(DIM_KEY), where),
        lineage=_lineage(properties.get(LINEAGE_KEY), where),
        version=properties.get(VERSION_KEY),
        integers=_integers(properties.get(INTEGERS_KEY), where),
    )


def _input(text: str | None, where: str) -> MediaInput | None:
    if text is None:
        return None
    try:
        return _INPUT.validate_json(text)
    except pydantic.ValidationError as error:
        reason = describe_validation(error)
        raise ModelError(f"{where}: metadata {INPUT_KEY}: {reason}; export it again") from error


def _dim(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    # Ten digits at most: Python refuses to read thousands of them.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) > 0):
        raise ModelError(
            f"{where}: metadata {DIM_KEY} is {text[:80]!r}, not a size; export it again"
        )
    return int(text)


def _lineage(text: str | None, where: str) -> dict[str, str]:
    return {} if text is None else _texts(text, LINEAGE_KEY, where)


def _integers(text: str | None, where: str) -> IntegerFacts | None:
    if text is None:
        return None
    values = _texts(text, INTEGERS_KEY, where)
    if set(values) != {"target", "scheme", "precision"}:
        raise ModelError(
            f"{where}: metadata {INTEGERS_KEY} has the keys {sorted(values)}, not target, scheme "
            "and precision; export it again"
        )
    return IntegerFacts(**values)


def _texts(text: str, key: str, where: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{where}: metadata {key} is not JSON ({error}); export it again"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ModelError(f"{where}: metadata {key} is not a map of texts; export it again")
    return values
