"""The one place that imports optional packages."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any, cast

from edgessl.errors import UnavailableError

__all__ = ["is_available", "require"]

# onnxruntime 1.29 and later report models and hardware to Microsoft unless this is set before
# it is imported. A user who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# `import openvino` reports to Intel through this package, from a process that it forks off a thread
# and that may hang for ever. Without the package, OpenVINO and NNCF report nothing. A user who
# wants it imports it first.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)


def is_available(module: str) -> bool:
    """Tell whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def require(module: str, *, extra: str) -> Any:
    """Import an optional module.

    Args:
        module: Dotted module name, for example ``"openvino"``.
        extra: The extra of edgessl that installs it.

    Returns:
        The imported module.

    Raises:
        UnavailableError: The module is not installed or fails to load; the message holds the
            command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"{module} cannot be imported ({error}); install it with: "
            f"pip install 'edgessl[{extra}]'"
        ) from error
