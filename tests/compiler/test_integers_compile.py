"""A model that is quantized already: its integers stay, and an engine must compute with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contracts.compiling import ONNX_FP32, ONNX_INT8, OPENVINO_FP32, compile_quietly, target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import Fidelity
from edgessl.compiler.agreement import accept_nearest, strict_gate
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.graph_info import StoredIntegers
from edgessl.compiler.integer_candidates import check_saturation, select_for_integers
from edgessl.compiler.integers import integer_graph
from edgessl.compiler.rewrites import REWRITES
from edgessl.compiler.rewrites.pipeline import rewrite_graph
from edgessl.compiler.stored_integers import fingerprint_integers, read_integers
from edgessl.compiler.trial import Outcome, Trial
from edgessl.errors import ModelError, TargetError
from edgessl.onnx_metadata import IntegerFacts
from edgessl.progress import Progress, ProgressEvent
from edgessl.targets import CandidateSpec, Target, load_target

NNCF = CandidateSpec(engine="openvino", precision="int8", scheme="nncf")
S8S8 = CandidateSpec(engine="openvino", precision="int8", scheme="s8s8")
QNN = CandidateSpec(engine="qnn", precision="int8", scheme="qnn")
HELD = StoredIntegers(scheme="u8s8", precision="int8", target="host", seven_bits=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized model whose weights are not what a quantizer would choose."""
    folder = tmp_path_factory.mktemp("trained")
    graph = integer_graph(
        write_cnn(folder / "cnn.onnx"),
        target=target_of(ONNX_INT8),
        calibration=cnn_inputs(40),
        folder=folder,
    )
    model = onnx.load(graph.model)
    rng = np.random.default_rng(7)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim == 4:
            moved = np.clip(values + rng.integers(-9, 10, values.shape), -128, 127)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.int8), tensor.name))
    onnx.save(model, graph.model)
    return Path(graph.model)


def stored(bundle: Path, name: str = "model.onnx") -> Any:
    with open_bundle(bundle) as opened:
        return fingerprint_integers(onnx.load_from_string(opened.read(name)))


class TestCompile:
    def test_integers_stay(self, trained: Path, tmp_path: Path) -> None:
        out = tmp_path / "m.edge"
        report = compile_quietly(
            trained, target_of(ONNX_INT8, ONNX_FP32), cnn_inputs(40, seed=9), out=out
        )
        assert report.chosen == "onnxruntime-int8-u8s8"
        assert stored(out) == fingerprint_integers(onnx.load(trained))
        assert (report.reference, report.gate.cosine_mean) == ("integers", 0.999)
        (candidate,) = report.candidates
        assert candidate.fidelity is not None
        assert candidate.fidelity.cosine_mean >= 0.999
        (left,) = report.left_out
        assert left.name == "onnxruntime-fp32"
        assert "quantized already" in left.reason

    def test_openvino_computes_with_the_same(self, trained: Path, tmp_path: Path) -> None:
        pytest.importorskip("openvino", reason="openvino is not installed")
        report = compile_quietly(
            trained,
            target_of(NNCF, S8S8, OPENVINO_FP32),
            cnn_inputs(40, seed=9),
            out=tmp_path / "m.edge",
        )
        assert report.chosen == "openvino-int8-u8s8"
        assert [left.name for left in report.left_out] == ["openvino-int8-s8s8", "openvino-fp32"]
        assert report.left_out[0].reason.startswith("the same as openvino-int8-u8s8")

    def test_no_metadata_are_needed(self, trained: Path, tmp_path: Path) -> None:
        model = onnx.load(trained)
        del model.metadata_props[:]
        onnx.save(model, tmp_path / "third.onnx")
        out = tmp_path / "m.edge"
        compile_quietly(tmp_path / "third.onnx", target_of(ONNX_INT8), cnn_inputs(40), out=out)
        assert stored(out) == fingerprint_integers(model)

    @pytest.mark.parametrize(
        ("specs", "overrides", "message"),
        [
            ([ONNX_FP32], {}, "test has no integers, and the model is .* int8 u8s8, made for test"),
            ([QNN], {}, "this target takes int8 qnn: unsigned .*; train or quantize it for test"),
            ([ONNX_INT8, ONNX_FP32], {"precision": "fp32"}, "not fp32; choose auto, or compile"),
            ([ONNX_INT8, OPENVINO_FP32], {"engine": "openvino"}, "test has no integers by openv"),
        ],
    )
    def test_what_a_target_cannot_take(
        self,
        trained: Path,
        tmp_path: Path,
        specs: list[CandidateSpec],
        overrides: dict[str, Any],
        message: str,
    ) -> None:
        changes: dict[str, Any] = {}
        if QNN in specs:
            changes = {"family": "npu-qualcomm", "arch": "aarch64", "qualcomm": {"soc": "SM8650"}}
        with pytest.raises(TargetError, match=message):
            compile_quietly(
                trained,
                target_of(*specs, **changes),
                cnn_inputs(40),
                out=tmp_path / "m.edge",
                overrides=overrides,
            )
        assert not (tmp_path / "m.edge").exists()


class TestChoice:
    def test_one_of_each_engine_and_remainder(self) -> None:
        target = load_target("cpu-x86-64")
        specs, left = select_for_integers(target, HELD, precision="auto", engine=None)
        assert [s.name for s in specs] == [
            "openvino-int8-u8s8-bf16",
            "openvino-int8-u8s8",
            "onnxruntime-int8-u8s8",
        ]
        assert len(specs) + len(left) == len(target.candidates)

    def test_an_accelerator_needs_all_scales(self) -> None:
        dla = load_target("jetson-agx-orin-dla")
        held = HELD.model_copy(update={"scheme": "tensorrt"})
        with pytest.raises(TargetError, match="a pair around every tensor"):
            select_for_integers(dla, held, precision="auto", engine=None)

    def test_saturation(self) -> None:
        old = load_target("cpu-x86-64-avx2")
        with pytest.raises(TargetError, match="saturate with the 8-bit weights"):
            check_saturation(old, HELD, reduces=True)
        check_saturation(old, HELD.model_copy(update={"seven_bits": True}), reduces=True)
        check_saturation(old, HELD, reduces=False)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("reading")
    path = write_cnn(folder / "cnn.onnx")
    return Workshop.of(path, {"images": cnn_inputs(8)}, folder / "w")


class TestReading:
    @pytest.mark.parametrize(
        ("scheme", "precision"),
        [
            ("u8s8", "int8"),
            ("s8s8", "int8"),
            ("tensorrt", "int8"),
            ("tensorrt-dla", "int8"),
            ("qnn", "int8"),
            ("qnn", "a16w8"),
        ],
    )
    def test_schemes(self, workshop: Workshop, scheme: str, precision: str) -> None:
        model = onnx.load(workshop.quantize(scheme, precision=precision, rough=True))
        facts = IntegerFacts("some", scheme, precision)
        found = read_integers(model, facts, where="m")
        assert found is not None
        assert (found.scheme, found.precision, found.target) == (scheme, precision, "some")
        unsaid = read_integers(model, None, where="m")
        assert unsaid is not None
        assert unsaid.scheme == scheme.removesuffix("-dla")

    @pytest.mark.parametrize("reduced", [True, False])
    def test_bits_of_weights(self, workshop: Workshop, reduced: bool) -> None:
        model = onnx.load(workshop.quantize("u8s8", reduce_range=reduced))
        found = read_integers(model, None, where="m")
        assert found is not None
        assert found.seven_bits is reduced

    def test_a_float_model_has_none(self, workshop: Workshop) -> None:
        assert read_integers(onnx.load(workshop.graph.path), None, where="m") is None
        assert workshop.graph.integers is None

    def test_mixed_types_are_named(self, workshop: Workshop) -> None:
        model = onnx.load(workshop.quantize("u8s8"))
        names = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"]
        for tensor in model.graph.initializer:
            if tensor.name == names[0]:
                tensor.CopyFrom(numpy_helper.from_array(np.int8(0), tensor.name))
        with pytest.raises(ModelError, match="activations int8/uint8, weights int8"):
            read_integers(model, None, where="m")


def spoil(model: Any) -> Any:
    """A rewrite that moves one scale by the least that a float can."""
    scale = next(n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear")
    for tensor in model.graph.initializer:
        if tensor.name == scale:
            value = numpy_helper.to_array(tensor)
            moved = np.nextafter(value, np.float32(np.inf), dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return model


def test_a_rewrite_that_moves_a_scale_is_left_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop.of(trained, {"images": cnn_inputs(8)}, tmp_path / "w")
    monkeypatch.setitem(REWRITES, "spoil", f"{__name__}:spoil")
    (tmp_path / "r").mkdir()
    graph, (remark,) = rewrite_graph(
        workshop.graph, tmp_path / "r", workshop.samples, names=["spoil"]
    )
    assert (remark.outcome, remark.reason) == ("failed", "it changes integers of the model")
    assert graph.path == workshop.graph.path


@dataclass(frozen=True)
class PartOfASearch:
    """As much of a search as `accept_nearest` looks at."""

    target: Target
    gate: Gate
    progress: Progress


class TestAgreement:
    """The fallback to the target's gate, with an engine that is off by a known amount."""

    @staticmethod
    def _search(said: list[ProgressEvent]) -> Any:
        target = target_of(ONNX_INT8, ONNX_FP32)
        gate = strict_gate(target, encoder=True)
        return PartOfASearch(target=target, gate=gate, progress=said.append)

    @staticmethod
    def _trial(cosine: float, gate: Gate) -> Trial:
        figures = dict.fromkeys(("cosine_mean", "cosine_p1", "centred_cosine_mean"), cosine)
        fidelity = Fidelity(samples=9, finite=True, neighbour_agreement=0.9, **figures)
        objection = gate.objection(fidelity)
        status = "rejected" if objection else "passed"
        outcome = Outcome(
            status=status, reason=objection or "", stable_reason="", fidelity=fidelity
        )
        return Trial(ONNX_INT8, Path("."), outcome)

    @pytest.mark.parametrize(
        ("cosines", "statuses", "gate", "warnings"),
        [
            ([0.9995, 0.99], ["passed", "rejected"], 0.999, 0),
            ([0.97, 0.99], ["rejected", "passed"], 0.98, 1),
            ([0.9, 0.97], ["rejected", "rejected"], 0.999, 0),
        ],
    )
    def test_nearest_is_taken_with_a_warning(
        self, cosines: list[float], statuses: list[str], gate: float, warnings: int
    ) -> None:
        said: list[ProgressEvent] = []
        search = self._search(said)
        trials = [self._trial(cosine, search.gate) for cosine in cosines]
        search, judged = accept_nearest(search, trials)
        assert [trial.status for trial in judged] == statuses
        assert search.gate.cosine_mean == gate
        assert [event.warning for event in said] == [True] * warnings
