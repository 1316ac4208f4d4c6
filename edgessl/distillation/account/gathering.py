"""Run every model on the samples; what teachers give is kept, for when they are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.distillation.account.result import AccountOptions, Part, Role, Subject
from edgessl.distillation.account.samples import PartSamples, embed, embed_teachers
from edgessl.distillation.account.subjects import Model, open_teachers, teacher_names
from edgessl.errors import EdgeSSLError
from edgessl.evaluation import evaluate
from edgessl.evaluation.embedders import Embedder
from edgessl.files import atomic_path, sha256_json
from edgessl.progress import Progress
from edgessl.run_directory import RunDirectory

__all__ = ["Gathered", "gather"]

_KEPT = "teacher-features.npz"
Kept = Mapping[Part, NDArray[np.float16]]


@dataclass
class Gathered:
    """What was found out by running models.

    Attributes:
        subjects: The models, in the order in which they are compared.
        embeddings: (role, part) → (N, D).
        scores: Model → scores, if labels were given.
        missing: What could not be looked at, and why.
    """

    subjects: list[Subject] = field(default_factory=list)
    embeddings: dict[tuple[Role, Part], NDArray[np.float32]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def gather(
    run: RunDirectory,
    models: Sequence[Model],
    parts: Mapping[Part, PartSamples],
    options: AccountOptions,
    *,
    teachers: Sequence[str | Path | Embedder],
    labels: str | Path | None,
    progress: Progress,
) -> Gathered:
    """Embed both parts with every model, and judge them with labels if there are any.

    Args:
        run: The distilled run.
        models: The student in all its forms.
        parts: What to show them.
        options: Settings.
        teachers: As for `account`.
        labels: A labelled source.
        progress: Told how far it is.
    """
    found = Gathered()
    with contextlib.ExitStack() as stack:
        opened = [t for t in teachers if isinstance(t, Embedder)]
        names = [str(t) for t in teachers if not isinstance(t, Embedder)]
        config = run.config()
        kept = _read_kept(run, _identity(config, parts))
        reason = ""
        if not opened and (kept is None or labels is not None):
            try:
                opened += open_teachers(config, names)
            except EdgeSSLError as error:
                if names:
                    raise
                reason = str(error)
            for teacher in opened:
                stack.callback(teacher.close)
        if kept is None and opened:
            how = {"batch_size": options.batch_size, "progress": progress}
            kept = {part: embed_teachers(opened, shown, **how) for part, shown in parts.items()}
            _keep(run, _identity(config, parts), kept)
        if kept is None:
            found.missing.append(
                f"the teacher, so that there is no telling where the loss happened. {reason}; "
                "say with --teacher where it is now"
            )
        else:
            title = " and ".join([t.name for t in opened] or teacher_names(config))
            _add(found, Subject(role="teacher", name=title, sha256=_teacher_sha256(config)), kept)
        for model in models:
            shown = {
                part: embed(
                    model.embedder, samples, batch_size=options.batch_size, progress=progress
                )
                for part, samples in parts.items()
            }
            _add(found, Subject(role=model.role, name=model.name, sha256=model.sha256), shown)
        if labels is not None:
            _score(found, opened, models, labels, progress)
    return found


def _add(found: Gathered, subject: Subject, shown: Mapping[Part, NDArray[Any]]) -> None:
    found.subjects.append(subject)
    for part, embeddings in shown.items():
        found.embeddings[subject.role, part] = embeddings.astype(np.float32)


def _score(
    found: Gathered,
    teachers: Sequence[Embedder],
    models: Sequence[Model],
    labels: str | Path,
    progress: Progress,
) -> None:
    if not teachers:
        found.missing.append("the teacher's accuracy, because it cannot be opened")
    titled = [(f"teacher {teacher.name}", teacher) for teacher in teachers]
    for title, embedder in [*titled, *((str(m.role), m.embedder) for m in models)]:
        scores = evaluate(embedder, labels, progress=progress).scores
        found.scores[title] = {name: round(value, 6) for name, value in scores.items()}


def _teacher_sha256(config: Mapping[str, Any]) -> str | None:
    digest = config.get("teacher_sha256")
    if digest is None or isinstance(digest, str):
        return digest
    return sha256_json(list(digest))


def _identity(config: Mapping[str, Any], parts: Mapping[Part, PartSamples]) -> str:
    """Hash of the teachers and of everything that they were shown."""
    return sha256_json([_teacher_sha256(config), *(part.identity for part in parts.values())])


def _keep(run: RunDirectory, identity: str, kept: Kept) -> None:
    with atomic_path(run.path / "account" / _KEPT) as temporary, open(temporary, "wb") as file:
        np.savez(file, identity=np.array(identity), train=kept["train"], held_out=kept["held-out"])


def _read_kept(run: RunDirectory, identity: str) -> Kept | None:
    """What an earlier account kept, if it is of these teachers and samples."""
    try:
        with np.load(run.path / "account" / _KEPT, allow_pickle=False) as file:
            if str(file["identity"]) != identity:
                return None
            return {"train": file["train"], "held-out": file["held_out"]}
    except (OSError, ValueError, KeyError, EOFError):
        return None
