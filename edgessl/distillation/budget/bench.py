"""What a candidate costs on a target: exported with random weights, compiled, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pydantic
import torch
from typing_extensions import Self

from edgessl.benchmarking import BenchmarkOptions, benchmark
from edgessl.benchmarking.environment import env_hash, fingerprint
from edgessl.benchmarking.remote import benchmark_on
from edgessl.benchmarking.result import ArmResult
from edgessl.bundle.archive import open_bundle
from edgessl.compiler import compile_model
from edgessl.compiler.identity import toolchain_identity
from edgessl.compiler.workload import workload_of
from edgessl.config import Options
from edgessl.data.calibration import ImageCalibration
from edgessl.distillation.budget.families import Student
from edgessl.distillation.budget.figures import Latency
from edgessl.errors import ModelError, UnavailableError
from edgessl.exporting import export
from edgessl.exporting.export import INPUT_NAME
from edgessl.files import cache_directory, output_errors, sha256_json, write_json
from edgessl.models import build_encoder, save_encoder
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.runtime import finalize
from edgessl.targets import Target, detect

__all__ = ["TargetBench", "integer_precision"]

_VERSION = 1
"""Raise when figures would come out otherwise, so that cached ones are made anew."""
_SAMPLES = 32
"""Ranges of random weights decide neither size nor latency; a few samples will do."""
_PACKAGES = ("timm", "torch")
# Random weights say nothing about fidelity: whatever runs passes.
_NO_GATE = {"min_fidelity": 1e-6, "min_neighbour_agreement": 0.0, "min_sqnr_db": 0.0}

Answer = TypeVar("Answer", bound=Options)


class _Operations(Options):
    flops: float


class _Compiled(Options):
    size_bytes: int
    build: str


def integer_precision(target: Target) -> str:
    """The target's first precision of integers, what `for_target` trains for; else ``"auto"``."""
    found = (c.precision for c in target.candidates if c.precision in ("int8", "a16w8"))
    return next(found, "auto")


class TargetBench:
    """A `Workbench` on the target's runtime here, or on the device.

    Use it as a context manager: exported and compiled candidates live in a scratch folder. Their
    figures live in the cache, keyed by everything that decides them, the machine included.

    Args:
        target: Compiled for this one.
        spec: The input; its size is replaced by each candidate's.
        data: The calibration source.
        precision: Of the compilation.
        on: ``ssh://`` address of the device; None measures here.
        python: Interpreter there.
        cache: Keep figures; False measures all anew.
        progress: Told of what is exported, compiled and measured.
    """

    def __init__(
        self,
        target: Target,
        spec: ImageInput,
        data: str | Path,
        *,
        precision: str,
        on: str | None = None,
        python: str = "python3",
        cache: bool = True,
        progress: Progress = silent,
    ) -> None:
        self._target = target
        self._spec = spec
        self._data = Path(data)
        self._precision = precision
        self._on = on
        self._python = python
        self._cache = cache
        self._progress = progress
        self.machine = sha256_json(on) if on else env_hash(fingerprint())

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="edgessl-budget-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def check(self) -> None:
        """See whether latency can be measured at all.

        Raises:
            UnavailableError: This machine is no such device, and none was named that could.
        """
        target = self._target
        obstacle = target.runs_here(detect())
        if obstacle is None:
            return
        if self._on is None:
            raise UnavailableError(
                f"latency on {target.name} cannot be measured here ({obstacle}), and emulators "
                "give none; name the device with --on ssh://USER@HOST, or budget size or FLOPs"
            )
        if target.family != "cpu":
            raise UnavailableError(
                f"{target.name}: what is compiled here is finished on the device, which --on does "
                "not do; run edgessl budget there, or budget size or FLOPs"
            )

    def flops(self, student: Student) -> float:
        """Operations of one sample in the exported graph."""
        return self._recalled("flops", student, _Operations, partial(self._count, student)).flops

    def size(self, student: Student) -> tuple[int, str]:
        """Bytes of the files that the engine opens, and the name of what was compiled."""
        found = self._recalled("size", student, _Compiled, lambda: self._compiled(student)[1])
        return found.size_bytes, found.build

    def latency(self, student: Student, restarts: int) -> Latency:
        """Measured in so many processes at least."""
        return self._recalled(
            "latency",
            student,
            Latency,
            lambda: self._timed(student, restarts),
            enough=lambda known: known.restarts >= restarts,
        )

    def _count(self, student: Student) -> _Operations:
        workload = workload_of(self._exported(student))
        if workload is None:
            raise ModelError(f"{student}: its operations cannot be counted; budget its latency")
        return _Operations(flops=workload.flops)

    def _exported(self, student: Student) -> Path:
        folder = self._place(student)
        model = folder / "student.onnx"
        if not model.is_file():
            self._say(f"exporting {student}")
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                encoder = build_encoder(student.name, self._sized(student))
            save_encoder(encoder, folder / "encoder.safetensors", lineage={})
            export(folder / "encoder.safetensors", out=model)
        return model

    def _compiled(self, student: Student) -> tuple[Path, _Compiled]:
        bundle, facts = (self._place(student) / name for name in ("student.edge", "facts.json"))
        if not facts.is_file():
            model = self._exported(student)
            self._say(f"compiling {student} for {self._target.name} in {self._precision}")
            report = compile_model(
                model,
                target=self._target.model_copy(update=_NO_GATE),
                calibration=ImageCalibration(self._data, self._sized(student), INPUT_NAME),
                out=bundle,
                overrides={
                    "precision": self._precision,
                    "samples": _SAMPLES,
                    "held_out": 8,
                    "max_float_layers": 0,
                },
            )
            chosen = next(c for c in report.candidates if c.name == report.chosen)
            size = chosen.size_bytes or report.size_bytes or 0
            write_json(facts, _Compiled(size_bytes=size, build=chosen.name).model_dump())
        return bundle, _Compiled.model_validate_json(facts.read_bytes())

    def _timed(self, student: Student, restarts: int) -> Latency:
        bundle, _ = self._compiled(student)
        self._say(f"measuring {student} in {restarts} processes")
        options = BenchmarkOptions(
            restarts=restarts, blocks=4, warm_up_seconds=0.3, cold_starts=1, threads=None
        )
        arm = self._measured(student, bundle, options)
        medians = [p50 for p50 in arm.restart_p50_ms() if p50 is not None]
        return Latency(
            p50_ms=arm.latency_p50_ms,
            p90_ms=arm.latency_p90_ms,
            p99_ms=arm.latency_p99_ms,
            low_ms=min(medians, default=arm.latency_p50_ms),
            high_ms=max(medians, default=arm.latency_p50_ms),
            restarts=restarts,
        )

    def _measured(self, student: Student, bundle: Path, options: BenchmarkOptions) -> ArmResult:
        path, engine = self._runnable(bundle)
        if self._on is None:
            result = benchmark([path], options=options).result
        else:
            result = benchmark_on(self._on, [path], options=options, python=self._python).result
        if result.failure is not None:
            raise UnavailableError(f"{student} could not be measured: {result.failure}")
        # A model file runs in every engine that is there; it was compiled for this one.
        arms = [arm for arm in result.arms if arm.engine == engine]
        if not arms:
            raise UnavailableError(f"{self._on}: has no {engine}; install it there")
        return arms[0]

    def _runnable(self, bundle: Path) -> tuple[Path, str]:
        """What can be measured, and its engine.

        A bundle that its device has yet to finish is finished if this is the device; another CPU
        runs the model in it as it is.
        """
        with open_bundle(bundle) as opened:
            engine = opened.manifest.engine.name
            if opened.manifest.kind == "native":
                return bundle, engine
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            if self._on is not None:
                return opened.extract(folder), engine
        native = folder / bundle.name
        finalize(bundle, native)
        return native, engine

    def _sized(self, student: Student) -> ImageInput:
        return self._spec.model_copy(update={"height": student.height, "width": student.width})

    def _place(self, student: Student) -> Path:
        folder = Path(self._folder.name, str(student).replace("/", "-"))
        folder.mkdir(exist_ok=True)
        return folder

    def _say(self, text: str) -> None:
        self._progress(ProgressEvent("budget", message=text))

    def _recalled(
        self,
        question: str,
        student: Student,
        kind: type[Answer],
        ask: Callable[[], Answer],
        enough: Callable[[Answer], bool] = lambda known: True,
    ) -> Answer:
        """The answer of the cache, or else a new one, kept there."""
        place = cache_directory("students", f"{self._key(question, student)}.json")
        if self._cache and place.is_file():
            try:
                known = kind.model_validate_json(place.read_bytes())
            except (pydantic.ValidationError, OSError):
                known = None
            if known is not None and enough(known):
                return known
        answer = ask()
        if self._cache:
            with output_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, answer.model_dump(mode="json"))
        return answer

    def _key(self, question: str, student: Student) -> str:
        identity: list[object] = [
            _VERSION,
            question,
            student.model_dump(mode="json"),
            self._spec.channels,
            {name: _installed(name) for name in _PACKAGES},
        ]
        if question != "flops":
            host = detect()
            own, _, packages = toolchain_identity()  # not the times of edgessl's source files
            identity += [
                own,
                packages,
                self._target.model_dump(mode="json"),
                self._precision,
                [host.arch, host.cpu, sorted(host.features)],
            ]
        if question == "latency":
            identity += [self.machine]
        return sha256_json(identity)[:32]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
