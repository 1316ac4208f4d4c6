"""Scripts of ``benchmarks/compile/``, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["compile_script"]


def compile_script(root: Path, name: str) -> ModuleType:
    """Import one by its name."""
    spec = importlib.util.spec_from_file_location(name, root / "benchmarks/compile" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
