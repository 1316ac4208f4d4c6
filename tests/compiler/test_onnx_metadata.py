"""Facts written into an ONNX file come back; anything else is a clear error."""

from __future__ import annotations

import pytest

from edgessl.errors import ModelError
from edgessl.onnx_metadata import (
    DIM_KEY,
    INPUT_KEY,
    LINEAGE_KEY,
    ModelFacts,
    decode,
    encode,
)
from edgessl.preprocessing import ImageInput

SPEC = ImageInput(channels=1, height=28, width=32, mean=(0.1,), std=(0.3,), folded=True)


def test_facts_come_back() -> None:
    facts = ModelFacts(SPEC, 64, {"run": "abc", "teacher": "def"}, "0.1.0")
    assert decode({**encode(facts), "producer": "x"}, where="m.onnx") == facts


def test_a_third_party_model_says_nothing() -> None:
    assert encode(ModelFacts()) == {}
    assert decode({"producer": "x"}, where="m.onnx") == ModelFacts()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (INPUT_KEY, "{"),
        (INPUT_KEY, '{"channels": 3}'),
        (DIM_KEY, "-3"),
        (DIM_KEY, "0"),
        (DIM_KEY, "many"),
        (LINEAGE_KEY, "[]"),
        (LINEAGE_KEY, '{"run": 3}'),
        (LINEAGE_KEY, "{"),
    ],
)
def test_anything_else_is_an_error(key: str, text: str) -> None:
    with pytest.raises(ModelError, match=f"m.onnx: metadata {key}.*export it again"):
        decode({key: text}, where="m.onnx")
