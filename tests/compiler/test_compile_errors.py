"""Bad input and bad luck while compiling: one line, and old outputs stay intact."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.compiling import (
    compile_quietly,
)
from edgessl.errors import DataError, EdgeSSLError, ModelError, OutputError, TargetError
from edgessl.targets import Target

Inputs = NDArray[np.float32]


class TestBadInput:
    def test_a_truncated_model(self, model: Path, inputs: Inputs) -> None:
        model.write_bytes(model.read_bytes()[:5000])
        with pytest.raises(ModelError, match="export or copy it again"):
            compile_quietly(model, "host", inputs)

    def test_a_missing_model(self, tmp_path: Path, inputs: Inputs) -> None:
        with pytest.raises(ModelError, match="no such file"):
            compile_quietly(tmp_path / "none.onnx", "host", inputs)

    def test_an_unknown_target(self, model: Path, inputs: Inputs) -> None:
        with pytest.raises(TargetError, match="cpu-x86-64"):
            compile_quietly(model, "cpu-x86_64", inputs)

    def test_calibration_of_the_wrong_shape(self, model: Path, fp32: Target) -> None:
        with pytest.raises(DataError, match=r"\[3x16x16\]"):
            compile_quietly(model, fp32, np.zeros((20, 3, 8, 8), np.float32))

    def test_a_read_only_folder(
        self, model: Path, inputs: Inputs, fp32: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**arguments: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(OutputError, match="read-only; choose another --out"):
            compile_quietly(model, fp32, inputs, out=model.parent / "m.edge")
        assert not (model.parent / "m.edge").exists()

    def test_a_place_below_a_file(self, model: Path, inputs: Inputs, fp32: Target) -> None:
        with pytest.raises(OutputError, match="cannot write"):
            compile_quietly(model, fp32, inputs, out=model / "m.edge")

    def test_a_full_disk(
        self, model: Path, inputs: Inputs, fp32: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = model.parent / "m.edge"
        out.write_bytes(b"old")

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("edgessl.compiler.samples.SampleWriter.append", full)
        with pytest.raises(OutputError, match="disk is full") as caught:
            compile_quietly(model, fp32, inputs, out=out)
        assert isinstance(caught.value, EdgeSSLError)
        assert out.read_bytes() == b"old"

    def test_ctrl_c_leaves_nothing(self, model: Path, inputs: Inputs, temporary: Path) -> None:
        out = model.parent / "m.edge"
        out.write_bytes(b"old")
        np.save(model.parent / "c.npy", np.repeat(inputs, 40, axis=0))
        code = (
            "from edgessl.compiler import compile_model\n"
            "import sys\n"
            "compile_model(sys.argv[1], target='host', calibration=sys.argv[2], out=sys.argv[3],"
            " progress=lambda e: print(e.message or '', flush=True))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(model), str(model.parent / "c.npy"), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(temporary)},
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "building" in line:
                break
        children = _children(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors
        assert out.read_bytes() == b"old"
        assert sorted(p.name for p in model.parent.glob(".m.edge*")) == []
        # A child that was just being started ends when it finds its pipe closed.
        deadline = time.monotonic() + 60
        while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(pid) for pid in children)


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
