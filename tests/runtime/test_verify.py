"""`verify`: canaries that differ are found, and by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.tiny_bundle import expected, samples, write_bundle
from edgessl.bundle.manifest import Canaries
from edgessl.cli.main import main
from edgessl.errors import BundleError, GateError
from edgessl.runtime import verify
from edgessl.runtime.canaries import compare_outputs, output_cosines
from edgessl.runtime.engines.onnxruntime import OnnxRuntime
from edgessl.runtime.verify import VerifyReport

REFERENCE = expected(samples(4)).astype(np.float32)
CANARIES = Canaries(inputs="i", outputs="o", samples=2, min_cosine=0.9)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_good_bundle_passes(tmp_path: Path, engine: str) -> None:
    report = verify(write_bundle(tmp_path / "tiny.edge", engine=engine))
    assert report.passed
    assert report.files == 3
    assert report.remarks == ()
    assert report.canaries is not None
    assert report.canaries.samples == 4
    assert report.canaries.min_cosine == pytest.approx(1.0, abs=1e-6)
    assert report.canaries.max_abs_difference == pytest.approx(0.0, abs=1e-5)
    report.require_passed()


def test_other_results_are_found(tmp_path: Path) -> None:
    wrong = REFERENCE.copy()
    wrong[2] = wrong[2][::-1]
    report = verify(write_bundle(tmp_path / "tiny.edge", canary_outputs=wrong))
    cosine = output_cosines(REFERENCE, wrong)[2]
    assert cosine < 0.99
    assert report.canaries is not None
    assert report.canaries.min_cosine == pytest.approx(cosine, abs=1e-5)
    assert report.canaries.max_abs_difference == pytest.approx(
        float(np.abs(wrong - REFERENCE).max()), abs=1e-5
    )
    assert not report.passed
    with pytest.raises(GateError, match=f"{cosine:.6f}"[:6]):
        report.require_passed()


def test_canaries_of_another_shape_are_damage(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "tiny.edge", canary_outputs=REFERENCE[:, :3])
    with pytest.raises(BundleError, match="embedding"):
        verify(path)


def test_another_engine_version_is_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "version", staticmethod(lambda: "0.1"))
        path = write_bundle(tmp_path / "tiny.edge")
    report = verify(path)
    assert report.passed
    assert report.engine_version == "0.1"
    assert "compiled with onnxruntime 0.1" in report.remarks[0]


def test_a_portable_bundle_is_hashed_only(tmp_path: Path) -> None:
    report = verify(write_bundle(tmp_path / "tiny.edge", kind="portable"))
    assert report.canaries is None
    assert report.passed
    assert "finalize" in report.remarks[0]


def test_without_canaries_it_says_so(tmp_path: Path) -> None:
    report = verify(write_bundle(tmp_path / "tiny.edge", canaries=None))
    assert report.canaries is None
    assert "no canaries" in report.remarks[0]


def test_nan_never_passes() -> None:
    reference = np.ones((2, 3), np.float32)
    found = reference.copy()
    found[1, 1] = np.nan
    result = compare_outputs({"y": found}, {"y": reference}, CANARIES)
    assert not result.finite
    assert not result.passed
    assert "NaN" in result.describe()


def test_cosines_against_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 5, 2))
    want = [
        float(np.dot(x.ravel(), y.ravel()) / np.sqrt((x**2).sum() * (y**2).sum()))
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(output_cosines(a, b), want, rtol=1e-12)
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert output_cosines(zero, zero) == 1
    assert output_cosines(zero, one) == 0


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_bundle(tmp_path / "good.edge")
    assert main(["verify", str(good), "--json"]) == 0
    text = capsys.readouterr().out
    assert '"passed": true' in text
    bad = write_bundle(tmp_path / "bad.edge", canary_outputs=-REFERENCE)
    assert main(["verify", str(bad)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: bad.edge: this machine computes something else")
    data = bytearray(good.read_bytes())
    data[len(data) // 2] ^= 1
    good.write_bytes(data)
    assert main(["verify", str(good)]) == 2
    assert main(["verify", str(tmp_path / "none.edge")]) == 2


def test_the_report_is_json(tmp_path: Path) -> None:
    report = verify(write_bundle(tmp_path / "tiny.edge"))
    assert VerifyReport.model_validate_json(report.model_dump_json()) == report
