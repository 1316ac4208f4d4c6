"""The child's end: one JSON line per request and answer.

``python -m edgessl.compiler.worker [BYTES]`` limits its own memory (``RLIMIT_DATA``).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from edgessl.errors import EdgeSSLError
from edgessl.files import output_errors

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests until the input ends."""
    _die_with_parent()
    if len(sys.argv) > 1:
        resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
    # The parent ends this process on Ctrl-C; a traceback of its own would only confuse.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # nncf imports torch where it is installed, which costs 300 MB and a second for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Toolkits print progress bars; only answers may reach the pipe.
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from edgessl.compiler.operations import OPERATIONS

    try:
        from pathlib import Path

        with output_errors(Path.cwd()):
            return {"result": OPERATIONS[request["operation"]](**request["arguments"])}
    except EdgeSSLError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # toolkits raise anything; the parent turns it into a reason
        text = " ".join(str(error).split())[:300]
        return {"error": type(error).__name__, "message": text}


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
