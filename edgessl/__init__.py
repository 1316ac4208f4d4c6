"""edgessl: from unlabelled data to a small, verified model on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgessl.runtime import load as load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the runtime only when it is asked for: ``edgessl.load``."""
    if name == "load":
        from edgessl.runtime import load

        return load
    raise AttributeError(f"module 'edgessl' has no attribute '{name}'")
