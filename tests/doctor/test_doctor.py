from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgessl import doctor
from edgessl.doctor import EngineStatus, TargetStatus, diagnose
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


def test_another_architecture_builds_but_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = HostFacts(arch="aarch64", cpu="Cortex-A78AE", features=frozenset({"asimddp"}))
    targets = look_at(arm, monkeypatch)
    x86 = targets["cpu-x86-64"]
    assert not x86.runs
    assert "onnxruntime-int8-u8s8" in x86.builds
    assert "is for x86_64, this machine is aarch64" in x86.obstacles[0]
    assert targets["host"].runs
    assert targets["cpu-arm64"].runs


def look_at(host: HostFacts, monkeypatch: pytest.MonkeyPatch) -> dict[str, TargetStatus]:
    monkeypatch.setattr(doctor, "detect", lambda: host)
    return {target.name: target for target in diagnose().targets}


def engine(name: str, *devices: str, obstacle: str | None = None) -> EngineStatus:
    return EngineStatus(name=name, version="1", devices=devices, obstacle=obstacle)


def test_engines_of_all_families_are_looked_at() -> None:
    found = {engine.name: engine for engine in diagnose().engines}
    assert list(found) == ["onnxruntime", "openvino", "qnn", "tensorrt"]
    for status in found.values():
        assert (status.obstacle is None) or "pip install 'edgessl[" in status.obstacle


def test_an_emulator_is_a_device_of_qnn_on_x86_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime_qnn")
    x86 = HostFacts(arch="x86_64", cpu="", features=frozenset({"avx2"}))
    phone = HostFacts(arch="aarch64", cpu="", features=frozenset(), soc="SM8650")
    arm = HostFacts(arch="aarch64", cpu="", features=frozenset())
    expected = {x86: ("NPU emulator",), phone: ("NPU of SM8650",), arm: ()}
    for host, devices in expected.items():
        assert doctor._qnn(host).devices == devices


def test_a_device_whose_engine_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_tensorrt", lambda host: engine("tensorrt", obstacle="missing"))
    facts = HostFacts(
        arch="aarch64", cpu="", features=frozenset(), jetson="orin-nano", l4t="36.4.3"
    )
    jetson = look_at(facts, monkeypatch)["jetson-orin-nano"]
    assert not jetson.runs
    assert "running needs tensorrt; pip install 'edgessl[tensorrt]'" in jetson.obstacles
    monkeypatch.setattr(doctor, "_tensorrt", lambda host: engine("tensorrt", "Jetson Orin Nano"))
    jetson = look_at(facts, monkeypatch)["jetson-orin-nano"]
    assert jetson.runs
    assert jetson.builds == ("tensorrt-int8-fp16", "tensorrt-fp16")


def test_openvino_must_show_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = HostFacts(
        arch="x86_64", cpu="", features=frozenset({"avx2"}), npu_platform="4000", npu_driver=True
    )
    monkeypatch.setattr(doctor, "_openvino", lambda: engine("openvino", "CPU", "GPU.0"))
    npu = look_at(laptop, monkeypatch)["npu-intel-4000"]
    assert not npu.runs
    assert "openvino shows no NPU device; install its driver" in npu.obstacles
    monkeypatch.setattr(doctor, "_openvino", lambda: engine("openvino", "CPU", "NPU"))
    assert look_at(laptop, monkeypatch)["npu-intel-4000"].runs


def test_what_building_lacks_is_named_with_its_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"onnxruntime_qnn", "nncf"}
    monkeypatch.setattr(doctor, "is_available", lambda name: name not in absent)
    x86 = HostFacts(arch="x86_64", cpu="", features=frozenset({"avx2", "bf16_math"}))
    targets = look_at(x86, monkeypatch)
    phone = targets["npu-qualcomm-8gen3"]
    assert phone.builds == ()
    assert "2 candidates need onnxruntime_qnn; pip install 'edgessl[qnn]'" in phone.obstacles
    npu = targets["npu-intel-4000"]
    assert npu.builds == ("openvino-fp16",)
    assert "1 candidate needs nncf; pip install 'edgessl[compile]'" in npu.obstacles
    # The engine of a Jetson is built on the Jetson.
    assert len(targets["jetson-orin-nano"].builds) == 2


def test_devices_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "Jetson AGX Orin kit, JetPack 6 (Jetson Linux 36.4.3)": {
            "board": "Jetson AGX Orin kit",
            "jetson": "agx-orin",
            "l4t": "36.4.3",
        },
        "Qualcomm SM8650 (Snapdragon 8 Gen 3), Hexagon v75": {"soc": "SM8650"},
        "Intel NPU 4000 (Lunar Lake)": {"npu_platform": "4000", "npu_driver": True},
        "Intel NPU 4000 (Lunar Lake); no driver is loaded: install "
        "https://github.com/intel/linux-npu-driver": {"npu_platform": "4000"},
        "Intel GPU": {"intel_gpu": True},
    }
    for text, values in facts.items():
        host = HostFacts(arch="x86_64", cpu="", features=frozenset(), **values)  # type: ignore[arg-type]
        assert list(doctor._accelerators(host)) == [text]


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


def test_without_a_gpu_the_losses_are_chunked_and_torch_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_output", lambda command: pytest.fail(f"started {command}"))
    host = HostFacts(arch="x86_64", cpu="", features=frozenset())
    assert doctor._contrastive_losses((), host) == "chunked: no CUDA GPU"
    monkeypatch.setattr(doctor, "is_available", lambda name: name != "torch")
    assert doctor._contrastive_losses((), host).startswith("none: PyTorch is not installed; pip ")


def test_with_a_gpu_the_losses_say_themselves_what_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = HostFacts(arch="x86_64", cpu="", features=frozenset())
    gpu = doctor.Gpu(name="NVIDIA Test", memory="1 MiB", driver="1")
    # The process is real; the GPU is not, and PyTorch does not see it.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor._contrastive_losses((gpu,), host) == "chunked: PyTorch sees no CUDA GPU"
    jetson = HostFacts(arch="aarch64", cpu="", features=frozenset(), l4t="36.4.3")
    monkeypatch.setattr(doctor, "_output", lambda command: "triton 3.9.0: Orin, sm_87\n")
    assert doctor._contrastive_losses((), jetson) == "triton 3.9.0: Orin, sm_87"
    monkeypatch.setattr(doctor, "_output", lambda command: None)
    assert doctor._contrastive_losses((gpu,), host).startswith("unknown: ")


def test_a_broken_nvidia_smi_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    assert diagnose().gpus == ()
