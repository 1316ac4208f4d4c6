"""Fidelity figures against direct formulas in float64; the gate's decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgessl.bundle.manifest import Fidelity
from edgessl.compiler.fidelity import Gate, measure_fidelity
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import ModelError

Array = NDArray[np.float64]


def _store(folder: Path, array: Array, name: str = "y") -> Samples:
    stream = Stream(name=name, dtype="float32", shape=array.shape[1:], batched=True)
    with SampleWriter(folder, (stream,), batch_size=1) as writer:
        writer.append({name: array})
    return Samples(folder)


def _measure(tmp_path: Path, want: Array, have: Array) -> Fidelity:
    return measure_fidelity(_store(tmp_path / "want", want), _store(tmp_path / "have", have))


def _cosines(a: Array, b: Array) -> Array:
    return np.array([x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)])


def test_figures_equal_the_formulas(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    want = rng.standard_normal((80, 12)) + 0.5
    have = want + 0.3 * rng.standard_normal((80, 12))
    found = _measure(tmp_path, want, have)
    cosines = _cosines(want, have)
    mean = want.mean(axis=0)
    assert found.samples == 80
    assert found.finite
    assert found.cosine_mean == pytest.approx(cosines.mean(), abs=2e-6)
    assert found.cosine_p1 == pytest.approx(np.percentile(cosines, 1), abs=2e-6)
    centred = _cosines(want - mean, have - mean).mean()
    assert found.centred_cosine_mean == pytest.approx(centred, abs=2e-6)
    sets = []
    for x in (want, have):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        order = np.argsort(-(unit @ unit.T), axis=1)
        sets.append([[j for j in row if j != i][:10] for i, row in enumerate(order)])
    common = [len(set(a) & set(b)) / 10 for a, b in zip(*sets, strict=True)]
    assert found.neighbour_agreement == pytest.approx(np.mean(common), abs=1e-6)


def test_equal_outputs_are_perfect_even_where_samples_coincide(tmp_path: Path) -> None:
    want = np.repeat(np.random.default_rng(0).standard_normal((10, 6)), 6, axis=0)
    want[-1] = 0.0
    have = want * (1.0 + 1e-7 * np.random.default_rng(1).standard_normal(want.shape))
    found = _measure(tmp_path, want, have)
    assert (found.cosine_mean, found.cosine_p1) == (1.0, 1.0)
    assert found.neighbour_agreement == 1.0


def test_a_common_offset_does_not_hide_the_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((2, 60, 16))
    found = _measure(tmp_path, signal + 40.0, noise + 40.0)
    assert found.cosine_mean > 0.99
    assert found.centred_cosine_mean < 0.3
    objection = Gate.of(0.98, neighbour_agreement=0.7).objection(found)
    assert objection is not None
    assert "centred cosine" in objection


def test_constant_outputs_that_agree_pass(tmp_path: Path) -> None:
    want = np.ones((20, 5))
    assert _measure(tmp_path, want, want + 1e-7).centred_cosine_mean == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_value_is_always_rejected(tmp_path: Path, bad: float) -> None:
    want = np.random.default_rng(0).standard_normal((20, 5))
    have = want.copy()
    have[13, 2] = bad
    found = _measure(tmp_path, want, have)
    assert not found.finite
    objection = Gate.of(1e-6, neighbour_agreement=0.0).objection(found)
    assert objection is not None
    assert "NaN" in objection


def test_single_numbers_are_judged_by_their_spread(tmp_path: Path) -> None:
    want = np.random.default_rng(0).uniform(5, 6, (50, 1))
    near = _measure(tmp_path / "near", want, want + 0.01)
    far = _measure(tmp_path / "far", want, want[::-1])
    assert near.cosine_mean > 0.999
    assert far.cosine_mean < 0.9


def test_the_worst_of_several_outputs_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    streams = tuple(Stream(name=n, dtype="float32", shape=(4,), batched=True) for n in "ab")
    good, bad = rng.standard_normal((2, 30, 4))
    for folder, second in (("want", good), ("have", bad)):
        with SampleWriter(tmp_path / folder, streams, batch_size=1) as writer:
            writer.append({"a": good, "b": second})
    found = measure_fidelity(Samples(tmp_path / "want"), Samples(tmp_path / "have"))
    assert found.cosine_mean == pytest.approx(_cosines(good, bad).mean(), abs=2e-6)


def test_different_outputs_are_an_error(tmp_path: Path) -> None:
    want = _store(tmp_path / "a", np.ones((20, 5)))
    have = _store(tmp_path / "b", np.ones((20, 6)))
    with pytest.raises(ModelError, match="outputs"):
        measure_fidelity(want, have)


def test_wide_outputs_are_thinned_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    want = rng.standard_normal((12, 70_000))
    found = _measure(tmp_path, want, want + 0.1 * rng.standard_normal(want.shape))
    assert found.cosine_mean == pytest.approx(1 / np.sqrt(1.01), abs=1e-3)
    assert found.centred_cosine_mean > 0.99


def test_the_gate_names_each_figure_that_fails() -> None:
    gate = Gate.of(0.98, neighbour_agreement=0.7)
    assert (gate.cosine_p1, gate.centred_cosine_mean) == (0.94, 0.9)
    figures = {"cosine_mean": 0.99, "cosine_p1": 0.93, "centred_cosine_mean": 0.95}
    found = Fidelity(samples=20, finite=True, neighbour_agreement=0.6, **figures)
    assert gate.objection(found) == "cosine p1 0.93 < 0.94, neighbour agreement 0.6 < 0.7"
    passing = found.model_copy(update={"cosine_p1": 0.94, "neighbour_agreement": 0.7})
    assert gate.objection(passing) is None


def test_the_noise_ratio_equals_the_formula(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    want = rng.standard_normal((30, 5, 7)).astype(np.float32).astype(np.float64)
    have = (want + 0.1 * rng.standard_normal(want.shape)).astype(np.float32).astype(np.float64)
    found = _measure(tmp_path, want, have)
    expected = 10 * np.log10((want**2).sum() / ((want - have) ** 2).sum())
    assert found.sqnr_db == pytest.approx(expected, abs=0.006)
    assert found.outputs[0].sqnr_db == found.sqnr_db


def test_other_models_than_encoders_are_judged_by_the_noise_of_each_output(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    streams = tuple(Stream(name=n, dtype="float32", shape=(6,), batched=True) for n in "ab")
    want = rng.standard_normal((2, 30, 6))
    for folder, noise in (("want", 0.0), ("have", 0.3)):
        with SampleWriter(tmp_path / folder, streams, batch_size=1) as writer:
            writer.append({"a": want[0], "b": want[1] + noise * rng.standard_normal((30, 6))})
    found = measure_fidelity(Samples(tmp_path / "want"), Samples(tmp_path / "have"))
    gate = Gate.of(0.98, neighbour_agreement=1.0, sqnr_db=15.0, encoder=False)
    objection = gate.objection(found)
    assert objection is not None
    assert objection.startswith("SQNR of 'b' 1")
    assert "'a'" not in objection
    assert Gate.of(0.9, neighbour_agreement=1.0, encoder=False).sqnr_db == pytest.approx(6.99)
