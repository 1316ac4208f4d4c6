"""The models of an account: teachers, the float student and what computes with integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgessl.config import build_options
from edgessl.distillation.account.result import Role
from edgessl.distillation.options import DistillationOptions
from edgessl.distillation.teachers import Teacher, open_teacher
from edgessl.errors import ModelError, UsageError
from edgessl.evaluation.embedders import Embedder, open_embedder
from edgessl.files import sha256_file
from edgessl.preprocessing import ImageInput, RawImage, normalize
from edgessl.run_directory import RunDirectory

__all__ = ["Model", "TeacherEmbedder", "open_models", "open_teachers", "teacher_names"]


class TeacherEmbedder(Embedder):
    """A teacher as an embedder; closing it brings it back to the CPU.

    Attributes:
        sha256: Of the teacher.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.name, self.spec, self.sha256 = teacher.name, teacher.spec, teacher.sha256
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._teacher = teacher
        teacher.to(self._device)

    def embed(self, samples: RawImage) -> NDArray[np.float32]:
        """Embed fitted samples."""
        views = torch.from_numpy(normalize(samples, self.spec)).to(self._device)
        found = self._teacher.features(views, maps=False).embedding
        embedded: NDArray[np.float32] = found.float().cpu().numpy()
        return embedded

    def close(self) -> None:
        """Leave the accelerator."""
        self._teacher.to(torch.device("cpu"))


class Model(NamedTuple):
    """One of the models that are judged.

    Attributes:
        name: How the page calls it.
        sha256: Of its file.
    """

    role: Role
    name: str
    sha256: str
    embedder: Embedder


def open_models(run: RunDirectory, backbone: str, bundle: str | Path | None) -> Iterator[Model]:
    """Open the float student, the trained integers if there are any, and a bundle.

    Raises:
        UsageError: The bundle is none.
    """
    yield _model("float", run.encoder_path, f"{run.path.name} ({backbone})")
    if run.student_path.is_file():
        yield _model("integers", run.student_path, run.student_path.name)
    if bundle is not None:
        path = Path(bundle)
        if not path.is_file() or path.suffix not in (".onnx", ".edge"):
            raise UsageError(f"{path}: not a compiled model; give a .edge or a .onnx file")
        yield _model("bundle", path, path.name)


def _model(role: Role, path: Path, name: str) -> Model:
    return Model(role, name, sha256_file(path), open_embedder(str(path), _no_input, seed=0))


def _no_input() -> ImageInput:
    raise UsageError("a model file says itself how its input is made")


def teacher_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a run's teachers, as its configuration has them."""
    several = config.get("settings", {}).get("teachers") or ()
    named = tuple(str(teacher["name"]) for teacher in several)
    if named:
        return named
    own = config.get("teacher", ())
    return (own,) if isinstance(own, str) else tuple(str(name) for name in own)


def open_teachers(config: Mapping[str, Any], given: Sequence[str]) -> list[TeacherEmbedder]:
    """Open a run's teachers.

    Args:
        config: The run's configuration, for their settings.
        given: Where they are now; empty takes the configuration's names.

    Raises:
        EdgeSSLError: One of them is gone, cannot be used or is another one than taught the run.
    """
    # Settings that an older version had say nothing of how to open a teacher.
    settings = config.get("settings", {})
    known = {k: v for k, v in settings.items() if k in DistillationOptions.model_fields}
    options = build_options(DistillationOptions, known, where="config.toml")
    if given or not options.teachers:
        chosen = [options.of_teacher(name) for name in given or teacher_names(config)]
    else:
        chosen = [options.complete(teacher) for teacher in options.teachers]
    opened = [TeacherEmbedder(open_teacher(teacher)) for teacher in chosen]
    recorded = config.get("teacher_sha256", [])
    wanted = [recorded] if isinstance(recorded, str) else list(recorded)
    if [teacher.sha256 for teacher in opened] != wanted:
        names = " and ".join(str(teacher.name) for teacher in chosen)
        raise ModelError(f"{names}: not what taught this run, by its hash")
    return opened
