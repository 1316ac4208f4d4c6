"""A long-lived process that opens bundles one after the other, and its parent's end.

``python bundle_process.py BYTES`` limits its own address space, and answers each line of input,
the path of a bundle, with a line of JSON: what became of it.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["MEMORY_BYTES", "BundleProcess", "peak_memory_bytes"]

MEMORY_BYTES = 3 * 2**30


class BundleProcess:
    """The parent's end; the process is started again after a case that kills it.

    Args:
        folder: Its temporary folder, which must be empty after each case.
        timeout_s: Longest that one bundle may take.
    """

    def __init__(self, folder: Path, *, timeout_s: float = 20.0) -> None:
        self.folder = folder
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None

    def open(self, bundle: Path) -> dict[str, Any]:
        """Verify a bundle, load it and run it: ``verdict``, ``reason`` and ``output``.

        The verdict is ``"refused"`` with edgessl's error, ``"differs"`` if its canaries do,
        ``"runs"``, ``"traceback"``, ``"crashed"`` or ``"too slow"``.
        """
        process = self._start()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        process.stdin.write(f"{bundle}\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout_s):
                self.close()
                return {"verdict": "too slow", "reason": f"more than {self._timeout_s} s"}
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close()
            return {"verdict": "crashed", "reason": f"exit code {code}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def memory_bytes(self) -> int:
        """Most that the process which is alive now has held; 0 if none is."""
        return 0 if self._process is None else peak_memory_bytes(self._process.pid)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def __enter__(self) -> BundleProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(MEMORY_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"},
                cwd=self.folder,
            )
        return self._process


def peak_memory_bytes(pid: int) -> int:
    """High-water mark of a process; 0 if it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    marks = [line.split()[1] for line in lines.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else 0


def _open(path: str) -> dict[str, Any]:
    import numpy as np

    import edgessl
    from edgessl.errors import EdgeSSLError, GateError
    from edgessl.runtime import verify

    try:
        verify(path, threads=1).require_passed()
        with edgessl.load(path, threads=1) as model:
            batch = np.linspace(-1, 1, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
            return {"verdict": "runs", "reason": "", "output": model(batch).tolist()}
    except GateError as error:
        return {"verdict": "differs", "reason": str(error)}
    except EdgeSSLError as error:
        return {"verdict": "refused", "reason": str(error)}
    except BaseException as error:  # whatever it is, it must not be, and the test says so
        return {"verdict": "traceback", "reason": f"{type(error).__name__}: {error}"[:500]}


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_open(line.rstrip("\n"))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
