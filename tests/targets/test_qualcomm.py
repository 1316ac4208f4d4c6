"""The table of Qualcomm's chips against what Qualcomm's own compiler does with their numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgessl.errors import TargetError
from edgessl.targets import list_targets, load_target
from edgessl.targets.qualcomm import SOCS, find_soc, soc_of_kernel


def test_every_target_has_a_chip_of_the_table_and_every_chip_a_target() -> None:
    targets = [load_target(name) for name in list_targets()]
    assert {t.qualcomm.soc for t in targets if t.qualcomm is not None} == set(SOCS)


def test_architectures_and_numbers() -> None:
    table = {name: (soc.soc_model, soc.htp_arch) for name, soc in SOCS.items()}
    assert table == {
        "QCS6490": (93, 68),
        "QCS8550": (66, 73),
        "SC8380XP": (60, 73),
        "SM8650": (57, 75),
        "SM8750": (69, 79),
    }
    assert [name for name, soc in SOCS.items() if soc.precisions == ("int8",)] == ["QCS6490"]
    assert all(soc.sources for soc in SOCS.values())


def test_an_unknown_chip_names_the_nearest() -> None:
    assert find_soc("QCS6490").htp_arch == 68
    with pytest.raises(TargetError, match="did you mean QCS6490"):
        find_soc("QCS6491")


def test_each_kernel_number_means_one_chip() -> None:
    ids = [number for soc in SOCS.values() for number in soc.kernel_ids]
    assert len(ids) == len(set(ids))
    assert soc_of_kernel(soc_id="x", machine="qcs8550") == "QCS8550"


# Aborts and crashes of the compiler stay in this process.
COMPILE = """
import json, sys
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import onnxruntime as ort
import onnxruntime_qnn

def scale(name, value):
    zero = numpy_helper.from_array(np.array(128, np.uint8), name + "_z")
    return [numpy_helper.from_array(np.array(value, np.float32), name + "_s"), zero]

weights = np.random.default_rng(0).integers(100, 156, (8, 3, 3, 3)).astype(np.uint8)
initializers = [numpy_helper.from_array(weights, "w"), *scale("x", 0.02), *scale("k", 0.01),
                *scale("y", 0.05)]
nodes = [
    helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "x_s", "x_z"], ["xd"]),
    helper.make_node("DequantizeLinear", ["w", "k_s", "k_z"], ["wd"]),
    helper.make_node("Conv", ["xd", "wd"], ["c"], pads=[1, 1, 1, 1]),
    helper.make_node("QuantizeLinear", ["c", "y_s", "y_z"], ["cq"]),
    helper.make_node("DequantizeLinear", ["cq", "y_s", "y_z"], ["y"]),
]
info = helper.make_tensor_value_info
graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
                          [info("y", TensorProto.FLOAT, [1, 8, 8, 8])], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
ort.register_execution_provider_library("QNNExecutionProvider", onnxruntime_qnn.get_library_path())
device = [d for d in ort.get_ep_devices() if d.ep_name == "QNNExecutionProvider"][:1]

def binary(**options):
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    settings.add_provider_for_devices(device, {**backend, **options})
    compiler = ort.ModelCompiler(settings, model.SerializeToString(),
                                 embed_compiled_data_into_model=True)
    context = onnx.load_from_string(compiler.compile_to_bytes())
    attributes = [a for node in context.graph.node for a in node.attribute]
    return next(a.s for a in attributes if a.name == "ep_cache_context")

archs = json.loads(sys.argv[1])
known = {arch: binary(htp_arch=str(arch)) for arch in archs}
length = min(map(len, known.values()))
places = [i for i in range(length) if all(known[arch][i] == arch for arch in archs)]
found = {}
for number in json.loads(sys.argv[2]):
    made = binary(soc_model=str(number))
    found[number] = sorted({arch for arch in archs
                            if places and all(made[i] == arch for i in places[:1])})
# A number beats an architecture that does not belong to it; the metadata would say v73.
mixed = binary(soc_model="93", htp_arch="73")
print("ANSWER" + json.dumps([found, [mixed[i] for i in places[:1]]]))
"""


def test_the_compiler_writes_these_architectures_for_these_numbers(tmp_path: Path) -> None:
    """The architecture in a context binary, found by compiling for each architecture by name.

    ``ep_compatibility_info`` in the file's metadata only repeats the option ``htp_arch``.
    """
    pytest.importorskip("onnxruntime_qnn")
    numbers = [soc.soc_model for soc in SOCS.values()]
    archs = [68, 69, 73, 75, 79, 81]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(archs), json.dumps(numbers)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = done.stdout.partition("ANSWER")[2].splitlines()[0]
    found, mixed = json.loads(answer)
    assert found == {str(soc.soc_model): [soc.htp_arch] for soc in SOCS.values()}
    assert mixed == [68]
