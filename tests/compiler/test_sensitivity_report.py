"""`edgessl sensitivity`: the report, the files, the cache and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from contracts.compiling import ONNX_FP32, ONNX_INT8, target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop
from edgessl.cli.main import main
from edgessl.compiler import SensitivityReport, sensitivity_report
from edgessl.compiler.layer_chart import draw_layers
from edgessl.compiler.layer_losses import LayerSensitivity
from edgessl.compiler.sensitivity import Loss
from edgessl.errors import ModelError, TargetError
from edgessl.progress import ProgressEvent

SETTINGS = {"samples": 8, "calibration_samples": 16, "threads": 1}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cnn(tmp_path_factory.mktemp("model") / "cnn.onnx")


@pytest.fixture(scope="module")
def data() -> Any:
    return {"images": cnn_inputs(24)}


def _report(model: Path, data: Any, **arguments: Any) -> SensitivityReport:
    values: dict[str, Any] = {"target": target_of(ONNX_FP32, ONNX_INT8), "overrides": SETTINGS}
    return sensitivity_report(model, data=data, **{**values, **arguments})


class TestReport:
    def test_layers_stand_in_order_and_both_ways_are_measured(
        self, model_file: Path, data: Any, tmp_path: Path
    ) -> None:
        events: list[ProgressEvent] = []
        report = _report(model_file, data, out=tmp_path / "out", progress=events.append)
        losses = [layer.alone.cosine_loss for layer in report.layers]
        assert losses == sorted(losses, reverse=True)
        assert {"conv1", "conv2"} <= {layer.node for layer in report.layers}
        assert report.encoder
        assert (report.samples, report.calibration_samples) == (8, 16)
        whole = report.all_quantized.cosine_loss
        assert whole > 0
        # One layer in float leaves about what it alone does not do.
        worst = report.layers[0]
        assert worst.left_without.cosine_loss < whole
        left = whole - worst.alone.cosine_loss
        assert worst.left_without.cosine_loss == pytest.approx(left, abs=0.5 * whole)
        assert {e.unit for e in events if e.stage == "sensitivity"} == {"trials"}
        written = (tmp_path / "out" / "sensitivity.json").read_bytes()
        assert SensitivityReport.model_validate_json(written) == report
        assert json.loads(written)["schema_version"] == 1
        with Image.open(tmp_path / "out" / "sensitivity.png") as picture:
            assert picture.width == 1100

    def test_the_second_time_is_remembered_and_the_same(self, model_file: Path, data: Any) -> None:
        first = _report(model_file, data)
        events: list[ProgressEvent] = []
        assert _report(model_file, data, progress=events.append) == first
        assert not [e for e in events if e.unit == "trials"]
        other = _report(model_file, data, overrides={**SETTINGS, "seed": 1})
        assert other.data_sha256 != first.data_sha256

    def test_an_interrupted_one_goes_on(
        self, model_file: Path, data: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path))

        def stop(event: ProgressEvent) -> None:
            if event.unit == "trials" and event.completed:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _report(model_file, data, progress=stop)
        events: list[ProgressEvent] = []
        resumed = _report(model_file, data, progress=events.append)
        done = [e.completed for e in events if e.unit == "trials"]
        assert done[0] > 0
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "other"))
        assert _report(model_file, data) == resumed


class TestErrors:
    def test_a_quantized_model(self, model_file: Path, data: Any, tmp_path: Path) -> None:
        workshop = Workshop.of(model_file, data, tmp_path / "shop")
        with pytest.raises(ModelError, match="quantized already"):
            _report(workshop.quantize("u8s8"), data)

    def test_a_target_without_integers(self, model_file: Path, data: Any) -> None:
        with pytest.raises(TargetError, match="no integer support"):
            _report(model_file, data, target=target_of(ONNX_FP32))

    def test_nothing_to_quantize(self, tmp_path: Path) -> None:
        shape = ["batch", 4]
        graph = helper.make_graph(
            [helper.make_node("Exp", ["x"], ["y"], "exp")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, tmp_path / "m.onnx")
        inputs = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
        with pytest.raises(ModelError, match="nothing of the graph can be quantized"):
            _report(tmp_path / "m.onnx", inputs)


def _large_report(count: int, name: str, *, encoder: bool = True) -> SensitivityReport:
    def loss(value: float) -> Loss:
        return Loss(noise=value, cosine_loss=value, centred_cosine_loss=value, sqnr_db=10.0)

    layers = tuple(
        LayerSensitivity(
            node=f"{name}{k}", operator="Conv", alone=loss(1 / (k + 1)), left_without=loss(0.9)
        )
        for k in range(count)
    )
    facts = dict.fromkeys(
        ("model", "model_sha256", "data_sha256", "calibration_sha256", "target", "engine"), "x"
    )
    return SensitivityReport(
        **facts,
        precision="int8",
        scheme="u8s8",
        method="minmax",
        encoder=encoder,
        seed=0,
        samples=8,
        calibration_samples=8,
        cpu="x",
        versions={},
        all_quantized=loss(1.0),
        layers=layers,
        left_float=(),
    )


@pytest.mark.parametrize(
    ("count", "name", "rows"),
    [(1, "conv", 1), (41, "a$b_{", 41), (150, "/backbone/" + "stages.0/" * 12, 41)],
)
def test_the_picture_grows_with_its_rows_and_not_beyond(
    tmp_path: Path, count: int, name: str, rows: int
) -> None:
    draw_layers(_large_report(count, name), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (1100, 150 + 30 * rows)


class TestCommand:
    def arguments(self, model: Path, folder: Path, *more: str) -> list[str]:
        np.savez(folder / "d.npz", images=cnn_inputs(24))
        given = [str(model), "--target", "cpu-x86-64", "--data", str(folder / "d.npz")]
        return ["sensitivity", *given, "--samples", "8", "threads=1", *more]

    def test_the_table(
        self, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(self.arguments(model_file, tmp_path, "--out", str(tmp_path / "o"))) == 0
        out = capsys.readouterr().out
        assert "1 - cosine, alone" in out
        assert "conv2" in out
        assert (tmp_path / "o" / "sensitivity.png").is_file()

    def test_one_json_object(
        self, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(self.arguments(model_file, tmp_path, "--json")) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["target"] == "cpu-x86-64"
        assert report["layers"][0]["alone"]["cosine_loss"] > 0

    def test_an_unknown_setting(
        self, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(self.arguments(model_file, tmp_path, "sample=3")) == 2
        assert "did you mean" in capsys.readouterr().err
