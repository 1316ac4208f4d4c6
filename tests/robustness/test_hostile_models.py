"""Damaged and hostile ONNX files end in a clear error or a correct result.

Each kind of `contracts.hostile_onnx` a few times, through the compile worker and both CPU engines.
`benchmarks/compile/fuzz.py` runs thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from contracts.compiling import ONNX_FP32, compile_quietly, target_of
from contracts.hostile_onnx import KINDS, Mutant, base_models, mutant
from contracts.hostile_trial import HostileTrial
from contracts.onnx_models import write_cnn
from edgessl.compiler.check import check_model
from edgessl.errors import EdgeSSLError, ModelError
from edgessl.runtime import verify

CASES = 8
FEW = {"long loop": 3, "doubling functions": 4}  # those that take seconds
NEVER_ACCEPTED = {"truncated", "noise", "spliced", "self-calling function"}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileTrial]:
    with HostileTrial(tmp_path_factory.mktemp("hostile"), timeout_s=3.0) as opened:
        yield opened


def test_undamaged_models_are_correct(trial: HostileTrial) -> None:
    for name, data in base_models().items():
        outcome = trial.run(Mutant("none", name, data))
        assert outcome.verdict == "correct", (name, outcome)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ends_well(trial: HostileTrial, kind: str) -> None:
    cases = FEW.get(kind, CASES)
    verdicts = [trial.run(mutant(kind, seed=seed)).verdict for seed in range(cases)]
    if kind in NEVER_ACCEPTED:
        assert set(verdicts) == {"refused"}


def first_of(kind: str, base: str) -> Mutant:
    return next(m for m in (mutant(kind, seed=seed) for seed in range(1000)) if m.base == base)


@pytest.mark.parametrize(
    "kind", ["bits", "external data", "long loop", "shapes at run time", "strings", "value shapes"]
)
def test_compiling_ends_in_a_clear_error_or_a_bundle(kind: str, tmp_path: Path) -> None:
    """The whole way, from this very process, which must survive it."""
    (tmp_path / "secret.txt").write_bytes(b"secret" * 100)
    folder = tmp_path / "model"
    folder.mkdir()
    path = first_of(kind, "conv").write(folder)
    before = {p.name for p in folder.iterdir()}
    out = tmp_path / "out" / "model.edge"
    inputs = np.random.default_rng(0).standard_normal((20, 3, 16, 16), dtype=np.float32)
    overrides = {"timeout_s": 5, "held_out": 8}
    refused = None
    try:
        compile_quietly(path, target_of(ONNX_FP32), inputs, out=out, overrides=overrides)
    except EdgeSSLError as error:
        refused = str(error)
    if refused is None:
        assert verify(out).passed
    else:
        assert refused.isprintable()
        assert not out.exists()
    assert {p.name for p in folder.iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} <= {"secret.txt", "model", "out"}
    assert {p.name for p in out.parent.glob("*")} <= {"model.edge"}


@pytest.mark.parametrize("kind", ["cycle", "external data", "shapes at run time", "value shapes"])
def test_checking_ends_in_a_clear_error_or_a_report(kind: str, tmp_path: Path) -> None:
    path = first_of(kind, "conv").write(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    try:
        said = check_model(path, target=target_of(ONNX_FP32)).model_dump_json()
    except EdgeSSLError as error:
        said = str(error)
    assert said.isprintable()
    assert {p.name for p in tmp_path.iterdir()} == before


def test_checking_makes_no_terabytes_of_inputs(tmp_path: Path) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40
    onnx.save(model, tmp_path / "cnn.onnx")
    with pytest.raises(ModelError, match="bytes, above"):
        check_model(tmp_path / "cnn.onnx", target=target_of(ONNX_FP32))
