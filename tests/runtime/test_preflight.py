"""A machine that is not what a bundle needs is named before an engine sees the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from contracts.tiny_bundle import write_bundle
from edgessl.bundle.manifest import EngineSpec, Requirements
from edgessl.errors import UnavailableError
from edgessl.runtime import load
from edgessl.runtime.preflight import Installed, at_least, preflight, same_version
from edgessl.targets import HostFacts, NvidiaGpu

X86 = HostFacts(arch="x86_64", cpu="", features=frozenset({"avx2"}))
JETSON = HostFacts(arch="aarch64", cpu="", features=frozenset(), jetson="orin-nx", l4t="36.4.3")
PHONE = HostFacts(arch="aarch64", cpu="", features=frozenset(), soc="SM8650")
LAPTOP = dataclasses.replace(X86, npu_platform="4000", npu_driver=True)
GPU = dataclasses.replace(X86, ask_gpus=lambda: (NvidiaGpu("H200", "9.0", "570.10"),))

FITS: list[tuple[HostFacts, dict[str, Any], Installed]] = [
    (X86, {"arch": "x86_64", "cpu_features": ("avx2",)}, Installed("1.31.1")),
    (X86, {"engine_min_version": "1.20"}, Installed("1.20.0")),
    (X86, {"engine_version": "2026.4"}, Installed("2026.4.1-1234-releases")),
    (PHONE, {"soc": "SM8650", "htp_arch": 75, "qairt": "2.51.0"}, Installed("2.7", None, "2.51.0")),
    (PHONE, {"htp_arch": 75, "qairt": "2.51"}, Installed("2.8", None, "2.60.1")),
    (JETSON, {"compute_capability": "8.7", "dla": True, "driver": "36.4"}, Installed("10.3.0")),
    (GPU, {"compute_capability": "9.0", "driver": "570.9"}, Installed("11.4.0.106")),
    (LAPTOP, {"npu_platform": "4000"}, Installed("2026.4.1")),
]

WRONG: list[tuple[HostFacts, dict[str, Any], Installed, str]] = [
    (X86, {"arch": "aarch64"}, Installed("1"), "it is for aarch64, this machine is x86_64"),
    (X86, {"cpu_features": ("avx2", "vnni")}, Installed("1"), "it needs vnni, which this CPU"),
    (X86, {"engine_min_version": "10.13"}, Installed("10.3.0"), "10.13 or later, 10.3.0 is"),
    (X86, {"engine_version": "10.3"}, Installed("10.13.3"), "built with tensorrt 10.3, 10.13.3"),
    (X86, {"engine_version": "10.3"}, Installed("10.30"), "built with tensorrt 10.3, 10.30"),
    (X86, {"arch": "x86_64"}, Installed(None, "pip install it"), "tensorrt 1.0: pip install it"),
    (PHONE, {"soc": "SM8750"}, Installed("1"), "for the chip SM8750, this is a SM8650"),
    (X86, {"soc": "SM8750"}, Installed("1"), "for the chip SM8750, no such chip is found"),
    (PHONE, {"htp_arch": 79}, Installed("1"), "for Hexagon v79, this one is v75"),
    (X86, {"htp_arch": 79}, Installed("1"), "for Hexagon v79, no Hexagon NPU is found"),
    (PHONE, {"qairt": "2.51.0"}, Installed("1", None, "2.50.9"), "QAIRT 2.51.0, here is 2.50.9"),
    (PHONE, {"qairt": "2.51.0"}, Installed("1", None, "3.0.0"), "QAIRT 2.51.0, here is 3.0.0"),
    (PHONE, {"qairt": "2.51.0"}, Installed("1"), "QAIRT 2.51.0, none is found"),
    (GPU, {"compute_capability": "8.7"}, Installed("1"), "8.7, here is H200 with 9.0"),
    (X86, {"compute_capability": "8.7"}, Installed("1"), "capability 8.7, none is found"),
    (JETSON, {"compute_capability": "11.0"}, Installed("1"), "11.0, here is Jetson Orin NX with"),
    (GPU, {"driver": "580.1"}, Installed("1"), "it needs driver 580.1 or later, here is 570.10"),
    (GPU, {"dla": True}, Installed("1"), "it needs a DLA, this machine has none"),
    (
        dataclasses.replace(JETSON, jetson="orin-nano"),
        {"dla": True},
        Installed("1"),
        "it needs a DLA, the Jetson Orin Nano has none",
    ),
    (LAPTOP, {"npu_platform": "5010"}, Installed("1"), "the Intel NPU 5010, here is a 4000"),
    (X86, {"npu_platform": "5010"}, Installed("1"), "the Intel NPU 5010, none is found"),
    (
        dataclasses.replace(LAPTOP, npu_driver=False),
        {"npu_platform": "4000"},
        Installed("1"),
        "the Intel NPU 4000 has no driver",
    ),
]

ENGINE = EngineSpec(name="tensorrt", version="1.0")


@pytest.mark.parametrize(("host", "needs", "installed"), FITS)
def test_a_machine_that_fits(host: HostFacts, needs: dict[str, Any], installed: Installed) -> None:
    preflight(Requirements(**needs), ENGINE, where="m.edge", host=host, installed=installed)


@pytest.mark.parametrize(("host", "needs", "installed", "words"), WRONG)
def test_a_machine_that_does_not(
    host: HostFacts, needs: dict[str, Any], installed: Installed, words: str
) -> None:
    with pytest.raises(UnavailableError) as caught:
        preflight(Requirements(**needs), ENGINE, where="m.edge", host=host, installed=installed)
    message = str(caught.value)
    assert message.startswith("m.edge: cannot run on this machine: ")
    assert words in message
    assert "\n" not in message
    assert "; " not in message, "one thing is wrong, so one thing is said"


def test_every_requirement_is_compared() -> None:
    """A field that is added to the manifest must be added here too."""
    compared = {name for _, needs, _, _ in WRONG for name in needs}
    assert compared == set(Requirements.model_fields)


def test_everything_that_is_wrong_is_in_one_line() -> None:
    needs = Requirements(arch="aarch64", soc="SM8650", engine_min_version="9", npu_platform="4000")
    with pytest.raises(UnavailableError) as caught:
        preflight(needs, ENGINE, where="m.edge", host=X86, installed=Installed("1"))
    message = str(caught.value)
    assert message.count("; ") == 3
    assert "\n" not in message


def test_a_driver_that_does_not_tell_the_capability_is_believed() -> None:
    old = dataclasses.replace(X86, ask_gpus=lambda: (NvidiaGpu("T4", None, None),))
    needs = Requirements(compute_capability="7.5", driver="570")
    preflight(needs, ENGINE, where="m.edge", host=old, installed=Installed("1"))


def test_the_engine_is_asked() -> None:
    needs = Requirements(engine_min_version="1.0")
    preflight(needs, EngineSpec(name="onnxruntime", version="1"), where="m.edge")
    for engine in ("tensorrt", "no-such-engine"):
        with pytest.raises(UnavailableError, match=f"it needs {engine} 1"):
            preflight(needs, EngineSpec(name=engine, version="1"), where="m.edge", host=X86)


def test_qairt_is_that_of_the_installed_package() -> None:
    pytest.importorskip("onnxruntime_qnn")
    engine = EngineSpec(name="qnn", version="2")
    preflight(Requirements(qairt="2.0"), engine, where="m.edge", host=PHONE)
    with pytest.raises(UnavailableError, match=r"QAIRT 2\.999, here is 2\."):
        preflight(Requirements(qairt="2.999"), engine, where="m.edge", host=PHONE)


def test_loading_a_bundle_for_another_machine_is_refused(tmp_path: Path) -> None:
    needs = Requirements(arch="aarch64", soc="SM8650")
    bundle = write_bundle(tmp_path / "phone.edge", requirements=needs)
    with pytest.raises(UnavailableError, match=r"phone\.edge: cannot run on this machine.*SM8650"):
        load(bundle)


@pytest.mark.parametrize(
    ("found", "wanted", "newer", "same"),
    [
        ("10.13", "10.3", True, False),
        ("10.3.0", "10.3", True, True),
        ("10.3", "10.3.0", True, True),
        ("10.3", "10.0", True, False),
        ("9.9.9", "10", False, False),
        ("2026.4.1-123", "2026.4.1", True, True),
        ("v2.51.0.1", "2.51", True, True),
        ("", "1", False, False),
    ],
)
def test_versions_are_numbers(found: str, wanted: str, newer: bool, same: bool) -> None:
    assert at_least(found, wanted) is newer
    assert same_version(found, wanted) is same
