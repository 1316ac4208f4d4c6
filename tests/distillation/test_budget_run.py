"""A student for a budget, measured in truth on this machine's CPU with the smallest models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgessl.benchmarking import Measurement, benchmark
from edgessl.cli.main import main
from edgessl.distillation import distill
from edgessl.distillation.budget import NothingFitsError, StudentChoice, choose_student
from edgessl.distillation.budget.bench import TargetBench
from edgessl.errors import RunError, TargetError, UnavailableError, UsageError
from edgessl.models import build_encoder, load_encoder, save_encoder
from edgessl.preprocessing import ImageInput
from edgessl.progress import ProgressEvent
from edgessl.targets import Target

pytest.importorskip("onnxscript", reason="exporting needs onnxscript")

FAMILY = "test_resnet,resnet18@0.5"
SPEC = ImageInput(channels=1, height=32, width=32, mean=(0.5,), std=(0.25,))
SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 16,
    "epochs": 1,
    "probe_epochs": 0,
    "objectives": {"cosine": 1},
    "view_seeds": 1,
    "num_workers": 0,
    "threads": 1,
    "device": "cpu",
    "account": False,
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    """This machine with one way to compile, so that it is quick."""
    path = tmp_path_factory.mktemp("target") / "one-way.toml"
    path.write_text(
        'extends = "host"\nname = "one-way"\ndescription = "for tests"\n'
        '[[candidates]]\nengine = "onnxruntime"\nprecision = "int8"\nscheme = "u8s8"\n'
    )
    return str(path)


@pytest.fixture(scope="module")
def choice(data: Path, target: str) -> StudentChoice:
    """Latency that any machine keeps, and a size between those of the models."""
    return choose_student(FAMILY, [f"10s@{target}", "1MB", "1GFLOPs"], data, spec=SPEC)


def test_the_largest_that_fits_is_measured(choice: StudentChoice) -> None:
    assert choice.student == "test_resnet"
    assert choice.image_size == (32, 32)
    assert (choice.target, choice.precision, choice.candidates) == ("one-way", "int8", 2)
    by_name = {tried.student.name: tried for tried in choice.tried}
    chosen = by_name[choice.student].figures
    assert chosen.latency is not None
    assert 0 < chosen.latency.p50_ms <= chosen.latency.p90_ms
    assert chosen.latency.low_ms <= chosen.latency.p50_ms * 1.5
    assert chosen.size_bytes is not None
    assert 10_000 < chosen.size_bytes <= 1e6
    assert chosen.build is not None
    assert "int8" in chosen.build
    largest = by_name["resnet18@0.5"]
    assert not largest.fits
    assert "1MB" in largest.why
    # Eight bits a weight, and a little for the graph.
    assert largest.figures.size_bytes == pytest.approx(2.8e6, rel=0.1)
    assert largest.figures.latency is None, "what is too large is not timed"


def test_a_second_budget_comes_from_the_cache(
    choice: StudentChoice, data: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(TargetBench, "_exported", measured)
    monkeypatch.setattr(TargetBench, "_timed", measured)
    again = choose_student(FAMILY, [f"10s@{target}", "1.2MB", "2GFLOPs"], data, spec=SPEC)
    assert (again.student, again.tried[0].figures) == (choice.student, choice.tried[0].figures)
    with pytest.raises(NothingFitsError, match="nearest is test_resnet/32"):
        choose_student(FAMILY, [f"1kB@{target}"], data, spec=SPEC)
    other = SPEC.model_copy(update={"channels": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3})
    with pytest.raises(AssertionError, match="measured again"):
        choose_student(FAMILY, [f"1MB@{target}"], data, spec=other)


def test_distill_trains_the_choice_and_resumes_it(
    choice: StudentChoice,
    data: Path,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    teacher = tmp_path / "teacher.safetensors"
    save_encoder(build_encoder("test_resnet", SPEC), teacher, lineage={})
    said: list[ProgressEvent] = []
    arguments: dict[str, Any] = {"out": tmp_path / "run", "overrides": SETTINGS}
    budget = [f"10s@{target}", "1MB", "1GFLOPs"]
    run = distill(str(teacher), FAMILY, data, budget=budget, progress=said.append, **arguments)
    encoder, facts = load_encoder(run.path)
    assert facts.backbone == choice.student
    assert (encoder.spec.height, encoder.spec.width) == choice.image_size
    recorded = StudentChoice.model_validate(run.config()["budget"])
    assert recorded.student == choice.student
    assert recorded.budgets == tuple(budget)
    assert any(event.table for event in said)

    def chosen(*_: object, **__: object) -> None:
        raise AssertionError("chosen again")

    monkeypatch.setattr("edgessl.distillation.budget.session.choose_student", chosen)
    distill(str(teacher), FAMILY, data, budget=budget, resume=True, **arguments)
    with pytest.raises(RunError, match="resume it with the same"):
        distill(str(teacher), FAMILY, data, budget=["2MB"], resume=True, **arguments)


def test_a_device_measures_over_ssh(
    choice: StudentChoice,
    data: Path,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is the benchmark's and is tested there; here its place is taken."""
    # The cache of compilations knows the same students as built for this machine.
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path))
    asked: list[tuple[str, list[Path]]] = []

    def there(address: str, paths: list[Path], *, options: Any, python: str) -> Measurement:
        asked.append((address, paths))
        return benchmark(paths, options=options)

    monkeypatch.setattr("edgessl.distillation.budget.bench.benchmark_on", there)
    monkeypatch.setattr(Target, "runs_here", lambda *_: "it is elsewhere")
    budgets, address = [f"10s@{target}"], "ssh://me@device"
    found = choose_student("test_resnet", budgets, data, spec=SPEC, on=address)
    assert [(place, paths[0].suffix) for place, paths in asked] == [(address, ".onnx")]
    assert found.on == address
    assert found.machine != choice.machine
    assert found.tried[0].figures.latency != choice.tried[0].figures.latency
    with pytest.raises(UnavailableError, match="it is elsewhere"):
        choose_student("test_resnet", budgets, data, spec=SPEC)


def test_latency_of_a_device_that_is_elsewhere(data: Path) -> None:
    device = "npu-qualcomm-qcs8550"
    with pytest.raises(UnavailableError, match="--on ssh://") as caught:
        choose_student(FAMILY, [f"5ms@{device}"], data, spec=SPEC)
    assert caught.value.exit_code == 4
    with pytest.raises(UnavailableError, match="finished on the device"):
        choose_student(FAMILY, [f"5ms@{device}"], data, spec=SPEC, on="ssh://phone")
    with pytest.raises(TargetError, match="npu-qualcomm"):
        choose_student(FAMILY, ["5ms@npu-qualcomm"], data, spec=SPEC)
    with pytest.raises(UsageError, match="one target"):
        choose_student(FAMILY, ["1MB@host"], data, spec=SPEC, for_target=device)


def test_operations_need_no_device(
    choice: StudentChoice, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["budget", "test_resnet", "1GFLOPs@jetson-orin-nano", "--data", str(data)]
    assert main([*words, "--image-size", "32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["student"], found["machine"]) == ("test_resnet", None)
    assert 1e6 < found["tried"][0]["figures"]["flops"] < 1e9


def test_nothing_fits_ends_with_one(
    choice: StudentChoice, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["budget", "test_resnet", "1kFLOPs", "--data", str(data), "--image-size", "32"]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "test_resnet/32" in captured.out
    assert "no student fits 1kFLOPs; of 1 candidates 1 were tried" in captured.err
