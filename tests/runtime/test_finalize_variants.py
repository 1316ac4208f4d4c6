"""`finalize` with several builds: each is finished, checked and measured; one stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from contracts.variant_bundle import write_variants
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import Requirements
from edgessl.cli.main import main
from edgessl.errors import GateError, UnavailableError, UsageError
from edgessl.files import sha256_file
from edgessl.runtime import FinalizeReport, finalize, verify
from edgessl.runtime.finalize import measuring
from edgessl.runtime.finalize.record import record
from edgessl.runtime.model import Model

BUILDS = {
    "onnxruntime-int8-u8s8": {"precision": "int8"},
    "onnxruntime-fp32": {"precision": "fp32"},
}
Timed = Callable[[Mapping[str, float]], None]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Set what a run takes, by precision."""

    def put(milliseconds: Mapping[str, float]) -> None:
        def block(model: Model, feeds: Any) -> list[float]:
            return [milliseconds[model.manifest.precision]] * 3

        monkeypatch.setattr(measuring, "_block", block)

    return put


def run(path: Path, **arguments: Any) -> FinalizeReport:
    return finalize(path, path.with_name("native.edge"), threads=[1], rounds=2, **arguments)


@pytest.mark.parametrize(
    ("times", "chosen", "reason"),
    [
        ({"int8": 5.45, "fp32": 5.0}, "onnxruntime-fp32", "9 % slower than onnxruntime-fp32"),
        ({"int8": 4.0, "fp32": 5.0}, "onnxruntime-int8-u8s8", "25 % slower than"),
        # Within 3 % the compiler's own choice stays.
        ({"int8": 5.05, "fp32": 5.0}, "onnxruntime-int8-u8s8", "not faster than"),
    ],
)
def test_the_fastest_build_stays_and_the_others_get_their_reason(
    tmp_path: Path, timed: Timed, times: dict[str, float], chosen: str, reason: str
) -> None:
    timed(times)
    report = run(write_variants(tmp_path / "m.edge", BUILDS))
    status = {o.name: o.status for o in report.builds}
    assert status[chosen] == "chosen"
    (other,) = [o for o in report.builds if o.name != chosen]
    assert (other.status, reason in other.reason) == ("rejected", True)
    with open_bundle(tmp_path / "native.edge") as bundle:
        manifest = bundle.manifest
    assert manifest.kind == "native"
    assert manifest.precision == BUILDS[chosen]["precision"]
    assert manifest.variants == ()
    lines = {c.name: c for c in manifest.candidates}
    assert lines[chosen].status == "chosen"
    assert reason in lines[other.name].reason
    # Of the other build nothing is left.
    places = {str(Path(f.path).parent) for f in manifest.files}
    assert not places & ({"variants/onnxruntime-fp32"} if "int8" in chosen else {"."})
    assert verify(tmp_path / "native.edge").passed


def test_a_build_with_other_results_is_out_however_fast(tmp_path: Path, timed: Timed) -> None:
    timed({"int8": 1.0, "fp32": 5.0})
    builds = {**BUILDS, "onnxruntime-int8-u8s8": {"precision": "int8", "wrong": True}}
    report = run(write_variants(tmp_path / "m.edge", builds))
    assert report.precision == "fp32"
    (out,) = [o for o in report.builds if o.status == "failed"]
    assert "does not reproduce its canaries" in out.reason


def test_a_build_for_another_machine_is_no_error_as_long_as_one_is_left(
    tmp_path: Path, timed: Timed
) -> None:
    timed({"int8": 1.0, "fp32": 5.0})
    strange = Requirements(arch="riscv64")
    builds = {"onnxruntime-int8-u8s8": {"precision": "int8", "requirements": strange}}
    events: list[Any] = []
    path = write_variants(tmp_path / "m.edge", {**BUILDS, **builds})
    report = run(path, progress=events.append)
    assert report.precision == "fp32"
    assert any(e.warning and "riscv64" in str(e.message) for e in events)
    path = write_variants(tmp_path / "alone.edge", builds)
    before = sha256_file(path)
    with pytest.raises(UnavailableError, match="riscv64"):
        run(path)
    assert sha256_file(path) == before


def test_all_wrong_is_a_gate(tmp_path: Path) -> None:
    builds = {name: {**fields, "wrong": True} for name, fields in BUILDS.items()}
    with pytest.raises(GateError, match="nothing was written"):
        run(write_variants(tmp_path / "m.edge", builds))
    assert [p.name for p in tmp_path.iterdir()] == ["m.edge"]


def test_an_engine_that_is_not_here_is_named(tmp_path: Path) -> None:
    path = write_variants(tmp_path / "m.edge", {"tensorrt-fp16": {"engine": "tensorrt"}})
    with pytest.raises(UnavailableError, match=r"edgessl\[tensorrt\]"):
        run(path)


def test_options_of_tensorrt_are_refused_for_others(tmp_path: Path) -> None:
    path = write_variants(tmp_path / "m.edge", {"onnxruntime-fp32": {}})
    with pytest.raises(UsageError, match="belong to tensorrt"):
        run(path, dla_core=0)
    with pytest.raises(UsageError, match="at least 1"):
        run(path, workspace_mib=0)


def test_the_record_says_who_when_what(tmp_path: Path, timed: Timed) -> None:
    timed({"int8": 4.0, "fp32": 5.0})
    report = run(write_variants(tmp_path / "m.edge", BUILDS))
    native = report.native
    assert native.user
    assert native.host
    assert native.machine
    assert native.finalized_at.endswith("+00:00")
    assert {"edgessl", "python", "onnxruntime"} <= set(native.versions)
    assert (native.latency_p50_ms, native.latency_p90_ms) == (4.0, 4.0)
    assert native.canary_cosine > 0.9999


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    setting = measuring.Setting(options={}, latency_p50_ms=1, latency_p90_ms=1, runs=1)
    result = measuring.CanaryResult(
        samples=1, finite=True, min_cosine=1.0, max_abs_difference=0.0, required_cosine=0.9
    )
    assert record(setting, result, {}).user == f"uid {os.getuid()}"


def test_interrupted_it_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(model: Model, feeds: Any) -> list[float]:
        raise KeyboardInterrupt

    path = write_variants(tmp_path / "m.edge", BUILDS)
    before = sha256_file(path)
    monkeypatch.setattr(measuring, "_block", press)
    with pytest.raises(KeyboardInterrupt):
        finalize(path)
    assert sha256_file(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.edge"]


def test_two_at_once_leave_one_whole_bundle(tmp_path: Path) -> None:
    path = write_variants(tmp_path / "m.edge", BUILDS)
    code = (
        "import sys; from edgessl.runtime import finalize; "
        "finalize(sys.argv[1], sys.argv[2], threads=[1], rounds=1)"
    )
    out = tmp_path / "native.edge"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(out)]) for _ in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    assert verify(out).passed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.edge", "native.edge"]


def test_the_verb_shows_the_builds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], timed: Timed
) -> None:
    timed({"int8": 5.45, "fp32": 5.0})
    path = write_variants(tmp_path / "m.edge", BUILDS)
    out = tmp_path / "out.edge"
    assert main(["finalize", str(path), "--out", str(out), "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "9 % slower than onnxruntime-fp32" in said
    assert main(["finalize", str(path), "--workspace", "512"]) == 2
