from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgessl import doctor
from edgessl.doctor import diagnose
from edgessl.targets import HostFacts, list_targets


def test_it_covers_every_target_and_the_cache(cache: Path) -> None:
    found = diagnose()
    assert [target.name for target in found.targets] == list_targets()
    assert found.cache == str(cache)
    assert found.cores >= 1
    assert found.memory_bytes > 1e9


def test_packages_come_from_the_metadata_with_their_extras() -> None:
    packages = {package.name: package for package in diagnose().packages}
    assert packages["numpy"].extras == ("base",)
    assert packages["numpy"].version is not None
    assert packages["openvino"].extras == ("compile", "openvino")
    assert "pytest" not in packages
    assert "edgessl" not in packages


def test_another_architecture_neither_builds_nor_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = HostFacts(arch="aarch64", cpu="Cortex-A78AE", features=frozenset({"asimddp"}))
    monkeypatch.setattr(doctor, "detect", lambda: arm)
    targets = {target.name: target for target in diagnose().targets}
    x86 = targets["cpu-x86-64"]
    assert (x86.runs, x86.builds) == (False, ())
    assert "is for x86_64, this machine is aarch64" in x86.obstacles[0]
    assert targets["host"].runs


def test_what_the_cpu_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    old = HostFacts(arch="x86_64", cpu="old", features=frozenset({"avx2"}))
    monkeypatch.setattr(doctor, "detect", lambda: old)
    host = next(target for target in diagnose().targets if target.name == "host")
    assert "openvino-bf16" not in host.builds
    assert any(o.startswith("openvino-bf16: this CPU lacks") for o in host.obstacles)


def fake_nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def test_gpus_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, "echo 'NVIDIA Test, 24576 MiB, 570.1'")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    # A GPU that only nvidia-smi believes in: PyTorch, asked in its own process, sees none.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = diagnose()
    assert [(g.name, g.memory, g.driver) for g in found.gpus] == [
        ("NVIDIA Test", "24576 MiB", "570.1")
    ]
    assert "PyTorch" in found.gpu_remark


def test_a_broken_nvidia_smi_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    assert diagnose().gpus == ()
