"""A bundle for `cpu-arm64` runs on a Cortex-A76: emulated by qemu, with edgessl's own commands."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.scripts import compile_script


def test_a_bundle_runs_on_arm(root: Path, tmp_path: Path) -> None:
    machines = compile_script(root, "arm64_machine")
    machine = machines.ArmMachine(machines.DEFAULT_FOLDER)
    if not machine.is_set_up:
        if not os.environ.get("CI"):
            pytest.skip("no emulated Arm machine here; benchmarks/compile/arm64.py makes one")
        try:
            machine.set_up()
        except machines.SetUpError as error:
            pytest.skip(f"no emulated Arm machine can be set up here: {error}")
    np.save(tmp_path / "inputs.npy", cnn_inputs(80))
    row = compile_script(root, "arm64").run(
        machine, write_cnn(tmp_path / "cnn.onnx"), tmp_path / "inputs.npy", "int8"
    )
    assert row.pop("reason", None) is None
    assert row["passed"], row
    assert row["scheme"] == "onnxruntime-int8-s8s8"
    assert row["min_cosine_to_x86"] > 0.9999
