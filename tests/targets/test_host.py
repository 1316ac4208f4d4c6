"""What a machine shows, on copies of the small system files of real devices; and who runs where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgessl.targets import HostFacts, NvidiaGpu, detect, list_targets, load_target
from edgessl.targets.host import _nvidia_smi


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def jetson(root: Path, model: str, part: str) -> Path:
    return write(
        root,
        {
            "proc/device-tree/model": f"{model}\0",
            "proc/device-tree/compatible": f"nvidia,p3768-0000+{part}\0nvidia,{part}\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic",
        },
    )


def pci(root: Path, device: str, vendor: str = "0x8086") -> Path:
    place = "sys/bus/pci/devices/0000:00:0b.0"
    return write(
        root,
        {f"{place}/device": f"{device}\n", f"{place}/vendor": f"{vendor}\n"},
    )


def gpu(root: Path, vendor: str) -> Path:
    return write(
        root,
        {
            "dev/dri/renderD128": "",
            "sys/class/drm/renderD128/device/vendor": f"{vendor}\n",
        },
    )


def soc(root: Path, soc_id: str, machine: str) -> Path:
    place = "sys/devices/soc0"
    return write(root, {f"{place}/soc_id": f"{soc_id}\n", f"{place}/machine": f"{machine}\n"})


def test_an_empty_root_shows_nothing(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert (found.board, found.jetson, found.l4t, found.soc) == (None, None, None, None)
    assert (found.npu_platform, found.npu_driver, found.intel_gpu) == (None, False, False)
    assert found.features == frozenset()


@pytest.mark.parametrize(
    ("model", "part", "module", "capability"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", "p3767-0005", "orin-nano", "8.7"),
        ("NVIDIA Jetson Orin Nano Engineering Reference", "p3767-0000", "orin-nx", "8.7"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "p3701-0005", "agx-orin", "8.7"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "p3834-0008", "thor", "11.0"),
        ("Some Vendor NVIDIA Jetson Orin NX board", "unknown", "orin-nx", "8.7"),
    ],
)
def test_jetsons(tmp_path: Path, model: str, part: str, module: str, capability: str) -> None:
    found = detect(jetson(tmp_path, model, part))
    assert (found.board, found.jetson, found.l4t) == (model, module, "36.4.3")
    assert found.jetpack == "6"
    assert [g.compute_capability for g in found.nvidia_gpus] == [capability]


def test_a_board_that_is_no_jetson(tmp_path: Path) -> None:
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    found = detect(tmp_path)
    assert (found.board, found.jetson) == ("Raspberry Pi 5 Model B Rev 1.0", None)


@pytest.mark.parametrize(
    ("soc_id", "machine", "name"),
    [
        ("498", "QCS6490", "QCS6490"),
        ("497", "KODIAK", "QCS6490"),
        ("603", "KALAMA", "QCS8550"),
        ("555", "X1E80100", "SC8380XP"),
        ("557", "PINEAPPLE", "SM8650"),
        ("618", "SUN", "SM8750"),
        ("0", "Tegra", None),
        ("", "", None),
    ],
)
def test_qualcomm_chips(tmp_path: Path, soc_id: str, machine: str, name: str | None) -> None:
    assert detect(soc(tmp_path, soc_id, machine)).soc == name


@pytest.mark.parametrize(
    ("device", "platform"),
    [
        ("0x7d1d", "3720"),
        ("0xad1d", "3720"),
        ("0x643e", "4000"),
        ("0xb03e", "5010"),
        ("0x1234", None),
    ],
)
def test_intel_npus(tmp_path: Path, device: str, platform: str | None) -> None:
    found = detect(pci(tmp_path, device))
    assert (found.npu_platform, found.npu_driver) == (platform, False)
    assert detect(write(tmp_path, {"dev/accel/accel0": ""})).npu_driver
    assert detect(pci(tmp_path, device, vendor="0x1022")).npu_platform is None


def test_intel_gpus(tmp_path: Path) -> None:
    assert detect(gpu(tmp_path / "intel", "0x8086")).intel_gpu
    assert not detect(gpu(tmp_path / "amd", "0x1002")).intel_gpu


def nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'NVIDIA H200, 570.1, 9.0'; echo 'NVIDIA H200, 570.1, 9.0'",
            (NvidiaGpu("NVIDIA H200", "9.0", "570.1"),) * 2,
        ),
        # Before driver 510 the capability is an unknown column, and nvidia-smi ends with an error.
        (
            'case "$1" in *compute_cap*) exit 2;; esac; echo "NVIDIA T4, 470.1"',
            (NvidiaGpu("NVIDIA T4", None, "470.1"),),
        ),
        ("echo 'GPU, 570.1, [N/A]'", (NvidiaGpu("GPU", None, "570.1"),)),
        ("exit 9", ()),
    ],
)
def test_nvidia_smi(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    expected: tuple[NvidiaGpu, ...],
) -> None:
    nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _nvidia_smi() == expected


def test_looking_starts_no_program() -> None:
    """`edgessl.runtime` looks at the machine at start-up; nvidia-smi alone takes longer."""
    code = (
        "import subprocess, sys\n"
        "def refuse(*a, **k): raise AssertionError('a program was started')\n"
        "subprocess.Popen.__init__ = refuse\n"
        "import edgessl.targets\n"
        "host = edgessl.targets.detect()\n"
        "edgessl.targets.load_target('host').runs_here(host)\n"
        "print(sorted({'openvino', 'onnxruntime', 'tensorrt', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ALL_FEATURES = frozenset({"avx2", "vnni", "bf16_math", "asimddp"})
BARE = {arch: HostFacts(arch=arch, cpu="", features=ALL_FEATURES) for arch in ("x86_64", "aarch64")}


def host(arch: str, **facts: object) -> HostFacts:
    return HostFacts(arch=arch, cpu="", features=ALL_FEATURES, **facts)  # type: ignore[arg-type]


RUNS = {
    "intel-igpu": host("x86_64", intel_gpu=True),
    "npu-intel-3720": host("x86_64", npu_platform="3720", npu_driver=True),
    "npu-intel-4000": host("x86_64", npu_platform="4000", npu_driver=True),
    "npu-intel-5010": host("x86_64", npu_platform="5010", npu_driver=True),
    "npu-qualcomm-qcs6490": host("aarch64", soc="QCS6490"),
    "npu-qualcomm-qcs8550": host("aarch64", soc="QCS8550"),
    "npu-qualcomm-x-elite": host("aarch64", soc="SC8380XP"),
    "npu-qualcomm-8gen3": host("aarch64", soc="SM8650"),
    "npu-qualcomm-8elite": host("aarch64", soc="SM8750"),
    "jetson-orin-nano": host("aarch64", jetson="orin-nano"),
    "jetson-orin-nx": host("aarch64", jetson="orin-nx"),
    "jetson-orin-nx-dla": host("aarch64", jetson="orin-nx"),
    "jetson-agx-orin": host("aarch64", jetson="agx-orin"),
    "jetson-agx-orin-dla": host("aarch64", jetson="agx-orin"),
    "jetson-thor": host("aarch64", jetson="thor"),
    "nvidia-gpu": host("x86_64", ask_gpus=lambda: (NvidiaGpu("H200", "9.0", "570.1"),)),
}


def test_every_target_runs_on_its_device_and_not_on_a_bare_machine() -> None:
    for name in list_targets():
        target = load_target(name)
        if target.family == "cpu":
            bare = BARE["aarch64" if target.arch == "aarch64" else "x86_64"]
            assert target.runs_here(bare) is None
            continue
        assert target.runs_here(RUNS[name]) is None, name
        for bare in BARE.values():
            sentence = target.runs_here(bare)
            assert sentence is not None
            assert sentence.startswith(name)
            assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "machine", "words"),
    [
        ("jetson-orin-nano", host("aarch64", jetson="thor"), "is a Jetson Thor"),
        ("jetson-orin-nano", host("aarch64"), "is no Jetson"),
        ("npu-intel-4000", host("x86_64", npu_platform="3720", npu_driver=True), "here is a 3720"),
        ("npu-intel-4000", host("x86_64", npu_platform="4000"), "driver"),
        ("npu-qualcomm-8gen3", host("aarch64", soc="SM8750"), "has a SM8750"),
        ("cpu-x86-64-vnni", HostFacts("x86_64", "", frozenset({"avx2"})), "needs vnni"),
        ("cpu-arm64", HostFacts("aarch64", "", frozenset()), "needs asimddp"),
    ],
)
def test_the_wrong_device_is_named(name: str, machine: HostFacts, words: str) -> None:
    assert words in (load_target(name).runs_here(machine) or "")


def test_a_jetson_is_an_nvidia_gpu_and_a_wrong_capability_is_named(tmp_path: Path) -> None:
    assert load_target("nvidia-gpu").runs_here(host("aarch64", jetson="thor")) is None
    path = tmp_path / "mine.toml"
    path.write_text("name = 'mine'\nextends = 'nvidia-gpu'\n[nvidia]\ncompute_capability = '8.9'\n")
    assert "this machine has 9.0" in (load_target(path).runs_here(RUNS["nvidia-gpu"]) or "")
    silent = host("x86_64", ask_gpus=lambda: (NvidiaGpu("T4", None, "470.1"),))
    assert load_target(path).runs_here(silent) is None


def test_the_host_is_never_a_gpu() -> None:
    for machine in RUNS.values():
        target = load_target("host")
        assert target.runs_here(machine) is None
        assert {c.engine for c in target.candidates} <= {"onnxruntime", "openvino"}
        assert target.engine_options == {}
