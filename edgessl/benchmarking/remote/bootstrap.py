"""What a device runs first: it says what is there, takes the worker file and starts the agent.

The host sends this module's text, so it stands alone, and it is written for old versions of
Python too: they are to say which they are.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import zipfile
from types import FrameType
from typing import BinaryIO, Optional

__all__ = ["MARK", "main"]

MARK = b"edgessl-device 1 "
"""Begins the first line of the device; whatever its shell printed before does not count."""

_LONGEST_LINE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_PATIENCE_S = 60
"""For each step of the host; afterwards the agent watches it."""
_LEAST_PYTHON = (3, 10)


def main() -> None:
    """Serve one benchmark."""
    stdin = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever an engine prints must not mix with the answers
    # Modules that lie in the login folder are not meant.
    sys.path[:] = [place for place in sys.path if place]
    with contextlib.suppress(PermissionError):  # it leads a process group already
        os.setsid()  # so that the whole group can be ended
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _leave)
    request = _line(stdin)
    answers.write(MARK + json.dumps(_facts(request)).encode("ascii") + b"\n")
    answers.flush()
    header = _line(stdin)
    try:
        work = tempfile.mkdtemp(prefix="edgessl-", dir=request["folder"])
    except OSError as error:
        _refuse(answers, request["folder"], error)
        return
    try:
        _unpack(stdin, header, os.path.join(work, "lib"))
        _enter(work)
        serve = importlib.import_module("edgessl.benchmarking.remote.agent").serve
        signal.alarm(0)
        serve(stdin, answers, work)
    except OSError as error:
        _refuse(answers, work, error)
    finally:
        os.chdir("/")
        shutil.rmtree(work, ignore_errors=True)


def _leave(number: int, frame: Optional[FrameType]) -> None:  # noqa: UP045 - old versions
    raise SystemExit(128 + number)


def _refuse(answers: BinaryIO, place: str, error: OSError) -> None:
    text = f"{place}: {error.strerror}; free some space there or name another folder"
    told = {"say": "error", "error": "UnavailableError", "text": text}
    answers.write(json.dumps(told).encode("ascii") + b"\n")
    answers.flush()


def _line(stdin: BinaryIO) -> dict:  # type: ignore[type-arg] # old versions
    signal.alarm(_PATIENCE_S)
    line = stdin.readline(_LONGEST_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise SystemExit("the host went away")
    value = json.loads(line.decode("ascii"))
    if not isinstance(value, dict):
        raise SystemExit("the host sent no JSON object")
    return value


def _facts(request: dict) -> dict:  # type: ignore[type-arg] # old versions
    """Version of Python, and of each package or what is wrong with it; None if it is absent."""
    facts = {"python": "{}.{}.{}".format(*sys.version_info[:3]), "packages": {}, "engines": []}
    if sys.version_info[:2] >= _LEAST_PYTHON:
        packages = request["packages"].items()
        facts["packages"] = {name: _version(module, name) for name, module in packages}
        facts["engines"] = [m for m in request["engines"] if importlib.util.find_spec(m)]
    return facts


def _version(module: str, distribution: str) -> Optional[str]:  # noqa: UP045 - old versions
    metadata = importlib.import_module("importlib.metadata")
    try:
        importlib.import_module(module)
        version: str = metadata.version(distribution)
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError, AttributeError) as error:
        return f"broken: {str(error).strip().splitlines()[:1]}"
    return version


def _unpack(stdin: BinaryIO, header: dict, folder: str) -> None:  # type: ignore[type-arg]
    left = header["size_bytes"]
    file = io.BytesIO()
    while left:
        signal.alarm(_PATIENCE_S)
        chunk = stdin.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise SystemExit("the host went away")
        file.write(chunk)
        left -= len(chunk)
    if hashlib.sha256(file.getvalue()).hexdigest() != header["sha256"]:
        raise SystemExit("the worker file was damaged on its way")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)


def _enter(work: str) -> None:
    """Have this process and those that it starts live in the folder and take edgessl from it."""
    library = os.path.join(work, "lib")
    scratch = os.path.join(work, "tmp")
    os.mkdir(scratch)
    os.chdir(work)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = library + (os.pathsep + before if before else "")
    os.environ["TMPDIR"] = scratch
    tempfile.tempdir = scratch
    sys.path.insert(0, library)


if __name__ == "__main__":
    main()
