"""Verbs that cost nothing: they copy their inputs and settings into their output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import pytest

from edgessl.config import Options
from edgessl.errors import UsageError, nearest
from edgessl.files import write_json, write_text
from edgessl.registry import Registry
from edgessl.stages import Artifact, Input, StageCall, Verb


class LearnOptions(Options):
    epochs: int = 3
    batch_size: int = 8
    seed: int = 0
    threads: int = 1


class PackOptions(Options):
    precision: str = "int8"
    seed: int = 0


class Learn(Verb):
    """Makes a run directory in ``epochs`` steps and can go on from any of them."""

    artifact: ClassVar[Artifact] = "run"
    inputs: ClassVar[Mapping[str, Input]] = {
        "data": Input(),
        "teacher": Input(artifacts=("run",), required=False, free=True),
    }
    parameters: ClassVar[Mapping[str, Any]] = {"method": "plain"}
    #: Raised after that many steps, to interrupt.
    stop_after: ClassVar[int | None] = None
    log: ClassVar[list[str]] = []

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        return [LearnOptions]

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        if settings["method"] not in ("plain", "fancy"):
            raise UsageError(f"unknown method; {nearest(settings['method'], ['plain', 'fancy'])}")
        return {}

    def ignored(self) -> frozenset[str]:
        return frozenset({"threads"})

    def can_resume(self, out: Path) -> bool:
        return (out / "config.toml").is_file()

    def run(self, call: StageCall) -> None:
        steps = call.out / "steps"
        done = int(steps.read_text()) if call.resume else 0
        Learn.log.append(f"{call.out.name} from {done}")
        write_text(call.out / "config.toml", f"epochs = {call.settings.get('epochs', 3)}\n")
        if not call.resume:
            (call.out / "exported" / "encoder.safetensors").unlink(missing_ok=True)
        for step in range(done, call.settings.get("epochs", 3)):
            if Learn.stop_after is not None and step >= Learn.stop_after:
                raise KeyboardInterrupt
            write_text(steps, str(step + 1))
        content = {"settings": dict(call.settings), "teacher": str(call.inputs.get("teacher"))}
        content["settings"].pop("threads", None)
        write_text(call.out / "exported" / "encoder.safetensors", json.dumps(content))


class Pack(Verb):
    """Makes a file out of a run."""

    artifact: ClassVar[Artifact] = "edge"
    inputs: ClassVar[Mapping[str, Input]] = {"model": Input(artifacts=("run",))}

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        return [PackOptions]

    def run(self, call: StageCall) -> None:
        Learn.log.append(call.out.name)
        encoder = Path(call.inputs["model"]) / "exported" / "encoder.safetensors"
        write_text(call.out, encoder.read_text() + str(call.settings.get("precision")))


class Report(Verb):
    """Makes a JSON file out of several bundles."""

    artifact: ClassVar[Artifact] = "json"
    inputs: ClassVar[Mapping[str, Input]] = {"bundles": Input(artifacts=("edge",), many=True)}

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        return []

    def run(self, call: StageCall) -> None:
        Learn.log.append(call.out.name)
        write_json(call.out, [Path(path).read_text() for path in call.inputs["bundles"]])


class FakeVerbs(Registry[type[Verb]]):
    members: ClassVar[dict[str, type[Verb]]] = {"learn": Learn, "pack": Pack, "report": Report}

    def names(self) -> list[str]:
        return sorted(self.members)

    def get(self, name: str) -> type[Verb]:
        if name not in self.members:
            raise UsageError(f"unknown verb '{name}'; {nearest(name, self.members)}")
        return self.members[name]


@pytest.fixture
def verbs() -> Registry[type[Verb]]:
    return FakeVerbs("verb", {}, group="edgessl.none")


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What ran, in order."""
    Learn.log.clear()
    Learn.stop_after = None
    yield Learn.log
    Learn.stop_after = None


RECIPE = """
name = "test"
seed = 7
data = "data.npz"

[stages.scores]
verb = "report"
bundles = ["@small", "@large"]

[stages.small]
verb = "pack"
model = "@student"

[stages.large]
verb = "pack"
model = "@teacher"
precision = "fp32"

[stages.student]
verb = "learn"
teacher = "@teacher"
epochs = 2

[stages.teacher]
verb = "learn"
method = "fancy"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "data.npz").write_bytes(b"pretend")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path
