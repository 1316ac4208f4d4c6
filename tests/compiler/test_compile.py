"""From an ONNX file to a bundle: the choice, the gate, the same bytes, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.compiling import (
    ONNX_FP32,
    ONNX_INT8,
    OPENVINO_FP32,
    compile_quietly,
    target_of,
)
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.arrays import load_arrays
from edgessl.compiler import FidelityGateError
from edgessl.compiler.latency import Contender, Latency, Ranking
from edgessl.errors import (
    ModelError,
    TargetError,
    UnavailableError,
    UsageError,
)
from edgessl.runtime.model import load
from edgessl.runtime.session import open_session
from edgessl.targets import CandidateSpec

Inputs = NDArray[np.float32]

FAKE_BACKENDS = """
import os
from pathlib import Path
import onnx
from onnx import numpy_helper
from edgessl.compiler.backends import Built

def _scaled(request, change):
    model = onnx.load(request.graph.path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, Path(request.folder) / "model.onnx")
    return Built(model="model.onnx", files=("model.onnx",), options={}, toolchain={})

class Aborts:
    @staticmethod
    def build(request):
        print("the end is near")
        os.abort()

class Broken:
    @staticmethod
    def build(request):
        return _scaled(request, lambda w: -abs(w))

class GivesNaN:
    @staticmethod
    def build(request):
        return _scaled(request, lambda w: w * float("nan"))

class Raises:
    @staticmethod
    def build(request):
        raise KeyError("no such layer")
"""
ENTRY_POINTS = """
[edgessl.backends]
aborts = fake_backends:Aborts
broken = fake_backends:Broken
nan = fake_backends:GivesNaN
raises = fake_backends:Raises
[edgessl.engines]
broken = edgessl.runtime.engines.onnxruntime:OnnxRuntime
nan = edgessl.runtime.engines.onnxruntime:OnnxRuntime
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of another package, found through its entry points."""
    site = tmp_path / "site"
    (site / "fakes-1.0.dist-info").mkdir(parents=True)
    (site / "fake_backends.py").write_text(FAKE_BACKENDS)
    (site / "fakes-1.0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    (site / "fakes-1.0.dist-info/METADATA").write_text("Name: fakes\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)


def test_all_candidates_are_tried_and_the_bundle_runs(model: Path, inputs: Inputs) -> None:
    report = compile_quietly(model, "cpu-x86-64", inputs, report=model.parent / "report.json")
    statuses = {c.name: c.status for c in report.candidates}
    assert list(statuses.values()).count("chosen") == 1
    assert statuses["onnxruntime-fp32"] in ("chosen", "passed")
    assert statuses["openvino-fp32"] in ("chosen", "passed")
    assert {c.engine for c in report.candidates} == {"onnxruntime", "openvino"}
    measured = [c for c in report.candidates if c.fidelity is not None]
    assert all(c.latency_p50_ms and c.size_bytes and c.reason for c in measured)
    assert json.loads((model.parent / "report.json").read_text())["chosen"] == report.chosen
    manifest = report.manifest
    assert manifest is not None
    assert (manifest.embedding_dim, manifest.batch_size) == (8, 1)
    assert manifest.provenance.calibration_samples == 36
    with open_session("onnxruntime", model, {"threads": 1}) as session:
        expected = session.run({"images": inputs[:4]})["embeddings"]
    with load(model.parent / "model.edge") as bundle:
        np.testing.assert_allclose(bundle(inputs[:4]), expected, atol=0.05, rtol=0.05)


class TestChoice:
    def test_precision_and_engine_restrict(self, model: Path, inputs: Inputs) -> None:
        report = compile_quietly(
            model, "host", inputs, overrides={"precision": "int8", "engine": "onnxruntime"}
        )
        assert [c.name for c in report.candidates] == ["onnxruntime-int8-u8s8"]
        assert report.manifest is not None
        assert report.manifest.precision == "int8"

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"precision": "fp16"}, "no precision 'fp16'; choose auto or bf16, fp32, int8"),
            ({"engine": "openvno"}, "no engine 'openvno'; did you mean openvino"),
        ],
    )
    def test_what_the_target_lacks_is_an_error(
        self, model: Path, inputs: Inputs, overrides: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(TargetError, match=message):
            compile_quietly(model, "host", inputs, overrides=overrides)

    def test_an_unknown_setting_is_an_error(self, model: Path, inputs: Inputs) -> None:
        with pytest.raises(UsageError, match="unknown key 'sample'; did you mean samples"):
            compile_quietly(model, "host", inputs, overrides={"sample": 3})

    @pytest.mark.parametrize("winner", [ONNX_FP32.name, OPENVINO_FP32.name])
    def test_the_fastest_is_chosen(
        self, model: Path, inputs: Inputs, winner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = {ONNX_FP32.name: 2.0, OPENVINO_FP32.name: 2.0, winner: 1.0}
        latencies = {n: Latency(p50_ms=t, p90_ms=t, runs=9) for n, t in times.items()}
        ranking = Ranking(winner=winner, latencies=latencies)
        monkeypatch.setattr("edgessl.compiler.choice.rank", lambda *a, **k: ranking)
        report = compile_quietly(model, target_of(ONNX_FP32, OPENVINO_FP32), inputs)
        assert report.chosen == winner
        (other,) = (c for c in report.candidates if c.name != winner)
        assert other.reason == f"100 % slower than {winner}"
        assert report.manifest is not None
        assert other.reason in {c.reason for c in report.manifest.candidates}

    def test_threads_are_chosen_by_measuring(
        self, model: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[list[str]] = []

        def rank(contenders: Sequence[Contender], **_: Any) -> Ranking:
            asked.append([c.name for c in contenders])
            latency = Latency(p50_ms=1.0, p90_ms=1.0, runs=9)
            winner = contenders[-1].name
            return Ranking(winner=winner, latencies={c.name: latency for c in contenders})

        monkeypatch.setattr("edgessl.compiler.choice.rank", rank)
        monkeypatch.setattr("edgessl.compiler.choice.physical_cores", lambda: 4)
        report = compile_quietly(model, target_of(ONNX_FP32), inputs, overrides={"threads": 0})
        assert [len(names) for names in asked] == [5]
        assert report.manifest is not None
        options = report.manifest.engine.options
        assert (options["threads"], options["intra_op_spinning"]) == (4, True)
        assert "threads=4" in report.candidates[0].reason
        asked.clear()
        compile_quietly(model, target_of(ONNX_FP32), inputs, overrides={"threads": 2})
        assert asked == []

    def test_a_feature_that_the_cpu_lacks_is_a_reason(self, model: Path, inputs: Inputs) -> None:
        lacking = CandidateSpec(engine="openvino", precision="bf16", requires=("no-such-feature",))
        report = compile_quietly(model, target_of(ONNX_FP32, lacking), inputs)
        assert report.candidates[1].reason == "this CPU lacks no-such-feature"
        with pytest.raises(UnavailableError, match="lacks no-such-feature"):
            compile_quietly(model, target_of(lacking), inputs)


@pytest.mark.usefixtures("fakes")
class TestBrokenCandidates:
    def test_the_gate_rejects_a_wrong_model(self, model: Path, inputs: Inputs) -> None:
        broken = CandidateSpec(engine="broken", precision="fp32")
        report = compile_quietly(model, target_of(broken, ONNX_FP32), inputs)
        assert report.chosen == "onnxruntime-fp32"
        assert report.candidates[0].status == "rejected"
        assert "cosine mean" in report.candidates[0].reason

    def test_nan_is_rejected(self, model: Path, inputs: Inputs) -> None:
        nan = CandidateSpec(engine="nan", precision="fp32")
        report = compile_quietly(model, target_of(nan, ONNX_FP32), inputs)
        assert report.candidates[0].status == "rejected"
        assert "NaN" in report.candidates[0].reason

    def test_nothing_is_written_if_nothing_passes(self, model: Path, inputs: Inputs) -> None:
        out = model.parent / "old.edge"
        out.write_bytes(b"an old bundle")
        with pytest.raises(FidelityGateError, match="no candidate passes") as caught:
            compile_quietly(
                model, target_of(CandidateSpec(engine="broken", precision="fp32")), inputs, out=out
            )
        assert caught.value.exit_code == 1
        assert [c.status for c in caught.value.report.candidates] == ["rejected"]
        assert out.read_bytes() == b"an old bundle"

    def test_a_crash_is_one_failed_candidate(self, model: Path, inputs: Inputs) -> None:
        aborts = CandidateSpec(engine="aborts", precision="fp32")
        report = compile_quietly(model, target_of(aborts, ONNX_FP32), inputs)
        assert report.chosen == "onnxruntime-fp32"
        assert report.candidates[0].status == "failed"
        assert "SIGABRT" in report.candidates[0].reason
        assert report.manifest is not None
        assert report.manifest.candidates[0].reason == "crashed (SIGABRT)"

    def test_an_exception_is_one_failed_candidate(self, model: Path, inputs: Inputs) -> None:
        raises = CandidateSpec(engine="raises", precision="fp32")
        report = compile_quietly(model, target_of(raises, ONNX_FP32), inputs)
        assert report.candidates[0].reason == "KeyError: 'no such layer'"
        with pytest.raises(ModelError, match="no candidate runs; raises-fp32: KeyError"):
            compile_quietly(model, target_of(raises), inputs)


class TestSameBytes:
    def test_from_another_folder_and_with_another_name(
        self, model: Path, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = target_of(ONNX_FP32, ONNX_INT8)
        monkeypatch.setattr("edgessl.compiler.latency._WARM_UP_MS", 1.0)
        compile_quietly(model, target, inputs)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        copy = elsewhere / "renamed.onnx"
        copy.write_bytes(model.read_bytes())
        compile_quietly(copy, target, inputs, out=Path("other-name.edge"))
        first = (model.parent / "model.edge").read_bytes()
        assert (elsewhere / "other-name.edge").read_bytes() == first

    @pytest.mark.parametrize(
        "spec",
        [
            ONNX_INT8,
            CandidateSpec(engine="openvino", precision="int8", scheme="nncf"),
            OPENVINO_FP32,
        ],
        ids=lambda spec: spec.name,
    )
    def test_with_a_fresh_cache(
        self,
        model: Path,
        inputs: Inputs,
        spec: CandidateSpec,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bundles = []
        for name in ("a", "b"):
            monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / f"cache-{name}"))
            compile_quietly(model, target_of(spec), inputs, out=tmp_path / f"{name}.edge")
            bundles.append((tmp_path / f"{name}.edge").read_bytes())
        assert bundles[0] == bundles[1]

    def test_measured_times_are_not_in_the_bundle(self, model: Path, inputs: Inputs) -> None:
        report = compile_quietly(model, target_of(ONNX_FP32, ONNX_INT8), inputs)
        assert all(c.latency_p50_ms for c in report.candidates)
        assert report.manifest is not None
        assert all(c.latency_p50_ms is None for c in report.manifest.candidates)


class TestCanaries:
    def test_are_held_out_inputs_with_the_engines_own_outputs(
        self, model: Path, inputs: Inputs
    ) -> None:
        report = compile_quietly(model, target_of(ONNX_INT8), inputs)
        assert report.manifest is not None
        canaries = report.manifest.canaries
        assert canaries is not None
        with open_bundle(model.parent / "model.edge") as bundle:
            fed = load_arrays(bundle.read(canaries.inputs), where="inputs")["images"]
            given = load_arrays(bundle.read(canaries.outputs), where="outputs")["embeddings"]
        assert fed.shape == (4, 3, 16, 16)
        assert all(any(np.array_equal(x, y) for y in inputs) for x in fed)
        with load(model.parent / "model.edge") as opened:
            np.testing.assert_array_equal(opened(fed), given)


class TestBatch:
    def test_of_four(self, model: Path, inputs: Inputs) -> None:
        report = compile_quietly(model, target_of(ONNX_FP32), inputs, overrides={"batch_size": 4})
        assert report.manifest is not None
        assert report.manifest.batch_size == 4
        assert report.manifest.inputs[0].shape == (4, 3, 16, 16)
        with load(model.parent / "model.edge") as opened:
            assert opened(inputs[:6]).shape == (6, 8)
