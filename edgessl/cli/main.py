"""The entry point: run a verb, turn errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["main"]

INTERRUPTED = 130
TERMINATED = 143

_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
}

_EXTRAS = {
    **dict.fromkeys(("onnx", "onnxslim", "nncf"), "compile"),
    **dict.fromkeys(("lightly", "lightning", "onnxscript", "safetensors", "sklearn"), "train"),
    **dict.fromkeys(("timm", "tomlkit", "torch", "torchvision"), "train"),
    "matplotlib": "report",
    "openvino": "openvino",
}
"""Modules that rooms of the training side import at their top → the extra that brings them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.

    Returns:
        The exit code: 0 done, 1 a gate said no, 2 bad usage or input, 3 inconclusive, 4 this
        machine cannot, 130 interrupted, 143 terminated.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    received: list[int] = []
    try:
        with _sigterm_as_interrupt(received):
            return _run(words)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        _complain(
            "interrupted; finished outputs are intact; repeat the command (pretrain and distill go "
            "on with --resume)"
        )
        return TERMINATED if received else INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout went away (`edgessl … | head`); what Python flushes at exit must
        # not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        line, code = _describe(error)
        if line is None:
            raise
        if debug:
            traceback.print_exc()
        _complain(f"error: {line}")
        return code


def _run(words: list[str]) -> int:
    from typer import Exit
    from typer.main import get_command

    from edgessl.cli.app import build_app, called_verb

    command = get_command(build_app(called_verb(words)))
    # Not command.main(): it turns Ctrl-C into an exit code before it can be told apart.
    try:
        with command.make_context("edgessl", words or ["--help"]) as context:
            command.invoke(context)
    except Exit as ending:
        return ending.exit_code
    return 0


def _describe(error: Exception) -> tuple[str | None, int]:
    """One line and an exit code for a mistake that is not ours; None for a defect."""
    from typer import Abort, TyperException

    from edgessl.errors import EdgeSSLError

    if isinstance(error, EdgeSSLError):
        return _one_line(str(error)), error.exit_code
    if isinstance(error, TyperException):
        return _one_line(f"{error.format_message()} (see edgessl --help)"), error.exit_code
    if isinstance(error, Abort):
        return "aborted", INTERRUPTED
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in _EXTRAS:
            return f"{module} is not installed; pip install 'edgessl[{_EXTRAS[module]}]'", 4
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {_REMEDIES[error.errno]}", 2
    return None, 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _complain(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _sigterm_as_interrupt(received: list[int]) -> Iterator[None]:
    """Make SIGTERM end a stage as Ctrl-C does, so that temporary files go."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
