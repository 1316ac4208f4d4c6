"""What TensorRT says while it works: kept, never printed."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

__all__ = ["collecting_logger"]

_KEPT = 20


def collecting_logger(trt: Any) -> Any:
    """A logger that keeps the last errors and warnings; ``errors()`` gives them as one line.

    TensorRT holds on to it, and calls it from its own threads.
    """

    # TensorRT is no dependency, so mypy takes its classes for Any.
    class Collecting(trt.ILogger):  # type: ignore[misc]
        """Keeps what matters."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._lock = threading.Lock()
            self._errors: deque[str] = deque(maxlen=_KEPT)
            self._warnings: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT."""
            text = " ".join(str(msg).split())
            with self._lock:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    self._errors.append(text)
                elif severity == trt.ILogger.WARNING:
                    self._warnings.append(text)

        def errors(self, *, most: int = 2) -> str:
            """The last errors, else warnings, in one line."""
            with self._lock:
                said = list(self._errors) or list(self._warnings)
            return "; ".join(text[:200] for text in said[-most:]) or "TensorRT gave no reason"

    return Collecting()
