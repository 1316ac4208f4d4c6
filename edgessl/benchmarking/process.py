"""The parent's side of a worker process."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import edgessl.errors
from edgessl.benchmarking.arm import ArmSpec
from edgessl.closing import Closing
from edgessl.errors import EdgeSSLError, UnavailableError

__all__ = ["STARTED_VARIABLE", "WorkerProcess"]

STARTED_VARIABLE = "EDGESSL_STARTED_NS"
"""Monotonic clock of the parent when it started the process; all processes share that clock."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerProcess(Closing):
    """One arm in a process of its own, so that arms share neither memory nor thread pools.

    Args:
        spec: The arm.
        seed: Of synthetic inputs.
        folder: Where the process puts its temporary files; the caller removes it.
        affinity: CPUs that it is bound to; empty leaves it to the system.
        timeout_s: Longest that a command may take beyond what it was asked to take.

    Attributes:
        import_ms: From the start of the process until what computes is imported.
    """

    def __init__(
        self,
        spec: ArmSpec,
        *,
        seed: int,
        folder: Path,
        affinity: Sequence[int] = (),
        timeout_s: float = 300.0,
    ) -> None:
        self.spec = spec
        self._timeout_s = timeout_s
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        threads = {name: str(spec.threads) for name in _THREAD_VARIABLES}
        # What a killed worker leaves goes with the caller's temporary folder.
        environment = {**os.environ, **threads, "TMPDIR": str(folder)}
        environment[STARTED_VARIABLE] = str(time.monotonic_ns())
        if spec.python is not None:
            # The other environment's edgessl counts, not a checkout in the current folder.
            environment["PYTHONSAFEPATH"] = "1"
        self._process = subprocess.Popen(
            [spec.python or sys.executable, "-m", "edgessl.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            answer = self.call(
                "start", spec=spec.model_dump(mode="json"), seed=seed, affinity=list(affinity)
            )
        except BaseException:
            self.close()
            raise
        self.import_ms: float = answer["import_ms"]

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Args:
            command: Name of a method of the worker.
            **arguments: JSON values; ``seconds`` is what the command takes anyway.

        Raises:
            EdgeSSLError: What the worker raised, as the same class.
            UnavailableError: The process died, and the message holds its last words; or it took
                too long and was ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise UnavailableError(f"{self.spec.name}: the worker process has no pipes")
        try:
            stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            stdin.flush()
            self._await(stdout, command, self._timeout_s + arguments.get("seconds", 0.0))
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UnavailableError(
                f"{self.spec.name}: the worker process ended with code {self._process.wait()} "
                f"during {command} ({self._last_words()}); run the model alone to see why"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(edgessl.errors, answer["error"], EdgeSSLError)
            raise kind(answer["message"])
        return answer

    def _await(self, stdout: IO[str], command: str, timeout_s: float) -> None:
        """Wait for the first byte of the answer, which is the only thing in the pipe."""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self._process.kill()
                raise UnavailableError(
                    f"{self.spec.name}: took more than {timeout_s:g} s during {command} and was "
                    f"ended ({self._last_words()}); run the model alone, or allow more with "
                    "--timeout"
                )

    def close(self) -> None:
        """End the process; it never outlives this call."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # a command that the dead process never read
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = deque(self._log, maxlen=1)
        return lines[0].decode("utf-8", "replace").strip()[:300] if lines else "it said nothing"
