"""The QNN engine: its options, its refusals, and the emulator in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgessl.errors import ModelError, UnavailableError, UsageError
from edgessl.runtime.session import ENGINES, open_session

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")

SIZE = 8


def write_qdq(path: Path, *, height: int | str = SIZE) -> Path:
    """y = ReLU(1x1 convolution of x), quantized by hand: unsigned 8 bits everywhere."""
    weight = np.random.default_rng(3).integers(0, 256, (4, 3, 1, 1)).astype(np.uint8)

    def scale(name: str, value: float, zero: int) -> list[onnx.TensorProto]:
        return [
            numpy_helper.from_array(np.array(value, np.float32), f"{name}_s"),
            numpy_helper.from_array(np.array(zero, np.uint8), f"{name}_z"),
        ]

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "x_s", "x_z"], ["xd"], name="dq"),
        helper.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["wd"], name="weights"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], name="convolution"),
        helper.make_node("QuantizeLinear", ["c", "y_s", "y_z"], ["cq"], name="q_out"),
        helper.make_node("DequantizeLinear", ["cq", "y_s", "y_z"], ["y"], name="dq_out"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "qdq",
        [info("x", TensorProto.FLOAT, [1, 3, height, SIZE])],
        [info("y", TensorProto.FLOAT, [1, 4, height, SIZE])],
        [
            numpy_helper.from_array(weight, "w"),
            *scale("x", 2 / 255, 128),
            *scale("w", 1 / 128, 128),
            *scale("y", 3 / 255, 0),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def inputs() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)


PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from edgessl.compiler.backends.qnn import compile_context
from edgessl.errors import EdgeSSLError
from edgessl.runtime.engines.qnn import QnnOptions
from edgessl.runtime.session import open_session

folder = Path(sys.argv[1])
answer = {}
compile_context(folder / "qdq.onnx", folder / "ctx.onnx", QnnOptions(htp_arch=75, soc_model=57))
x = np.load(folder / "x.npy")
for name in ("qdq.onnx", "ctx.onnx"):
    session = open_session("qnn", folder / name, {"emulate": True, "threads": 2})
    (folder / name).rename(folder / ("moved-" + name))
    answer[name] = session.run({"x": x})["y"].tolist()
    first = session.run({"x": x})["y"]
    session.run({"x": -x})
    answer[name + " stays"] = bool((first == answer[name]).all())
    answer[name + " takes"] = [s.model_dump(mode="json") for s in session.inputs]
    session.close()
compile_context(folder / "moved-qdq.onnx", folder / "v79.onnx", QnnOptions(htp_arch=79))
session = open_session("qnn", folder / "v79.onnx", {"emulate": True, "htp_arch": 68})
answer["v79 on v68"] = session.run({"x": x})["y"].tolist()
session.close()
for name in ("free.onnx", "half.onnx", "text.onnx"):
    try:
        open_session("qnn", folder / name, {"emulate": True})
    except EdgeSSLError as error:
        answer[name] = [type(error).__name__, str(error)]
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one process with the emulator found; nothing else may be on its standard output."""
    folder = tmp_path_factory.mktemp("emulator")
    model = write_qdq(folder / "qdq.onnx")
    write_qdq(folder / "free.onnx", height="h")
    (folder / "half.onnx").write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    (folder / "text.onnx").write_text("no model")
    np.save(folder / "x.npy", inputs())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: dict = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("name", ["qdq.onnx", "ctx.onnx"])
def test_the_emulator_computes_the_quantized_convolution(emulated: dict, name: str) -> None:
    weight = np.random.default_rng(3).integers(0, 256, (4, 3, 1, 1)).astype(np.float64)
    x = np.clip(np.rint(inputs() / (2 / 255)) + 128, 0, 255) - 128
    exact = np.einsum("nchw,oc->nohw", x * (2 / 255), (weight[:, :, 0, 0] - 128) / 128)
    expected = np.clip(exact, 0, 3)
    # One step of the output's scale: the emulator rounds as the NPU does.
    np.testing.assert_allclose(emulated[name], expected, atol=1.01 * 3 / 255)


@pytest.mark.parametrize("name", ["qdq.onnx", "ctx.onnx"])
def test_the_file_may_go_and_results_stay(emulated: dict, name: str) -> None:
    assert emulated[f"{name} stays"]
    assert emulated[f"{name} takes"] == [
        {"name": "x", "dtype": "float32", "shape": [1, 3, SIZE, SIZE]}
    ]


def test_what_cannot_be_opened_is_one_line(emulated: dict) -> None:
    for name in ("free.onnx", "half.onnx", "text.onnx"):
        kind, message = emulated[name]
        assert kind == "ModelError"
        assert name in message
        assert "\n" not in message


def test_the_emulator_does_not_notice_another_architecture(emulated: dict) -> None:
    """The trap: so preflight and the read-back compare the versions, not the emulator."""
    assert emulated["v79 on v68"] == emulated["ctx.onnx"]


def test_nodes_that_the_npu_does_not_take_are_named(emulated: dict) -> None:
    """onnxruntime's own message names none."""
    assert "NPU" in emulated["free.onnx"][1]


def test_it_has_a_version() -> None:
    assert ENGINES.get("qnn").version().split(".")[0].isdigit()


def test_without_an_npu_nothing_else_computes(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="emulator"):
        open_session("qnn", write_qdq(tmp_path / "qdq.onnx"))


def test_the_emulator_exists_on_x86_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="x86-64"):
        open_session("qnn", write_qdq(tmp_path / "qdq.onnx"), {"emulate": True})


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"emulated": True}, "emulate"),
        ({"htp_arch": 99}, "htp_arch"),
        ({"htp_arch": "abc"}, "htp_arch"),
        ({"soc_model": 0}, "soc_model"),
        ({"backend": "cpu"}, "backend"),
        ({"htp_performance_mode": "turbo"}, "htp_performance_mode"),
        ({"threads": -1}, "threads"),
    ],
)
def test_options_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, object], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        open_session("qnn", tmp_path / "model.onnx", options)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx: no such file"):
        open_session("qnn", tmp_path / "nothing.onnx", {"emulate": True})
