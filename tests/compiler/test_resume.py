"""The same inputs come from the cache; an interrupted compilation goes on where it was."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.compiling import ONNX_FP32, ONNX_INT8, compile_quietly, target_of
from edgessl.compiler import search as search_module
from edgessl.errors import GateError
from edgessl.files import cache_directory
from edgessl.progress import ProgressEvent

Inputs = NDArray[np.float32]


class Hashed:
    """A calibration that counts how often it is read."""

    def __init__(self, images: Inputs) -> None:
        self.images = images
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self, indices: Sequence[int]) -> dict[str, Inputs]:
        self.reads += 1
        return {"images": self.images[list(indices)]}

    def fingerprint(self, indices: Sequence[int]) -> str:
        return hashlib.sha256(self.images[list(indices)].tobytes()).hexdigest()


def test_the_same_inputs_come_from_the_cache(model: Path, inputs: Inputs) -> None:
    target = target_of(ONNX_FP32)
    calibration = Hashed(inputs)
    first = compile_quietly(model, target, calibration)
    before = (model.parent / "model.edge").read_bytes()
    reads = calibration.reads
    again = compile_quietly(model, target, calibration, out=model.parent / "again.edge")
    assert calibration.reads == reads
    assert (model.parent / "again.edge").read_bytes() == before
    assert again.candidates == first.candidates
    assert again.bundle == str(model.parent / "again.edge")


@pytest.mark.parametrize("change", ["samples", "option", "target", "model"])
def test_a_change_of_any_input_compiles_again(model: Path, inputs: Inputs, change: str) -> None:
    calibration, target, overrides = Hashed(inputs), target_of(ONNX_FP32), {}
    compile_quietly(model, target, calibration)
    if change == "samples":
        calibration = Hashed(inputs + np.float32(0.1))
    elif change == "option":
        overrides = {"seed": 1}
    elif change == "target":
        target = target_of(ONNX_FP32, min_fidelity=0.97)
    else:
        from contracts.onnx_models import write_cnn

        write_cnn(model, seed=5)
    calibration.reads = 0
    compile_quietly(model, target, calibration, overrides=overrides)
    assert calibration.reads > 0


def test_remeasure_compiles_again(model: Path, inputs: Inputs) -> None:
    calibration = Hashed(inputs)
    compile_quietly(model, target_of(ONNX_FP32), calibration)
    calibration.reads = 0
    compile_quietly(model, target_of(ONNX_FP32), calibration, overrides={"remeasure": True})
    assert calibration.reads > 0


def test_an_interrupted_compilation_goes_on_where_it_was(
    model: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, calibration = target_of(ONNX_FP32, ONNX_INT8), Hashed(inputs)
    plain = search_module.ask

    def interrupted(folder: Path, operation: str, /, **arguments: Any) -> Any:
        if operation == "build" and "int8" in folder.name:
            raise KeyboardInterrupt
        return plain(folder, operation, **arguments)

    monkeypatch.setattr(search_module, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_quietly(model, target, calibration)
    assert list(cache_directory("compile", "work").glob("*/original.onnx"))

    calls: list[tuple[str, str]] = []

    def counted(folder: Path, operation: str, /, **arguments: Any) -> Any:
        calls.append((folder.name, operation))
        return plain(folder, operation, **arguments)

    monkeypatch.setattr(search_module, "ask", counted)
    messages: list[ProgressEvent] = []
    reads = calibration.reads
    resumed = compile_quietly(model, target, calibration, progress=messages.append)
    assert calibration.reads == reads
    assert {folder for folder, _ in calls} == {ONNX_INT8.name}
    assert any("interrupted" in (m.message or "") for m in messages)
    assert not list(cache_directory("compile", "work").glob("*/original.onnx"))

    monkeypatch.setattr(search_module, "ask", plain)
    shutil.rmtree(cache_directory("compile"))
    whole = compile_quietly(model, target, calibration, out=model.parent / "whole.edge")
    assert (model.parent / "whole.edge").read_bytes() == Path(str(resumed.bundle)).read_bytes()
    assert whole.chosen == resumed.chosen


def test_a_gate_that_says_no_leaves_nothing_in_the_cache(model: Path, inputs: Inputs) -> None:
    target = target_of(ONNX_INT8, min_neighbour_agreement=1.0)
    with pytest.raises(GateError):
        compile_quietly(model, target, Hashed(inputs), overrides={"min_fidelity": 0.9999999})
    assert not list(cache_directory("compile", "work").glob("*/"))
    assert not list(cache_directory("compile", "finished").glob("*"))


def test_two_at_once_do_not_meet(model: Path, inputs: Inputs) -> None:
    from edgessl.compiler.work import open_work
    from edgessl.progress import silent

    with open_work("k" * 64, silent) as first, open_work("k" * 64, silent) as second:
        assert first.folder != second.folder
        assert second.folder.is_dir()
    assert not first.folder.exists()
    assert not second.folder.exists()
