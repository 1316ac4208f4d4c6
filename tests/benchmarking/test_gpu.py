"""GPU memory of a process, as a made-up nvidia-smi lists it."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.machine import jetson, smi
from edgessl.benchmarking.gpu import gpu_memory

QUERY = "compute-apps=pid,used_memory"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_process_on_all_gpus_and_no_other(tmp_path: Path, programs: Path) -> None:
    smi(programs, {QUERY: "4242, 300\n42, 1000\n4242, 12"})
    found = gpu_memory(4242, tmp_path / "empty")
    assert found.value == 312 * 1024 * 1024
    assert found.source == "nvidia-smi used_memory"
    assert found.reason is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("42, 1000", "does not list the process"),
        ("", "does not list the process"),
        ("4242, [N/A]", "does not know how much"),
    ],
)
def test_a_process_without_a_figure(tmp_path: Path, programs: Path, rows: str, reason: str) -> None:
    smi(programs, {QUERY: rows})
    found = gpu_memory(4242, tmp_path / "empty")
    assert found.value is None
    assert reason in (found.reason or "")


def test_without_a_gpu(tmp_path: Path) -> None:
    assert "no NVIDIA GPU" in (gpu_memory(1, tmp_path / "empty").reason or "")


def test_a_jetson_shares_its_memory(tmp_path: Path, programs: Path) -> None:
    smi(programs, {QUERY: "4242, 300"})
    found = gpu_memory(4242, jetson(tmp_path / "root"))
    assert found.value is None
    assert "share their memory" in (found.reason or "")
