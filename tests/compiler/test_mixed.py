"""Mixed precision: layers go back to float, the cheapest that are enough for the gate."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from contracts.compiling import ONNX_FP32, ONNX_INT8, compile_quietly, target_of
from contracts.onnx_models import write_cnn
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import Fidelity
from edgessl.compiler import FidelityGateError
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.layer_cost import LayerCosts
from edgessl.compiler.mixed import _Rescue, allowed_share
from edgessl.compiler.trial import Outcome, Trial
from edgessl.progress import ProgressEvent
from edgessl.targets import CandidateSpec

Inputs = NDArray[np.float32]


@pytest.fixture
def fragile(tmp_path: Path) -> Path:
    """One convolution whose output a few large channels spread over a range that 8 bits lose."""
    path = write_cnn(tmp_path / "fragile.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            weights = numpy_helper.to_array(tensor).copy()
            weights[0] *= 120.0
            tensor.CopyFrom(numpy_helper.from_array(weights, "w1"))
        if tensor.name == "w2":
            weights = numpy_helper.to_array(tensor).copy()
            weights[:, 0] /= 120.0
            tensor.CopyFrom(numpy_helper.from_array(weights, "w2"))
    onnx.save(model, path)
    return path


def test_layers_go_back_to_float_until_it_passes(fragile: Path, inputs: Inputs) -> None:
    target = target_of(ONNX_INT8, min_neighbour_agreement=0.0)
    with pytest.raises(FidelityGateError) as missed:
        compile_quietly(fragile, target, inputs, overrides={"max_float_layers": 0})
    (plain,) = missed.value.report.candidates
    assert plain.fidelity is not None
    report = compile_quietly(fragile, target, inputs, overrides={"max_float_layers": 4})
    # Times decide whether the cheapest layers are others than the most harmful ones.
    rejected, *rescued = report.candidates
    assert rejected.status == "rejected"
    assert {c.name for c in rescued} <= {f"{ONNX_INT8.name}-mixed{end}" for end in ("", "-worst")}
    (mixed,) = [c for c in rescued if c.status == "chosen"]
    assert mixed.fidelity is not None
    assert mixed.fidelity.cosine_mean > max(0.98, plain.fidelity.cosine_mean)
    with open_bundle(fragile.parent / "model.edge") as bundle:
        graph = onnx.load_from_string(bundle.read(bundle.manifest.model)).graph
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantized, "some layers must stay integer"


def test_times_are_measured_once_and_the_bytes_stay_the_same(
    fragile: Path, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGESSL_CACHE", str(cache))
    target = target_of(ONNX_INT8, min_neighbour_agreement=0.0)
    events: list[ProgressEvent] = []
    bundles = []
    for number in range(2):
        report = compile_quietly(
            fragile,
            target,
            inputs,
            overrides={"max_float_layers": 4},
            out=tmp_path / f"{number}.edge",
            progress=events.append,
        )
        assert "the cheapest by times measured here" in report.candidates[1].reason
        bundles.append((tmp_path / f"{number}.edge").read_bytes())
        shutil.rmtree(cache / "compile")
    assert bundles[0] == bundles[1]
    assert sum("timing" in (event.message or "") for event in events) == 1


def test_for_a_device_that_is_not_here_work_is_counted(fragile: Path, inputs: Inputs) -> None:
    other = {"x86_64": "aarch64", "AMD64": "aarch64"}.get(platform.machine(), "x86_64")
    scheme = ONNX_INT8.model_copy(update={"scheme": "s8s8"})
    target = target_of(scheme, min_neighbour_agreement=0.0, arch=other)
    report = compile_quietly(fragile, target, inputs, overrides={"max_float_layers": 4})
    (mixed,) = [c for c in report.candidates if c.name.endswith("-mixed")]
    assert mixed.status == "chosen"
    assert "by operations and bytes, not by times" in mixed.reason
    with open_bundle(fragile.parent / "model.edge") as bundle:
        graph = onnx.load_from_string(bundle.read(bundle.manifest.model)).graph
    assert [node for node in graph.node if node.op_type == "QuantizeLinear"]


def test_what_passes_is_left_alone(model: Path, inputs: Inputs) -> None:
    report = compile_quietly(model, target_of(ONNX_FP32, ONNX_INT8), inputs)
    assert not [c for c in report.candidates if "mixed" in c.name]


def test_a_wide_miss_is_not_tried() -> None:
    gate = Gate.of(0.98, neighbour_agreement=0.7, sqnr_db=15.0, encoder=False)
    assert allowed_share(gate, None) == 0.0
    noisy = Fidelity(
        samples=9,
        finite=True,
        cosine_mean=0.9,
        cosine_p1=0.9,
        centred_cosine_mean=0.9,
        neighbour_agreement=1.0,
        sqnr_db=5.0,
    )
    assert allowed_share(gate, noisy) == pytest.approx(0.1)
    encoder = Gate.of(0.98, neighbour_agreement=0.7)
    assert allowed_share(encoder, noisy) == pytest.approx(0.2)


def test_cheapest_and_most_harmful_layers_are_both_built(tmp_path: Path) -> None:
    """Layers b and c are cheap and together enough; a and b remove most."""
    removals = {0: 5.0, 1: 3.0, 2: 3.0}
    fidelity = Fidelity(
        samples=9,
        finite=True,
        cosine_mean=0.98,
        cosine_p1=0.98,
        centred_cosine_mean=0.98,
        neighbour_agreement=1.0,
    )

    class Layers:
        names = ("a", "b", "c")

        def __init__(self) -> None:
            self.removals = tuple(removals.values())

        def error(self, kept: frozenset[int]) -> float:
            return 11.0 - sum(removals[k] for k in kept)

        def nodes(self, chosen: tuple[int, ...]) -> list[str]:
            return [self.names[k] for k in chosen]

    def attempt(spec: CandidateSpec, *, keep_float: list[str]) -> Trial:
        outcome = Outcome(
            status="passed",
            reason="",
            stable_reason="",
            fidelity=fidelity,
            kept_float=tuple(keep_float),
        )
        return Trial(spec, tmp_path, outcome)

    search: Any = SimpleNamespace(
        obstacle=None,
        gate=Gate.of(0.98, neighbour_agreement=0.7),
        progress=lambda event: None,
        attempt=attempt,
    )
    rejected = Trial(ONNX_INT8, tmp_path, Outcome.failed("misses the gate"))

    def found(basis: Literal["measured", "counted"]) -> dict[str, tuple[str, ...]]:
        costs = LayerCosts(basis=basis, costs=(10.0, 1.0, 1.0))
        trials = _Rescue(search, rejected, cast(Any, Layers()), costs, 3).run(0.5)
        return {trial.name: trial.outcome.kept_float for trial in trials}

    name = f"{ONNX_INT8.name}-mixed"
    assert found("measured") == {name: ("b", "c"), f"{name}-worst": ("a", "b")}
    assert found("counted") == {name: ("b", "c")}
    search.obstacle = "not here"
    assert found("measured") == {name: ("b", "c")}
