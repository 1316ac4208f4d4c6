"""The parent's end of a compile worker: start, ask, and clean up after a crash.

Engines and quantizers abort and segfault on graphs that they do not like; in a process of its own
that is one failed candidate, and the memory goes back when the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from edgessl import errors
from edgessl.closing import Closing
from edgessl.errors import EdgeSSLError

__all__ = ["Worker", "WorkerFailure", "ask", "memory_limit", "note_step"]

_MEMORY_SHARE = 0.9

_STEP = "step"


class WorkerFailure(Exception):
    """The worker crashed, or the work raised something that edgessl does not know.

    Attributes:
        summary: What happened, without the last line of the log, which may hold times or paths.
    """

    def __init__(self, summary: str, said: str = "") -> None:
        super().__init__(f"{summary}: {said}" if said else summary)
        self.summary = summary


class Worker(Closing):
    """One child process that answers requests in order; a context manager.

    Args:
        folder: Existing work folder: the child's current and temporary folder.
        threads: What math libraries in the child may use; 0 leaves their default.
        timeout_s: Longest that one request may take; None waits for ever.
        memory_bytes: Most memory that the child may have; None sets no limit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 0,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._folder = folder
        self._log: IO[bytes] = open(folder / "worker.log", "a+b")  # noqa: SIM115
        limits = [] if memory_bytes is None else [str(memory_bytes)]
        # The current folder comes first on the child's path, so it must not be the user's.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgessl.compiler.worker", *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env=_environment(folder, threads),
            text=True,
            encoding="utf-8",
        )

    def request(self, operation: str, /, **arguments: Any) -> Any:
        """Have an operation of `edgessl.compiler.operations` run.

        Args:
            operation: Its name.
            **arguments: JSON values.

        Raises:
            EdgeSSLError: What the operation raised.
            WorkerFailure: Another exception, or the process died.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerFailure("has no pipes")
        (self._folder / _STEP).unlink(missing_ok=True)
        try:
            line = json.dumps({"operation": operation, "arguments": arguments})
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._answer(self._process.stdout, operation)
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise self._death()
        reply = json.loads(answer)
        if "error" not in reply:
            return reply["result"]
        kind = getattr(errors, reply["error"], None)
        if isinstance(kind, type) and issubclass(kind, EdgeSSLError):
            raise kind(reply["message"])
        raise WorkerFailure(f"{reply['error']}: {reply['message']}")

    def _answer(self, pipe: IO[str], operation: str) -> str:
        """One line; the answer is the only thing in the pipe, so waiting for bytes is enough."""
        if self._timeout_s is None:
            return pipe.readline()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            if not selector.select(self._timeout_s):
                self._process.kill()
                raise WorkerFailure(
                    f"took more than {self._timeout_s:g} s for '{operation}'{self._step()} "
                    "and was ended",
                    self._last_line(),
                )
        return pipe.readline()

    def close(self) -> None:
        """End the process, whatever it is doing, and wait until it is gone."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._log.close()

    def _death(self) -> WorkerFailure:
        code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            try:
                how = signal.Signals(-code).name
            except ValueError:
                how = f"signal {-code}"
        if how == "SIGKILL":
            how += ", out of memory?"
        return WorkerFailure(f"crashed ({how}){self._step()}", self._last_line())

    def _step(self) -> str:
        """What the child said that it was doing, see `note_step`."""
        try:
            return f" in the step '{(self._folder / _STEP).read_text('utf-8')}'"
        except OSError:
            return ""

    def _last_line(self) -> str:
        """What the child said last; the whole log is ``worker.log`` in the work folder."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        said = [" ".join(line.split())[:160] for line in lines if line.strip()]
        return said[-1] if said else ""


def note_step(folder: Path, step: str) -> None:
    """Called in the child: what it does next, for the message if that crashes or takes too long.

    Args:
        folder: The worker's folder.
        step: A few words.
    """
    (folder / _STEP).write_text(step, "utf-8")


def ask(
    folder: Path,
    operation: str,
    /,
    *,
    threads: int = 0,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    **arguments: Any,
) -> Any:
    """Run one operation in a worker of its own; see `Worker` and `Worker.request`."""
    with Worker(folder, threads=threads, timeout_s=timeout_s, memory_bytes=memory_bytes) as worker:
        return worker.request(operation, **arguments)


def memory_limit() -> int:
    """Bytes that a worker may use: a model that wants more than the machine has fails alone."""
    import psutil  # here, because importing it takes longer than asking it

    return int(_MEMORY_SHARE * psutil.virtual_memory().total)


def _environment(folder: Path, threads: int) -> dict[str, str]:
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    environment["TMPDIR"] = str(folder)
    # A fixed hash seed: some passes of the toolkits iterate over sets.
    environment["PYTHONHASHSEED"] = "0"
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment
