"""The losses need PyTorch and, where it is, Triton; nothing else, and nothing of edgessl."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgessl.kernels import implementations

ALLOWED = {"edgessl", "torch", "triton", "typing_extensions"} | set(sys.stdlib_module_names)

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from edgessl.kernels import describe_implementation, nt_xent
z = torch.randn(8, 4, requires_grad=True)
loss = nt_xent(z, 0.2)
loss.backward()
torch.testing.assert_close(loss, nt_xent(z, 0.2, implementation="reference"))
print(describe_implementation())
try:
    nt_xent(z, 0.2, implementation="triton")
except ValueError as error:
    print(error)
"""

NOTHING_ELSE = """
import sys
import edgessl.kernels
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("edgessl.")}
assert loaded == {"kernels"}, loaded
assert not any(name.startswith("triton") for name in sys.modules), "Triton is imported when used"
"""


def _run(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return names


def test_imports_of_every_module(root: Path) -> None:
    files = sorted((root / "kernels").rglob("*.py"))
    assert len(files) > 20
    for path in files:
        names = _imports(path)
        assert {name.split(".")[0] for name in names} <= ALLOWED, path
        assert all(n.startswith("edgessl.kernels") for n in names if n.startswith("edgessl")), path


def test_triton_is_imported_in_one_folder(root: Path) -> None:
    elsewhere = {
        path.name
        for path in (root / "kernels").rglob("*.py")
        if path.parent.name != "fused" and any(n.startswith("triton") for n in _imports(path))
    }
    # It asks for Triton's version and for its interpreter, inside functions.
    assert elsewhere == {"implementations.py"}


def test_losses_are_imported_without_the_rest() -> None:
    _run(NOTHING_ELSE)


def test_an_old_triton_is_an_obstacle_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    for found, expected in (("3.4.0", "needs triton 3.6 or newer, found 3.4.0"), ("3.10.1", None)):
        monkeypatch.setattr(implementations, "version", lambda name, found=found: found)
        assert implementations._triton_obstacle() == expected


def test_losses_work_without_triton() -> None:
    described, refused = _run(WITHOUT_TRITON).splitlines()
    assert described.startswith("chunked: ")
    assert "'triton' needs the package triton, which is not installed" in refused
