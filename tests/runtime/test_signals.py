"""Sessions leave the process able to take a signal: a Ctrl-C, the end of a child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.tiny_bundle import write_model

_CODE = """
import faulthandler, signal, sys, threading
from pathlib import Path
faulthandler.enable()
from edgessl.runtime.session import open_session
taken = []
signal.signal(signal.SIGUSR1, lambda number, frame: taken.append(number))
engine, model = sys.argv[1], Path(sys.argv[2])
first = open_session(engine, model)
second = open_session(engine, model)
first.close()
del first
second.close()
del second
signal.raise_signal(signal.SIGUSR1)
third = threading.Thread(target=lambda: open_session(engine, model).close())
third.start()
third.join()
signal.raise_signal(signal.SIGUSR1)
print(len(taken))
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_signals_after_sessions_that_end_in_the_order_of_their_start(
    engine: str, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _CODE, engine, str(model)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
