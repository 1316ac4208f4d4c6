"""Every TensorRT and CUDA name that the code uses exists in the versions that it spans."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHARED_VERSIONS = ("10.3.0", "10.13.3", "11.4.0")
# What only some versions have; `versions.py` asks before it uses one.
PARTLY = {
    "BuilderFlag.EDITABLE_TIMING_CACHE",
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.PREFER_PRECISION_CONSTRAINTS",
    "ILayer.precision",
    "ITensor.set_dynamic_range",
    "OnnxParserFlag.ADJUST_FOR_DLA",
}


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    """The benchmark that collects and looks up names."""
    place = root / "benchmarks" / "compile" / "tensorrt_names.py"
    spec = importlib.util.spec_from_file_location("tensorrt_names", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def used(script: ModuleType) -> dict[str, list[str]]:
    names: dict[str, list[str]] = script.used_names()
    return names


def partly(found: dict[str, list[str]], count: int) -> set[str]:
    assert all(found.values()), [name for name, versions in found.items() if not versions]
    return {name for name, versions in found.items() if len(versions) < count}


def check_modules(used: dict[str, list[str]], names: set[str]) -> None:
    assert names == PARTLY
    assert {module for name in names for module in used[name]} == {"versions.py"}


def test_the_collection_sees_what_the_code_does(used: dict[str, list[str]]) -> None:
    assert len(used) > 90
    for name in (
        "Builder.build_serialized_network",
        "IBuilderConfig.DLA_core",
        "IExecutionContext.execute_async_v3",
        "IProgressMonitor.step_complete",
        "LayerType.DEQUANTIZE",
        "ProfilingVerbosity.DETAILED",
        "Runtime.deserialize_cuda_engine",
    ):
        assert name in used


def test_a_new_name_is_collected(script: ModuleType, tmp_path: Path) -> None:
    source = "def f(trt, self):\n    k = trt.LayerType\n    k.NEW\n    self._engine.old()\n"
    (tmp_path / "m.py").write_text(source + "    hasattr(trt.BuilderFlag, 'FOO')\n")
    names = set(script.names_in(tmp_path / "m.py"))
    assert {"LayerType.NEW", "ICudaEngine.old", "BuilderFlag.FOO"} <= names


def test_names_against_the_lists_of_the_wheels(used: dict[str, list[str]], shared: Path) -> None:
    lists = {
        version: json.loads((shared / "tensorrt-api" / f"tensorrt-{version}.json").read_text())
        for version in SHARED_VERSIONS
    }

    def exists(names: dict[str, Any], name: str) -> bool:
        owner, _, member = name.partition(".")
        return owner in names and (member in ("", "__init__") or member in names[owner])

    found = {n: [v for v in lists if exists(lists[v], n)] for n in used}
    check_modules(used, partly(found, len(lists)))


def test_names_against_what_the_wheels_said(root: Path, used: dict[str, list[str]]) -> None:
    """The committed answer covers the code as it is; else run the benchmark again."""
    result = json.loads((root / "benchmarks" / "results" / "tensorrt_names.json").read_text())
    known = {name: entry["in"] for name, entry in result["names"].items()}
    assert set(used) == set(known), "run benchmarks/compile/tensorrt_names.py"
    check_modules(used, partly(known, len(result["wheels"])))
    assert list(result["strongly_typed"].values()) == [True, False, True]
    assert list(result["ranges_for_the_dla"].values()) == [True, True, False]
    # The flag's position moved: a number in the code would be another flag in 11.
    assert list(result["flag"].values()) == [2, 2, 1]


def test_names_against_the_wheels(
    script: ModuleType, used: dict[str, list[str]], tmp_path: Path
) -> None:
    if shutil.which("gcc") is None or sys.platform != "linux":
        pytest.skip("the bindings are imported over stub libraries, which gcc makes on Linux")
    try:
        result = script.survey(tmp_path)
    except subprocess.CalledProcessError as error:
        if "download" not in error.cmd:
            raise
        pytest.skip(f"pip cannot fetch the bindings: {error.stderr[-200:]!r}")
    found = {name: entry["in"] for name, entry in result["names"].items()}
    check_modules(used, partly(found, len(script.WHEELS)))


def test_cudas_names_exist(root: Path) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = (root / "edgessl" / "runtime" / "tensorrt" / "memory.py").read_text()
    names = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "cudart"
    }
    assert len(names) > 12
    assert [name for name in sorted(names) if not hasattr(runtime, name)] == []
    assert hasattr(runtime.cudaError_t, "cudaSuccess")
    for kind in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"):
        assert hasattr(runtime.cudaMemcpyKind, kind)
    assert {"name", "major", "minor"} <= set(dir(runtime.cudaDeviceProp))


def test_the_doubles_have_no_name_that_the_bindings_lack(used: dict[str, list[str]]) -> None:
    from contracts.tensorrt_double import TensorRT

    for version, gone in (("10.3.0", "EDITABLE_TIMING_CACHE"), ("11.4.0", "FP16")):
        assert not hasattr(TensorRT(version).BuilderFlag, gone)
