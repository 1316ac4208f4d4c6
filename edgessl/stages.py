"""The verbs that a recipe chains: what each reads, knows and leaves behind, and how it is called.

A verb's room is imported only when a recipe names the verb, so that a recipe of `compile` and
`benchmark` runs on a machine without PyTorch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from edgessl.config import build_options
from edgessl.errors import UsageError, nearest
from edgessl.files import write_json
from edgessl.progress import ProgressEvent
from edgessl.registry import Registry
from edgessl.verb import Artifact, Input, StageCall, Verb

__all__ = ["VERBS", "Artifact", "Input", "StageCall", "Verb"]


def _modality_options() -> type[pydantic.BaseModel]:
    from edgessl.data.modality import MODALITIES

    return MODALITIES.get("image").Options


_SAMPLES = Input()
_MONITOR = Input(labelled=True, required=False)


class _Training(Verb):
    """What pretraining and distillation share."""

    artifact: ClassVar[Artifact] = "run"

    def can_resume(self, out: Path) -> bool:
        from edgessl.run_directory import RunDirectory

        return RunDirectory.is_run(out)

    @abstractmethod
    def own(self, settings: Mapping[str, Any]) -> type[pydantic.BaseModel]:
        """The settings of the method or of the distillation."""

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.pretraining.options import ExecutionOptions, TrainerOptions

        return [TrainerOptions, ExecutionOptions, _modality_options(), self.own(settings)]

    def ignored(self) -> frozenset[str]:
        from edgessl.pretraining.options import ExecutionOptions

        return frozenset(ExecutionOptions.model_fields)


class Pretrain(_Training):
    """`edgessl.pretraining.pretrain`."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "data": _SAMPLES,
        "init_from": Input(artifacts=("run",), required=False),
        "monitor": _MONITOR,
    }
    parameters: ClassVar[Mapping[str, Any]] = {"method": "simclr", "backbone": "resnet18"}

    def own(self, settings: Mapping[str, Any]) -> type[pydantic.BaseModel]:
        from edgessl.pretraining.method import METHODS

        return METHODS.get(settings.get("method", "simclr")).Options

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        from edgessl.pretraining.method import METHODS

        return {"method_defaults": dict(METHODS.get(settings["method"]).defaults)}

    def run(self, call: StageCall) -> None:
        from edgessl.pretraining import pretrain

        pretrain(
            call.inputs["data"],
            method=call.settings.get("method", "simclr"),
            backbone=call.settings.get("backbone", "resnet18"),
            out=call.out,
            overrides=call.options("method", "backbone"),
            resume=call.resume,
            overwrite=not call.resume,
            init_from=call.inputs.get("init_from"),
            monitor=call.inputs.get("monitor"),
            progress=call.progress,
        )


class Distill(_Training):
    """`edgessl.distillation.distill`."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "teacher": Input(artifacts=("run", "onnx"), many=True, free=True),
        "data": _SAMPLES,
        "teacher_weights": Input(artifacts=("run",), many=True, required=False),
        "monitor": _MONITOR,
    }
    parameters: ClassVar[Mapping[str, Any]] = {
        "student": None,
        "for_target": "",
        "budget": [],
        "on": "",
    }

    def own(self, settings: Mapping[str, Any]) -> type[pydantic.BaseModel]:
        from edgessl.distillation.objective import DistillationOptions

        return DistillationOptions

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.distillation.for_target import IntegerOptions

        return [*super().models(settings), IntegerOptions]

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        from edgessl.distillation.budget.limits import parse_budget, target_of

        budgets = [parse_budget(text) for text in _names(settings["budget"])]
        if not budgets:
            return {}
        target_of(budgets, settings["for_target"] or None)
        return {"machine": _machine()}

    def run(self, call: StageCall) -> None:
        from edgessl.distillation import distill

        settings = call.options("student", "for_target", "budget", "on")
        teachers, weights = (
            list(call.inputs["teacher"]),
            list(call.inputs.get("teacher_weights", [])),
        )
        if tables := settings.get("teachers"):
            paths = iter(weights)
            settings["teachers"] = [
                {**table, "name": name, **({"weights_file": next(paths)} if own else {})}
                for table, name in zip(tables, teachers, strict=True)
                for own in ["weights_file" in table]
            ]
            teachers = weights = []
        elif len(weights) > 1:
            raise UsageError(f"teacher_weights is for one teacher, found {len(weights)} files")
        distill(
            teachers or None,
            call.settings["student"],
            call.inputs["data"],
            out=call.out,
            overrides=settings,
            teacher_weights=Path(weights[0]) if weights else None,
            resume=call.resume,
            overwrite=not call.resume,
            monitor=call.inputs.get("monitor"),
            for_target=call.settings.get("for_target") or None,
            budget=_names(call.settings.get("budget", [])),
            on=call.settings.get("on") or None,
            progress=call.progress,
        )

    def arrange(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``[[teachers]]``: their names and weights are inputs, like those of ``teacher``."""
        tables = settings.get("teachers")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            return settings
        if "teacher" in settings or "teacher_weights" in settings:
            raise UsageError("teachers are given by teacher and by [[teachers]]; give them once")
        names = [table["name"] for table in tables if "name" in table]
        files = [table["weights_file"] for table in tables if "weights_file" in table]
        found = {"teacher": names} | ({"teacher_weights": files} if files else {})
        return {**settings, **found}


class Evaluate(Verb):
    """`edgessl.evaluation.evaluate`; the report is the artifact."""

    artifact: ClassVar[Artifact] = "json"
    inputs: ClassVar[Mapping[str, Input]] = {
        "subject": Input(artifacts=("run", "onnx", "edge"), free=True),
        "data": Input(labelled=True),
    }
    parameters: ClassVar[Mapping[str, Any]] = {"protocol": ["knn", "linear", "fewshot"]}

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.evaluation import EvaluationOptions

        return [EvaluationOptions, _modality_options()]

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        from edgessl.evaluation.evaluate import PROTOCOLS

        for name in _names(settings["protocol"]):
            if name not in PROTOCOLS:
                raise UsageError(f"{where}: unknown protocol '{name}'; {nearest(name, PROTOCOLS)}")
        return {}

    def run(self, call: StageCall) -> None:
        from edgessl.evaluation.evaluate import PROTOCOLS, evaluate

        report = evaluate(
            call.inputs["subject"],
            call.inputs["data"],
            protocols=_names(call.settings.get("protocol", PROTOCOLS)),
            overrides=call.options("protocol"),
            progress=call.progress,
        )
        write_json(call.out, report.to_json())


class Export(Verb):
    """`edgessl.exporting.export`."""

    artifact: ClassVar[Artifact] = "onnx"
    inputs: ClassVar[Mapping[str, Input]] = {"run": Input(artifacts=("run",))}

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.exporting import ExportOptions

        return [ExportOptions]

    def run(self, call: StageCall) -> None:
        from edgessl.exporting import export

        export(call.inputs["run"], out=call.out, overrides=call.settings, progress=call.progress)


class Compile(Verb):
    """`edgessl.compiler.compile_model`."""

    artifact: ClassVar[Artifact] = "edge"
    inputs: ClassVar[Mapping[str, Input]] = {
        "model": Input(artifacts=("onnx",)),
        "calibration": Input(),
    }
    parameters: ClassVar[Mapping[str, Any]] = {"target": "host"}

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.compiler import CompileOptions

        return [CompileOptions]

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        from edgessl.targets import load_target

        device = load_target(settings["target"]).model_dump(mode="json")
        return {"target": device, "machine": _machine()}

    def ignored(self) -> frozenset[str]:
        return frozenset({"remeasure"})

    def run(self, call: StageCall) -> None:
        from edgessl.compiler import compile_model
        from edgessl.data.calibration import open_media

        compile_model(
            call.inputs["model"],
            target=call.settings.get("target", "host"),
            calibration=call.inputs["calibration"],
            out=call.out,
            overrides=call.options("target"),
            open_data=open_media,
            progress=call.progress,
        )


class Sensitivity(Verb):
    """`edgessl.compiler.sensitivity_report`; the report is the artifact."""

    artifact: ClassVar[Artifact] = "json"
    inputs: ClassVar[Mapping[str, Input]] = {
        "model": Input(artifacts=("onnx",)),
        "data": _SAMPLES,
    }
    parameters: ClassVar[Mapping[str, Any]] = {"target": "host"}

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.compiler import SensitivityOptions

        return [SensitivityOptions]

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        from edgessl.targets import load_target

        device = load_target(settings["target"]).model_dump(mode="json")
        return {"target": device, "machine": _machine()}

    def ignored(self) -> frozenset[str]:
        return frozenset({"threads", "timeout_s"})

    def run(self, call: StageCall) -> None:
        from edgessl.compiler import sensitivity_report
        from edgessl.data.calibration import open_media

        report = sensitivity_report(
            call.inputs["model"],
            target=call.settings.get("target", "host"),
            data=call.inputs["data"],
            overrides=call.options("target"),
            open_data=open_media,
            progress=call.progress,
        )
        write_json(call.out, report.model_dump(mode="json"))


class Benchmark(Verb):
    """`edgessl.benchmarking.benchmark`; the result is the artifact."""

    artifact: ClassVar[Artifact] = "json"
    inputs: ClassVar[Mapping[str, Input]] = {
        "bundles": Input(artifacts=("edge", "onnx", "run"), many=True),
        "against": Input(artifacts=("edge", "onnx", "run"), many=True, required=False),
    }

    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        from edgessl.benchmarking import BenchmarkOptions

        return [BenchmarkOptions]

    def run(self, call: StageCall) -> None:
        from edgessl.benchmarking import BenchmarkOptions, benchmark
        from edgessl.benchmarking.tables import verdict_line

        result = benchmark(
            call.inputs["bundles"],
            against=call.inputs.get("against", ()),
            options=build_options(BenchmarkOptions, call.settings, where="benchmark"),
            progress=call.progress,
        ).result
        if result.verdict not in (None, "PASS"):
            call.progress(ProgressEvent("benchmark", message=verdict_line(result), warning=True))
        write_json(call.out, result.model_dump(mode="json"))


def _machine() -> dict[str, Any]:
    """What decides which of several ways to compute is the fastest here."""
    from edgessl.targets import detect

    host = detect()
    return {"arch": host.arch, "cpu": host.cpu, "features": sorted(host.features)}


def _names(value: str | Sequence[str]) -> list[str]:
    """A list, or text with commas, as a list."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)


VERBS: Registry[type[Verb]] = Registry(
    "verb",
    {
        "benchmark": "edgessl.stages:Benchmark",
        "compile": "edgessl.stages:Compile",
        "distill": "edgessl.stages:Distill",
        "evaluate": "edgessl.stages:Evaluate",
        "export": "edgessl.stages:Export",
        "pretrain": "edgessl.stages:Pretrain",
        "sensitivity": "edgessl.stages:Sensitivity",
    },
    group="edgessl.verbs",
)
