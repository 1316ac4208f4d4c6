"""Targets: every shipped file is valid; a wrong one is named; the host is read right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgessl.cli.main import main
from edgessl.errors import TargetError
from edgessl.runtime.session import ENGINES
from edgessl.targets import describe, detect, list_targets, load_target, summaries
from edgessl.targets.host import HostFacts, parse_cpuinfo
from edgessl.targets.model import CandidateSpec

OLD = HostFacts(arch="x86_64", cpu="old", features=frozenset({"avx2"}))
NEW = HostFacts(
    arch="x86_64", cpu="new", features=frozenset({"avx2", "avx512_vnni", "vnni", "bf16_math"})
)
ARM = HostFacts(arch="aarch64", cpu="arm", features=frozenset({"asimddp"}))


def test_shipped_targets_are_listed(root: Path) -> None:
    assert {path.stem for path in (root / "targets").glob("*.toml")} <= set(list_targets())
    assert {"cpu-x86-64", "host"} <= set(list_targets())


@pytest.mark.parametrize("name", list_targets())
def test_every_target_is_valid(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    for candidate in target.candidates:
        assert candidate.engine in ENGINES.names()


def test_x86_without_vnni_keeps_to_7_bits_and_without_bf16_skips_it() -> None:
    target = load_target("cpu-x86-64")
    assert target.reduces_range(OLD)
    assert not target.reduces_range(NEW)
    assert "openvino-bf16" not in [c.name for c in target.restricted(OLD)]
    assert "openvino-bf16" in [c.name for c in target.restricted(NEW)]
    schemes = {c.engine: c.scheme for c in target.candidates if c.precision == "int8"}
    assert schemes == {"onnxruntime": "u8s8", "openvino": "nncf"}


def test_runs_here() -> None:
    target = load_target("cpu-x86-64")
    assert target.runs_here(OLD) is None
    assert target.runs_here(ARM) == "cpu-x86-64 is for x86_64, this machine is aarch64"
    bare = HostFacts(arch="x86_64", cpu="", features=frozenset())
    assert "avx2" in (target.runs_here(bare) or "")
    assert all(load_target("host").runs_here(h) is None for h in (OLD, NEW, ARM, bare, detect()))


def test_an_own_target_extends_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ndescription = "my box"\nextends = "cpu-x86-64"\nmin_fidelity = 0.9\n'
        "[quantization]\ncalibration_samples = 50\n"
        '[hardware.memory]\nvalue = 8\nunit = "GB"\nsource = "https://example.org/sheet.pdf"\n'
    )
    mine, base = load_target(str(path)), load_target("cpu-x86-64")
    assert mine.candidates == base.candidates
    assert mine.min_fidelity == 0.9
    assert mine.quantization.calibration_samples == 50
    assert mine.quantization.reduce_range == base.quantization.reduce_range
    assert mine.hardware.keys() == base.hardware.keys() | {"memory"}


def test_extending_a_file_goes_from_file_to_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    base, mine = tmp_path / "base.toml", tmp_path / "deep" / "mine.toml"
    base.write_text('name = "base"\nextends = "host"\nmin_fidelity = 0.5\n')
    mine.write_text('name = "mine"\nextends = "../base.toml"\n')
    assert load_target(mine).min_fidelity == 0.5
    base.write_text('name = "base"\nextends = "deep/mine.toml"\n')
    with pytest.raises(TargetError, match="extends itself"):
        load_target(mine)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("descripton = 'x'", "did you mean description"),
        ("min_fidelity = 2", "min_fidelity"),
        ("family = 'gpu'", "family"),
        ("candidates = []", "candidates"),
        ("name = 'Has Spaces'", "name"),
        ("extends = 'cpu-x86'", "did you mean cpu-x86-64"),
        ("extends = 3", "extends"),
        ("extends = './mine.toml'", "extends itself"),
        ("not toml at all", "not valid TOML"),
        ("[[candidates]]\nengine='onnxruntime'\nprecision='int8'", "scheme"),
        ("[[candidates]]\nengine='a'\nprecision='fp32'\n" * 2, "twice"),
        ("[hardware.x]\nvalue=1\nsource='ftp ://x'", "source"),
    ],
)
def test_a_wrong_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    head = "" if text.startswith(("name", "extends")) else "extends = 'cpu-x86-64'\n"
    name = "" if text.startswith("name") else "name = 'mine'\n"
    Path("mine.toml").write_text(f"{head}{name}{text}\n")
    with pytest.raises(TargetError, match=word) as caught:
        load_target("./mine.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "word"),
    [("cpu-x86", "cpu-x86-64"), ("hosst", "host"), ("none.toml", "no such file"), ("../x", "..")],
)
def test_an_unknown_target_names_the_nearest(name: str, word: str) -> None:
    with pytest.raises(TargetError, match=word):
        load_target(name)


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx_vnni\n\nprocessor\t: 1\n"
ARM_TEXT = "processor : 0\nFeatures : fp asimd asimddp bf16\nCPU part : 0xd41\n"


def test_cpuinfo_of_x86_and_arm() -> None:
    x86 = parse_cpuinfo(X86, arch="x86_64")
    assert x86.cpu == "Some CPU"
    assert x86.features == {"avx2", "avx_vnni", "vnni"}
    assert x86.has_vnni
    assert not x86.has_bf16
    arm = parse_cpuinfo(ARM_TEXT, arch="aarch64")
    assert arm.features == {"asimddp", "bf16", "bf16_math"}
    assert arm.cpu == "unknown"
    assert parse_cpuinfo("", arch="x86_64").features == frozenset()


def test_a_scheme_belongs_to_integers() -> None:
    with pytest.raises(ValueError, match="scheme"):
        CandidateSpec(engine="onnxruntime", precision="fp32", scheme="u8s8")


def test_descriptions_say_what_is_skipped() -> None:
    found = describe("cpu-x86-64", OLD)
    assert found.skipped_here == {"openvino-bf16": ("bf16_math",)}
    assert "openvino-bf16" not in found.tried_here
    assert ["runs here", "yes"] in found.rows()
    assert {s.name: s.obstacle is None for s in summaries(ARM)}["cpu-x86-64"] is False


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    assert "cpu-x86-64" in capsys.readouterr().out
    assert main(["targets", "list", "--json"]) == 0
    assert {t["name"] for t in json.loads(capsys.readouterr().out)["targets"]} == set(
        list_targets()
    )
    assert main(["targets", "show", "host"]) == 0
    assert main(["targets", "show", "host", "--json"]) == 0
    capsys.readouterr()
    for words, hint in [
        (["show"], "show NAME"),
        (["shw", "host"], "did you mean show|known"),
        (["show", "hosts"], "host"),
    ]:
        assert main(["targets", *words]) == 2
        assert hint.split("|")[0].split()[-1] in capsys.readouterr().err
