"""Import everything in a process where only the base dependencies exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Import names of what the extras bring, with what those bring in turn.
EXTRAS = [
    "asyncssh",
    "braceexpand",
    "cryptography",
    "cuda",
    "datasets",
    "imagecodecs",
    "jinja2",
    "lightly",
    "lightning",
    "matplotlib",
    "mlflow",
    "mlperf_loadgen",
    "nncf",
    "onnx",
    "onnxruntime_qnn",
    "onnxscript",
    "onnxslim",
    "openvino",
    "pandas",
    "plotly",
    "pytorch_lightning",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboard",
    "tensorrt",
    "tifffile",
    "timm",
    "tomlkit",
    "torch",
    "torchvision",
    "triton",
]

# These rooms are PyTorch code; on a device nobody imports them.
TORCH_ROOMS = ("distillation", "exporting", "kernels", "models", "pretraining")
TORCH_MODULES = {
    f"edgessl.data.{name}" for name in ("augment", "batch", "image_views", "loader", "resample")
}

BLOCK = f"""
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run_blocked(code: str, *, cache: Path) -> Any:
    environment = {**os.environ, "EDGESSL_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def module_names(root: Path) -> list[str]:
    folders = {
        root / "edgessl": "edgessl",
        root / "kernels": "edgessl.kernels",
        root / "targets": "edgessl.targets",
    }
    names = []
    for folder, package in folders.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            names.append(".".join([package, *(p for p in parts if p != "__init__")]))
    return [name for name in names if name != "edgessl.__main__"]


def needs_torch(name: str) -> bool:
    parts = name.split(".")
    return (len(parts) > 1 and parts[1] in TORCH_ROOMS) or name in TORCH_MODULES


def test_every_module_imports_without_the_extras(root: Path, tmp_path: Path) -> None:
    names = [name for name in module_names(root) if not needs_torch(name)]
    assert len(names) > 50
    code = f"""
import importlib
failed = {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""
    assert run_blocked(code, cache=tmp_path) == {}


def test_every_module_imports_with_the_extras(root: Path) -> None:
    pytest.importorskip("torch")
    names = [name for name in module_names(root) if needs_torch(name)]
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_exemptions_are_needed(root: Path, tmp_path: Path) -> None:
    """A module that no longer needs PyTorch leaves the list."""
    names = sorted(TORCH_MODULES)
    assert set(names) <= set(module_names(root))
    code = f"""
import importlib
free = []
for name in {names!r}:
    try:
        importlib.import_module(name)
        free.append(name)
    except ImportError:
        pass
print(json.dumps(free))
"""
    assert run_blocked(code, cache=tmp_path) == []


@pytest.mark.parametrize("module", ["edgessl.runtime", "edgessl.bundle.archive", "edgessl"])
def test_the_device_side_loads_neither_torch_nor_onnx(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & set(EXTRAS)


def test_doctor_works_without_the_extras_and_says_what_installs_them(tmp_path: Path) -> None:
    code = "from edgessl.doctor import diagnose\nprint(diagnose().model_dump_json())"
    found = run_blocked(code, cache=tmp_path)
    engines = {engine["name"]: engine for engine in found["engines"]}
    assert engines["onnxruntime"]["obstacle"] is None
    assert "pip install 'edgessl[openvino]'" in engines["openvino"]["obstacle"]
    host = next(target for target in found["targets"] if target["name"] == "host")
    assert host["runs"] is True
    assert host["builds"] == []
    assert "pip install 'edgessl[compile]'" in " ".join(host["obstacles"])


@pytest.mark.parametrize("verb", ["pretrain", "distill", "export"])
def test_a_verb_without_its_extra_exits_4_and_names_the_command(verb: str, tmp_path: Path) -> None:
    arguments = {
        "pretrain": ["--data", "d", "--out", "r"],
        "distill": ["--teacher", "t", "--student", "s", "--data", "d", "--out", "r"],
        "export": ["r", "--out", "m.onnx"],
    }[verb]
    code = f"""
import contextlib, io
from edgessl.cli.main import main
said = io.StringIO()
with contextlib.redirect_stderr(said):
    code = main({[verb, *arguments]!r})
print(json.dumps([code, said.getvalue()]))
"""
    exit_code, said = run_blocked(code, cache=tmp_path)
    assert exit_code == 4, said
    assert "pip install 'edgessl[train]'" in said
    assert said.count("\n") == 1
