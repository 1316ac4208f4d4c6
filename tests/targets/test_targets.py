"""Targets: every shipped file is valid; a wrong one is named; the host is read right."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edgessl.cli.main import main
from edgessl.errors import TargetError
from edgessl.runtime.session import ENGINES
from edgessl.targets import Target, describe, detect, list_targets, load_target, summaries
from edgessl.targets.engines import FAMILIES
from edgessl.targets.facts import FACTS
from edgessl.targets.host import HostFacts, parse_cpuinfo
from edgessl.targets.model import CandidateSpec

OLD = HostFacts(arch="x86_64", cpu="old", features=frozenset({"avx2"}))
NEW = HostFacts(
    arch="x86_64", cpu="new", features=frozenset({"avx2", "avx512_vnni", "vnni", "bf16_math"})
)
ARM = HostFacts(arch="aarch64", cpu="arm", features=frozenset({"asimddp"}))


NAMED_IN_THE_ISSUE = {
    "cpu-x86-64",
    "cpu-x86-64-avx2",
    "cpu-x86-64-vnni",
    "cpu-arm64",
    "intel-igpu",
    "host",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "jetson-orin-nx-dla",
    "jetson-agx-orin",
    "jetson-agx-orin-dla",
    "jetson-thor",
    "nvidia-gpu",
    "npu-qualcomm-qcs6490",
    "npu-qualcomm-qcs8550",
    "npu-qualcomm-x-elite",
    "npu-qualcomm-8gen3",
    "npu-qualcomm-8elite",
    "npu-intel-3720",
    "npu-intel-4000",
    "npu-intel-5010",
}


def test_shipped_targets_are_listed(root: Path) -> None:
    assert {path.stem for path in (root / "targets").glob("*.toml")} <= set(list_targets())
    assert set(list_targets()) >= NAMED_IN_THE_ISSUE


@pytest.mark.parametrize("name", list_targets())
def test_every_target_is_valid(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    for candidate in target.candidates:
        assert candidate.engine in FAMILIES[target.family]
    assert target.hardware, "no hardware fact"
    for fact_name, fact in target.hardware.items():
        assert fact.unit == FACTS[fact_name]
        assert fact.source is not None, fact_name
        assert fact.source.scheme == "https"


def test_engines_of_the_targets_are_those_of_the_runtime() -> None:
    assert {engine for engines in FAMILIES.values() for engine in engines} <= set(ENGINES.names())


def test_memory_is_the_least_of_what_is_sold() -> None:
    seen = 0
    for name in list_targets():
        facts = load_target(name).hardware
        if "memory_options_bytes" in facts:
            options = facts["memory_options_bytes"].value
            assert isinstance(options, tuple)
            assert facts["memory_bytes"].value == min(options)
            seen += 1
    assert seen >= 6


def test_dense_rates_are_half_of_sparse_ones() -> None:
    for name in ("jetson-orin-nano", "jetson-agx-orin"):
        facts = load_target(name).hardware
        dense, sparse = facts["peak_int8_tops"].value, facts["peak_int8_sparse_tops"].value
        assert isinstance(dense, int)
        assert isinstance(sparse, int)
        assert abs(sparse - 2 * dense) <= 1


def test_candidates_for_devices_that_are_not_here_are_listed_fastest_first() -> None:
    order = ("int8", "a16w8", "bf16", "fp16", "fp32")
    for name in list_targets():
        precisions = [order.index(c.precision) for c in load_target(name).candidates]
        assert precisions == sorted(precisions), name


def test_only_what_the_accelerator_computes_is_offered() -> None:
    assert [c.name for c in load_target("npu-qualcomm-qcs6490").candidates] == ["qnn-int8"]
    assert "8-bit integers only" in load_target("npu-qualcomm-qcs6490").refused["a16w8"]
    assert "a16w8" in {c.precision for c in load_target("npu-qualcomm-8gen3").candidates}
    for name in ("jetson-orin-nx-dla", "jetson-agx-orin-dla"):
        dla = load_target(name)
        assert [c.scheme for c in dla.candidates] == ["tensorrt-dla", None]
        assert dla.nvidia is not None
        assert dla.nvidia.dla_core == 0
        assert dla.shapes.static
    for platform in ("3720", "4000", "5010"):
        target = load_target(f"npu-intel-{platform}")
        assert target.engine_options["openvino"] == {"device": "NPU", "npu_platform": platform}
        assert target.shapes.static


def test_arm_and_accelerators_keep_all_8_bits_of_their_weights() -> None:
    for name in list_targets():
        target = load_target(name)
        if target.family != "cpu" or target.arch == "aarch64":
            assert not target.reduces_range(OLD), name
            assert not target.reduces_range(ARM), name
    assert load_target("cpu-x86-64-avx2").reduces_range(NEW)
    assert not load_target("cpu-x86-64-vnni").reduces_range(ARM)


@pytest.mark.parametrize(("machine", "base"), [("aarch64", "cpu-arm64"), ("AMD64", "cpu-x86-64")])
def test_the_host_takes_what_fits_its_architecture(
    monkeypatch: pytest.MonkeyPatch, machine: str, base: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    host = load_target("host")
    assert host.candidates == load_target(base).candidates
    assert (host.family, host.arch, host.requires) == ("cpu", "any", ())


def test_x86_without_vnni_keeps_to_7_bits_and_without_bf16_skips_it() -> None:
    target = load_target("cpu-x86-64")
    assert target.reduces_range(OLD)
    assert not target.reduces_range(NEW)
    assert "openvino-bf16" not in [c.name for c in target.restricted(OLD)]
    assert "openvino-bf16" in [c.name for c in target.restricted(NEW)]
    int8 = {(c.engine, c.scheme) for c in target.candidates if c.precision == "int8"}
    assert int8 == {("onnxruntime", "u8s8"), ("openvino", "nncf"), ("openvino", "s8s8")}


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
        "[hardware.memory_bandwidth_gb_s]\nvalue = 25.6\n"
        'unit = "GB/s"\nsource = "https://example.org/sheet.pdf"\n'
    )
    mine, base = load_target(str(path)), load_target("cpu-x86-64")
    assert mine.candidates == base.candidates
    assert mine.min_fidelity == 0.9
    assert mine.quantization.calibration_samples == 50
    assert mine.quantization.reduce_range == base.quantization.reduce_range
    assert mine.hardware.keys() == base.hardware.keys() | {"memory_bandwidth_gb_s"}


def test_an_own_target_extends_a_jetson(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ndescription = "conveyor 4"\nextends = "jetson-orin-nano"\n'
        "[hardware.memory_bytes]\nvalue = 8589934592\n"
    )
    mine, base = load_target(path), load_target("jetson-orin-nano")
    assert mine.nvidia == base.nvidia
    assert mine.candidates == base.candidates
    assert mine.hardware["memory_bytes"].value == 2**33
    path.write_text(path.read_text() + "[nvidia]\ndla_core = 0\n")
    with pytest.raises(TargetError, match="the Jetson Orin Nano has no DLA cores"):
        load_target(path)


def test_a_target_of_another_package_is_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "box.toml"
    path.write_text('name = "their-box"\ndescription = "box"\nextends = "cpu-arm64"\n')
    module = tmp_path / "their_package.py"
    module.write_text(f"def toml():\n    return {str(path)!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("their-box", "their_package:toml", "edgessl.targets")
    monkeypatch.setattr(
        "edgessl.targets.loader.entry_points",
        lambda group: [entry] if group == "edgessl.targets" else [],
    )
    assert "their-box" in list_targets()
    assert load_target("their-box").arch == "aarch64"


def test_an_engine_of_another_package_sets_no_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("their-engine", "their_package:Engine", "edgessl.engines")
    monkeypatch.setattr("edgessl.targets.engines.entry_points", lambda group: [entry])
    path = tmp_path / "mine.toml"
    candidate = "[[candidates]]\nengine = 'their-engine'\nprecision = 'fp16'\n"
    path.write_text(f"name = 'mine'\nextends = 'cpu-x86-64'\n{candidate}")
    assert [c.name for c in load_target(path).candidates] == ["their-engine-fp16"]


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
        ("[[candidates]]\nengine='openvino'\nprecision='fp32'\n" * 2, "twice"),
        ("[hardware.x]\nvalue=1\nsource='ftp ://x'", "source"),
        ("[hardware.peak_int8_top]\nvalue=1", "did you mean peak_int8_tops"),
        ("[hardware.memory_bytes]\nvalue=8\nunit='GB'", "is in bytes"),
        ("[[candidates]]\nengine='openvno'\nprecision='fp32'", "did you mean openvino"),
        ("[[candidates]]\nengine='qnn'\nprecision='int8'\nscheme='qnn'", "no engine 'qnn'"),
        ("[[candidates]]\nengine='openvino'\nprecision='fp16'", "no precision 'fp16'"),
        (
            "[[candidates]]\nengine='openvino'\nprecision='int8'\nscheme='nncf'\nremainder='fp16'",
            "no remainder 'fp16'",
        ),
        ("[[candidates]]\nengine='onnxruntime'\nprecision='int8'\nscheme='qnn'", "no scheme"),
        ("[engine_options.openvno]\nthreads=1", "did you mean openvino"),
        ("[refused]\nfp32 = 'too slow'", "too slow"),
        ("[refused]\nfp23 = 'too slow'", "refused"),
        ("[qualcomm]\nsoc = 'QCS6490'", "qualcomm"),
        ("extends = {x = 'host'}", "extends"),
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
    ("base", "text", "word"),
    [
        ("npu-qualcomm-8gen3", "[qualcomm]\nsoc='SM8651'", "did you mean SM8650"),
        ("npu-qualcomm-8gen3", "[qualcomm]\nsoc='QCS6490'", "v68.* computes in int8 only"),
        ("npu-intel-4000", "[intel_npu]\nplatform='4001'", "did you mean 4000"),
        ("npu-intel-4000", "[intel_npu]\nplatform='5010'", "npu_platform is '4000'"),
        ("jetson-thor", "[nvidia]\nmodule='thorr'", "did you mean thor"),
        ("jetson-thor", "[nvidia]\ndla_core=0", "has no DLA"),
        ("jetson-thor", "[nvidia]\ncompute_capability='8.7'", "has compute capability 11.0"),
        ("nvidia-gpu", "[nvidia]\ndla_core=0", "only a Jetson has a DLA"),
        (
            "jetson-orin-nx",
            "[[candidates]]\nengine='tensorrt'\nprecision='int8'\nscheme='tensorrt-dla'",
            "needs nvidia.dla_core",
        ),
    ],
)
def test_a_chip_that_cannot_be_is_named(tmp_path: Path, base: str, text: str, word: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"name = 'mine'\nextends = '{base}'\n{text}\n")
    with pytest.raises(TargetError, match=word) as caught:
        load_target(path)
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
    bf16 = ("bf16_math",)
    assert found.skipped_here == {"openvino-bf16": bf16, "openvino-int8-nncf-bf16": bf16}
    assert "openvino-bf16" not in found.tried_here
    assert ["runs here", "yes"] in found.rows()
    assert {s.name: s.obstacle is None for s in summaries(ARM)}["cpu-x86-64"] is False


@pytest.mark.parametrize("name", list_targets())
def test_a_description_shows_everything(name: str) -> None:
    target = load_target(name)
    text = "\n".join(" | ".join(row) for row in describe(name, OLD).rows())
    for candidate in target.candidates:
        assert candidate.name in text
    for key, fact in target.hardware.items():
        assert key in text
        assert str(fact.source) in text
        assert (fact.unit or "") in text
    for reason in target.refused.values():
        assert reason in text
    assert text_of_chip(target) in text


def text_of_chip(target: Target) -> str:
    if target.qualcomm is not None:
        return "soc_model"
    if target.intel_npu is not None:
        return "NPU platform"
    return "compute capability" if target.nvidia is not None else target.arch


def test_summaries_are_grouped_by_family() -> None:
    families = [summary.family for summary in summaries(OLD)]
    assert families == sorted(families)
    assert {"onnxruntime", "openvino"} == set(
        next(s for s in summaries(OLD) if s.name == "host").engines
    )


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
