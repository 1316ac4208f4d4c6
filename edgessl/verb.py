"""What a verb tells a recipe: what it reads, knows and leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from edgessl.config import build_options, split_overrides
from edgessl.errors import UsageError, nearest
from edgessl.progress import Progress

__all__ = ["Artifact", "Input", "StageCall", "Verb"]

Artifact = Literal["run", "onnx", "edge", "json"]


@dataclass(frozen=True)
class Input:
    """One thing that a stage reads.

    Attributes:
        artifacts: Kinds of output that ``@stage`` may stand for; none for a data source.
        labelled: For a data source: its labels are read, so they belong to its identity.
        required: A recipe must give it; a required data source defaults to the recipe's ``data``.
        many: A list.
        free: Text that names no file is passed on as it is (``timm:NAME``, ``random:NAME``).
    """

    artifacts: tuple[Artifact, ...] = ()
    labelled: bool = False
    required: bool = True
    many: bool = False
    free: bool = False

    @property
    def is_data(self) -> bool:
        """True for a data source, False for an artifact or another file."""
        return not self.artifacts


@dataclass(frozen=True)
class StageCall:
    """A stage that is about to run.

    Attributes:
        inputs: Input name → absolute path or free text; a list where the input takes many.
        settings: The verb's settings, validated, without the inputs.
        out: Where the artifact goes.
        resume: Continue what an interruption left at ``out``.
    """

    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    out: Path
    resume: bool
    progress: Progress

    def options(self, *without: str) -> dict[str, Any]:
        """The settings but for some, as the rooms' ``overrides``."""
        return {key: value for key, value in self.settings.items() if key not in without}


class Verb(ABC):
    """One kind of stage.

    Attributes:
        artifact: What it leaves behind.
        inputs: Input name → what it may be.
        parameters: Settings beside the options models, with their defaults; None has none and
            must be given.
    """

    artifact: ClassVar[Artifact]
    inputs: ClassVar[Mapping[str, Input]]
    parameters: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def models(self, settings: Mapping[str, Any]) -> Sequence[type[pydantic.BaseModel]]:
        """The options models whose fields the stage knows, given its parameters."""

    @abstractmethod
    def run(self, call: StageCall) -> None:
        """Make the artifact."""

    def can_resume(self, out: Path) -> bool:
        """Tell whether an interrupted stage can go on from what it left at ``out``."""
        return False

    def ignored(self) -> frozenset[str]:
        """Settings that do not decide the result (threads and the like)."""
        return frozenset()

    def arrange(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Bring what a recipe says into the form of ``inputs`` and settings."""
        return settings

    def check(self, settings: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        """Look at the parameters' values; give what else decides the result.

        Raises:
            EdgeSSLError: A value that cannot be.
        """
        return {}

    def keys(self, settings: Mapping[str, Any]) -> set[str]:
        """Every name that a stage of this verb may set."""
        fields = (name for model in self.models(settings) for name in model.model_fields)
        return {*self.inputs, *self.parameters, *fields}

    def identity(self, settings: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """Validate settings (without inputs) and resolve defaults: what decides the result.

        Raises:
            UsageError: An unknown key, a missing one, or a value out of range.
        """
        for name, default in self.parameters.items():
            if default is None and name not in settings:
                raise UsageError(f"{where}: '{name}' is missing; add {name} = …")
        parameters = {k: settings.get(k, default) for k, default in self.parameters.items()}
        extra = self.check({**settings, **parameters}, where=where)
        models = list(self.models(settings))
        known = self.keys(settings)
        rest = {k: v for k, v in settings.items() if k not in parameters}
        for key in rest:
            if key not in known:
                raise UsageError(f"{where}: unknown key '{key}'; {nearest(key, known)}")
        resolved: dict[str, Any] = {}
        for model, own in zip(models, split_overrides(rest, models, where=where), strict=True):
            options = build_options(model, own, where=where)
            resolved |= options.model_dump(mode="json")
        kept = {k: v for k, v in resolved.items() if k not in self.ignored()}
        return {**kept, **parameters, **extra}
