"""Run a recipe: skip what did not change, go on with what was interrupted.

Under ``OUT`` each stage leaves its artifact (``OUT/teacher/``, ``OUT/model.onnx``), and under
``OUT/.edgessl`` what it was made from: a hash of each input, the settings, the version. A stage
whose identity is the same and whose artifact still has the hash it had is not run again.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pydantic

from edgessl import __version__
from edgessl.config import Options
from edgessl.errors import EdgeSSLError, OutputError, RunError, UsageError, nearest
from edgessl.files import output_errors, sha256_file, sha256_json, write_json
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.recipe import PlannedStage, Recipe, plan, read_recipe
from edgessl.registry import Registry
from edgessl.stages import VERBS, StageCall, Verb

__all__ = ["PipelineReport", "StageResult", "run_recipe"]

_SUFFIXES = {"run": "", "onnx": ".onnx", "edge": ".edge", "json": ".json"}
_STATE = ".edgessl"


class StageResult(Options):
    """What became of one stage.

    Attributes:
        status: ``"made"``, ``"resumed"`` after an interruption, or ``"cached"``.
        reason: Why it ran, or why it did not.
        output: The artifact.
        sha256: Hash of the artifact; of a run, hash of its configuration and encoder.
        seconds: Time it took now.
    """

    name: str
    verb: str
    status: Literal["made", "resumed", "cached"]
    reason: str
    output: str
    sha256: str
    seconds: float


class PipelineReport(Options):
    """What became of a recipe."""

    name: str
    out: str
    stages: tuple[StageResult, ...]

    def output(self, stage: str) -> Path:
        """Path of a stage's artifact."""
        return Path(next(s.output for s in self.stages if s.name == stage))


class _State(Options):
    """``OUT/.edgessl/<stage>.json``.

    Attributes:
        sha256: Hash of the finished artifact; while running, of what was there before, if it was
            whole: what still has this hash is no beginning of the new one.
    """

    status: Literal["running", "done"]
    identity: dict[str, Any]
    sha256: str | None = None


def run_recipe(
    recipe: Path | Recipe,
    *,
    out: Path,
    folder: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: Collection[str] = (),
    progress: Progress = silent,
    verbs: Registry[type[Verb]] = VERBS,
) -> PipelineReport:
    """Run all stages of a recipe, each after those that it reads.

    Args:
        recipe: A recipe file, or what one says.
        out: Folder of the artifacts.
        folder: What relative paths are relative to; None takes the recipe file's folder.
        overrides: ``key`` for all stages that know it, ``stage.key`` for one.
        force: Stages to run even if nothing changed.
        progress: Told of every step of every stage.
        verbs: Where verbs are found by name.

    Raises:
        UsageError: The recipe is wrong; nothing has run then.
        OutputError: ``out`` cannot be written, or holds something that the recipe did not make.
        RunError: Another process runs a recipe in ``out``.
        EdgeSSLError: A stage failed; the stages before it are kept.
    """
    if isinstance(recipe, Path):
        folder = folder or recipe.absolute().parent
        recipe = read_recipe(recipe)
    stages = plan(recipe, folder=folder or Path.cwd(), overrides=overrides, verbs=verbs)
    names = [stage.name for stage in stages]
    for name in force:
        if name not in names:
            raise UsageError(f"--force: unknown stage '{name}'; {nearest(name, names)}")
    out = Path(out).absolute()
    results: dict[str, StageResult] = {}
    with _lock(out):
        for number, stage in enumerate(stages):
            progress(ProgressEvent("recipe", number, len(stages), "stages"))
            runner = _StageRunner(stage, out, results, progress)
            results[stage.name] = runner.run(forced=stage.name in force)
        progress(ProgressEvent("recipe", len(stages), len(stages), "stages"))
    return PipelineReport(name=recipe.name, out=str(out), stages=tuple(results.values()))


class _StageRunner:
    """One stage: what it would be made from, what is there, and what has to be done."""

    def __init__(
        self,
        stage: PlannedStage,
        out: Path,
        results: Mapping[str, StageResult],
        progress: Progress,
    ) -> None:
        self.stage = stage
        self.results = results
        self.progress = progress
        self.artifact = out / f"{stage.name}{_SUFFIXES[stage.verb.artifact]}"
        self.state_path = out / _STATE / f"{stage.name}.json"

    def run(self, *, forced: bool) -> StageResult:
        identity = self._identity()
        before = self._read_state()
        reason = "forced" if forced else self._reason_to_run(before, identity)
        if reason is None and before is not None and before.sha256 is not None:
            self._say("unchanged, taken from the cache")
            return self._result("cached", "unchanged", before.sha256, 0.0)
        resume = reason == "was interrupted" and self._can_resume(before)
        old = None if resume else self._make_room(before, forced=forced)
        self._say(f"{self.stage.verb_name}: {reason}{', goes on' if resume else ''}")
        started = time.monotonic()
        if not resume:
            self._write_state(_State(status="running", identity=identity, sha256=old))
        try:
            self.stage.verb.run(self._call(resume=resume))
        except EdgeSSLError as error:
            error.args = (f"stage '{self.stage.name}': {error}", *error.args[1:])
            raise
        digest = _artifact_sha256(self.artifact)
        if digest is None:
            raise RunError(f"stage '{self.stage.name}' left nothing at {self.artifact}")
        self._write_state(_State(status="done", identity=identity, sha256=digest))
        seconds = time.monotonic() - started
        return self._result("resumed" if resume else "made", str(reason), digest, seconds)

    def _identity(self) -> dict[str, Any]:
        """Everything that decides the artifact."""
        inputs = {}
        for key, value in self.stage.inputs.items():
            many = isinstance(value, list)
            hashes = [self._input_sha256(key, item) for item in (value if many else [value])]
            inputs[key] = hashes if many else hashes[0]
        return {
            "edgessl": __version__,
            "verb": self.stage.verb_name,
            "inputs": inputs,
            "settings": dict(self.stage.identity),
        }

    def _input_sha256(self, key: str, value: str) -> str:
        if value.startswith("@"):
            return self.results[value[1:]].sha256
        source = self.stage.verb.inputs[key]
        if source.is_data:
            return _data_sha256(Path(value), labelled=source.labelled)
        return _artifact_sha256(Path(value)) or f"named {value}"

    def _reason_to_run(self, before: _State | None, identity: dict[str, Any]) -> str | None:
        """Why the stage must run; None if it need not."""
        if before is None:
            return "not made yet"
        changed = _difference(before.identity, identity)
        if changed:
            return f"{changed} changed"
        if before.status == "running":
            return "was interrupted"
        now = _artifact_sha256(self.artifact)
        if now is None:
            return "its output is gone"
        return None if now == before.sha256 else "its output was damaged or edited"

    def _can_resume(self, before: _State | None) -> bool:
        if before is None or not self.stage.verb.can_resume(self.artifact):
            return False
        return before.sha256 is None or before.sha256 != _artifact_sha256(self.artifact)

    def _make_room(self, before: _State | None, *, forced: bool) -> str | None:
        """See that only what this recipe made is replaced; give the hash of that.

        A whole artifact stays until the verb replaces it; half a run goes now.
        """
        if before is None and self.artifact.exists() and not forced:
            raise OutputError(
                f"{self.artifact} exists and was not made by this recipe; choose another --out, "
                f"or pass --force {self.stage.name} to replace it"
            )
        digest = _artifact_sha256(self.artifact)
        if digest is None and self.artifact.is_dir():
            with output_errors(self.artifact):
                shutil.rmtree(self.artifact)
        return digest

    def _call(self, *, resume: bool) -> StageCall:
        inputs = {
            key: [self._path(v) for v in value] if isinstance(value, list) else self._path(value)
            for key, value in self.stage.inputs.items()
        }
        return StageCall(inputs, self.stage.settings, self.artifact, resume, self._prefixed)

    def _path(self, value: str) -> Path | str:
        if value.startswith("@"):
            return Path(self.results[value[1:]].output)
        return Path(value) if Path(value).is_absolute() else value

    def _prefixed(self, event: ProgressEvent) -> None:
        self.progress(replace(event, stage=f"{self.stage.name}: {event.stage}"))

    def _say(self, text: str) -> None:
        self.progress(ProgressEvent(self.stage.name, message=text))

    def _read_state(self) -> _State | None:
        """What is known about the last time; a damaged note counts as an unfinished stage."""
        if not self.state_path.is_file():
            return None
        try:
            return _State.model_validate_json(self.state_path.read_bytes())
        except pydantic.ValidationError:
            self.progress(
                ProgressEvent(
                    self.stage.name,
                    message=f"{self.state_path} is damaged; the stage is made again",
                    warning=True,
                )
            )
            return _State(status="running", identity={})

    def _write_state(self, state: _State) -> None:
        write_json(self.state_path, state.model_dump(mode="json"))

    def _result(
        self, status: Literal["made", "resumed", "cached"], reason: str, digest: str, seconds: float
    ) -> StageResult:
        return StageResult(
            name=self.stage.name,
            verb=self.stage.verb_name,
            status=status,
            reason=reason,
            output=str(self.artifact),
            sha256=digest,
            seconds=seconds,
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two identities, as a person calls it; empty if nothing does."""
    names = [key for key in ("edgessl", "verb") if before.get(key) != now[key]]
    for part in ("inputs", "settings"):
        old, new = before.get(part, {}), now[part]
        names += sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return ", ".join(names)


def _artifact_sha256(path: Path) -> str | None:
    """Hash of a file, or of what later stages read of a run; None if there is nothing."""
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return None
    from edgessl.run_directory import RunDirectory

    run = RunDirectory(path)
    files = (run.config_path, run.encoder_path)
    if not all(file.is_file() for file in files):
        return None
    return sha256_json([sha256_file(file) for file in files])


def _data_sha256(path: Path, *, labelled: bool) -> str:
    """Hash of a data source: its file, or the keys, contents and, if asked for, labels."""
    if path.is_file():
        return sha256_file(path)
    from edgessl.data.source import fingerprint, open_source

    splits = open_source(path)
    parts: list[Any] = []
    for source in (splits.train, splits.val, splits.test):
        if source is None:
            parts.append(None)
            continue
        parts.append(fingerprint(source))
        labels = source.labels() if labelled else None
        if labels is not None:
            parts.append([labels.tolist(), list(source.class_names or ())])
    return sha256_json(parts)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second process from running a recipe in the same folder."""
    path = out / _STATE / "lock"
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process runs a recipe in {out}; wait or stop it") from None
        yield
