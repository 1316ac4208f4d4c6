"""The builds that a bundle carries, and what a strategy makes of one on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgessl.bundle.manifest import (
    Canaries,
    Candidate,
    Manifest,
    OptionValue,
    Requirements,
    StandIn,
    Variant,
)
from edgessl.config import Options
from edgessl.progress import Progress
from edgessl.runtime.preflight import preflight

__all__ = ["Build", "FinalizeOptions", "Job", "Prepared", "Strategy", "builds_of"]


class FinalizeOptions(Options):
    """What the user says.

    Attributes:
        threads: Thread counts to try; empty for the powers of two up to the cores.
        workspace_mib: Most scratch memory of a TensorRT layer, instead of the recipe's.
        dla_core: Accelerator to build for, instead of the recipe's.
    """

    threads: tuple[int, ...] = ()
    workspace_mib: int | None = None
    dla_core: int | None = None


@dataclass(frozen=True)
class Build:
    """One build of the model: the bundle's first, or a variant.

    Attributes:
        name: The candidate that it was.
        manifest: The bundle's manifest as it would be with this build as its only one.
        canaries: Its own reference outputs.
    """

    name: str
    manifest: Manifest
    canaries: Canaries

    def files(self, folder: Path) -> dict[str, Path]:
        """Member → file of everything beside the model, which is all that a build brings.

        Args:
            folder: Where the bundle was extracted.
        """
        place = Path(self.manifest.model).parent
        return {
            entry.path: folder / entry.path
            for entry in self.manifest.files
            if Path(entry.path).parent == place
        }


@dataclass(frozen=True)
class Job:
    """What a strategy gets.

    Attributes:
        build: What to finish.
        folder: Where the bundle was extracted; files may be added.
        options: What the user says.
        progress: Told how far it is.
        where: The bundle, for messages.
    """

    build: Build
    folder: Path
    options: FinalizeOptions
    progress: Progress
    where: str

    def preflight(self, **changes: str | None) -> None:
        """Compare the build's requirements, changed as named, with this machine.

        Raises:
            UnavailableError: Something does not fit.
        """
        requirements = self.build.manifest.requirements.model_copy(update=changes)
        preflight(requirements, self.build.manifest.engine, where=f"{self.where}: {self.name}")

    @property
    def name(self) -> str:
        """The build's."""
        return self.build.name


@dataclass(frozen=True)
class Prepared:
    """A build that the engine opens here.

    Attributes:
        build: What it was made from.
        model: Member that the engine opens.
        members: Member → file of all that the native bundle needs.
        grid: Engine options to measure.
        version: Version of the engine.
        requirements: What a machine must be to run it.
        stand_ins: How other machines compute the same.
        versions: More software that took part.
        remarks: What a person should know.
    """

    build: Build
    model: str
    members: Mapping[str, Path]
    grid: Sequence[dict[str, OptionValue]]
    version: str
    requirements: Requirements
    stand_ins: tuple[StandIn, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class Strategy(Protocol):
    """How the builds of one engine are finished."""

    def __call__(self, job: Job) -> Prepared:
        """Finish one build, as far as that comes before measuring.

        Raises:
            EdgeSSLError: It cannot be finished here, and why.
        """
        ...


def builds_of(manifest: Manifest) -> list[Build]:
    """The bundle's builds that have canaries, its first one first."""
    first = manifest.model_copy(update={"variants": ()})
    pairs = [(_name(manifest), first), *((v.name, _alone(first, v)) for v in manifest.variants)]
    return [Build(name, view, view.canaries) for name, view in pairs if view.canaries is not None]


def _name(manifest: Manifest) -> str:
    chosen = [c.name for c in manifest.candidates if c.status == "chosen" and _compiled(c)]
    return chosen[0] if chosen else f"{manifest.engine.name}-{manifest.precision}"


def _compiled(candidate: Candidate) -> bool:
    """A line that `compile` wrote, not an earlier `finalize`."""
    return " " not in candidate.name


def _alone(manifest: Manifest, variant: Variant) -> Manifest:
    names = ("precision", "engine", "model", "fidelity", "canaries", "stand_ins", "requirements")
    return manifest.model_copy(update={name: getattr(variant, name) for name in names})
