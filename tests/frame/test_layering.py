"""Every import in the package, also inside functions, against the table of rooms."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BASE = {
    "closing",
    "config",
    "errors",
    "files",
    "images",
    "onnx_metadata",
    "optional",
    "preprocess_option",
    "preprocessing",
    "progress",
    "registry",
    "sounds",
}
DEVICE = {"bundle", "runtime", "targets"} | BASE
TRAINING = {"data", "kernels", "models", "pretraining", "run_directory"} | BASE
ALL = (
    DEVICE
    | TRAINING
    | {
        "benchmarking",
        "compiler",
        "demo",
        "distillation",
        "doctor",
        "evaluation",
        "exporting",
        "pipeline",
        "recipe",
        "stages",
        "verb",
    }
)

# Room → the rooms of edgessl that it may import, besides itself.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "closing": set(),
    "optional": {"errors"},
    "registry": {"errors"},
    "files": {"errors"},
    "progress": set(),
    "config": {"errors"},
    "preprocessing": {"config", "errors"},
    "preprocess_option": {"config", "errors", "preprocessing"},
    "images": {"errors", "optional", "preprocessing"},
    "sounds": {"closing", "errors", "optional", "preprocessing"},
    "onnx_metadata": {"config", "errors", "preprocessing"},
    "run_directory": BASE,
    "kernels": set(),
    "targets": {"config", "errors"},
    "bundle": BASE | {"targets"},
    # What this machine is (targets.host) decides what may be opened on it.
    "runtime": BASE | {"bundle", "targets"},
    "compiler": DEVICE,
    "benchmarking": DEVICE,
    "data": BASE,
    # The PyTorch arm of the benchmark lives beside the encoder that it times.
    "models": BASE | {"benchmarking", "bundle", "run_directory"},
    # The online kNN and effective rank are evaluation's own arithmetic.
    "pretraining": TRAINING | {"evaluation"},
    # It asks the compiler for the target's integers, and for what a student costs there; both
    # answers are files.
    "distillation": TRAINING
    | {"benchmarking", "bundle", "compiler", "evaluation", "exporting", "runtime", "targets"},
    "exporting": BASE | {"models", "run_directory", "runtime"},
    "evaluation": BASE | {"data", "models", "run_directory", "runtime"},
    "doctor": DEVICE,
    "verb": {"config", "errors", "progress"},
    "stages": ALL - {"demo", "doctor", "pipeline", "recipe"},
    "recipe": BASE | {"stages"},
    "pipeline": BASE | {"data", "recipe", "run_directory", "stages"},
    "demo": ALL,
    "cli": ALL,
    "__init__": {"runtime"},
    "__main__": {"cli"},
}

TORCH = {"lightly", "lightning", "pytorch_lightning", "timm", "torch", "torchvision"}
# What a device never has; `nncf` and `onnx` belong to compiling.
NOT_ON_DEVICES = TORCH | {
    "datasets",
    "nncf",
    "onnx",
    "onnxscript",
    "onnxslim",
    "pandas",
    "scipy",
    "sklearn",
    "triton",
}
FORBIDDEN: dict[str, set[str]] = {
    **{room: NOT_ON_DEVICES for room in sorted(DEVICE | {"benchmarking", "doctor"})},
    "compiler": TORCH,
    "recipe": NOT_ON_DEVICES,
    "pipeline": NOT_ON_DEVICES,
    "stages": NOT_ON_DEVICES,
    "verb": NOT_ON_DEVICES,
    "cli": NOT_ON_DEVICES,
}

# Named for a worker process to import, not imported here.
BY_NAME = {("benchmarking", "edgessl.models.arm")}

LAZY = re.compile(r"^(edgessl(?:\.\w+)+):\w+$")


def imports_of(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, `require(…)` and registry entry."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {package}"
            yield from _from_import(node)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            by_name = name in ("require", "import_module", "__import__")
            if by_name and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)
        elif isinstance(node, ast.Constant) and (match := LAZY.match(str(node.value))):
            yield node.lineno, match[1]


def _from_import(node: ast.ImportFrom) -> Iterator[tuple[int, str]]:
    module = str(node.module)
    if module == "edgessl":
        for alias in node.names:
            if alias.name not in ("__version__", "load"):
                yield node.lineno, f"edgessl.{alias.name}"
    else:
        yield node.lineno, module


def violations(room: str, source: str) -> list[str]:
    found = []
    for line, name in imports_of(source, room):
        if (room, name) in BY_NAME:
            continue
        top, _, rest = name.partition(".")
        if top == "edgessl":
            other = rest.partition(".")[0]
            if other and other != room and other not in ROOMS[room]:
                found.append(f"line {line}: {room} imports edgessl.{other}")
        elif top in FORBIDDEN.get(room, ()):
            found.append(f"line {line}: {room} imports {top}")
    return found


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((root / "edgessl").rglob("*.py")):
        parts = path.relative_to(root / "edgessl").with_suffix("").parts
        yield parts[0], path
    for room in ("kernels", "targets"):
        yield from ((room, path) for path in sorted((root / room).rglob("*.py")))


def test_every_import_keeps_to_the_rooms(root: Path) -> None:
    found = {
        str(path.relative_to(root)): bad
        for room, path in modules(root)
        if (bad := violations(room, path.read_text(encoding="utf-8")))
    }
    assert not found


def test_every_room_is_in_the_table(root: Path) -> None:
    assert {room for room, _ in modules(root)} <= set(ROOMS)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("runtime", "def f():\n    import torch\n"),
        ("runtime", "from edgessl.compiler import compile_model\n"),
        ("compiler", "from torch import nn\n"),
        ("compiler", "from edgessl.optional import require\nrequire('torch', extra='train')\n"),
        ("bundle", "from edgessl import pipeline\n"),
        ("kernels", "from edgessl.errors import UsageError\n"),
        ("data", "X = 'edgessl.pretraining.methods.mae:MAE'\n"),
        ("errors", "import edgessl.files\n"),
    ],
)
def test_the_walk_sees_a_forbidden_import(room: str, source: str) -> None:
    assert len(violations(room, source)) == 1


def test_nothing_from_the_standard_library_is_shadowed(root: Path) -> None:
    names = {path.stem for path in (root / "edgessl").glob("*.py")} - {"__init__", "__main__"}
    assert not names & set(sys.stdlib_module_names)
