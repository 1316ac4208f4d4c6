"""A recipe: stages in TOML, checked as a whole before any of them runs.

name = "photos"
seed = 0
data = "photos/"                # default of every stage that takes data

[stages.teacher]
verb = "pretrain"
method = "simclr"
epochs = 100

[stages.model]
verb = "export"
run = "@teacher"                # the output of another stage: this gives the order
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edgessl.config import Options, build_options, read_toml
from edgessl.errors import TargetError, UsageError, nearest
from edgessl.registry import Registry
from edgessl.stages import VERBS, Input, Verb

__all__ = ["PlannedStage", "Recipe", "plan", "read_recipe"]

StageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]


class Recipe(Options):
    """What a recipe file says.

    Attributes:
        name: What it is called.
        description: A line for people.
        seed: Default of every stage that knows ``seed``.
        data: Default of every stage that needs data.
        stages: Stage name → ``verb`` and its settings.
    """

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: str | None = None
    stages: Annotated[dict[StageName, dict[str, Any]], Field(min_length=1)]


@dataclass(frozen=True)
class PlannedStage:
    """A stage that was checked.

    Attributes:
        name: Its name in the recipe.
        verb: What it does.
        verb_name: How the recipe calls that.
        inputs: Input name → ``@stage``, absolute path or free text; lists where many are taken.
        settings: What the recipe and the command line set, without the inputs.
        identity: Everything but the inputs that decides the result.
    """

    name: str
    verb: Verb
    verb_name: str
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]

    @property
    def references(self) -> list[str]:
        """Names of the stages whose outputs it reads."""
        values = (v for value in self.inputs.values() for v in _each(value))
        return [value[1:] for value in values if value.startswith("@")]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        UsageError: It is missing, not TOML, or has an unknown key.
    """
    return build_options(Recipe, read_toml(path), where=str(path))


def plan(
    recipe: Recipe,
    *,
    folder: Path,
    overrides: Mapping[str, Any] | None = None,
    verbs: Registry[type[Verb]] = VERBS,
) -> list[PlannedStage]:
    """Check a recipe completely and put its stages in order.

    Args:
        recipe: What the file says.
        folder: What its relative paths are relative to.
        overrides: ``key`` for all stages that know it, or ``stage.key`` for one; relative paths
            are relative to the working directory.
        verbs: Where verbs are found by name.

    Returns:
        The stages, each after those that it reads.

    Raises:
        UsageError: An unknown verb, key or stage, a missing input, a cycle.
    """
    members: dict[str, Verb] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name, values in recipe.stages.items():
        given = dict(values)
        verb_name = given.pop("verb", None)
        if not isinstance(verb_name, str):
            raise UsageError(f"stage '{name}': 'verb' is missing; known: {_listed(verbs)}")
        try:
            members[name] = verbs.get(verb_name)()
        except UsageError as error:
            raise UsageError(f"stage '{name}': {error}") from error
        try:
            settings[name] = members[name].arrange(given)
        except UsageError as error:
            raise UsageError(f"stage '{name}': {error}") from error
    overrides = overrides or {}
    _override(settings, members, overrides)
    if "data" in overrides:
        data = _from_here(overrides["data"], Input())
        recipe = recipe.model_copy(update={"data": data})
    _set_defaults(settings, members, recipe)
    stages = [
        _check_stage(name, members[name], recipe.stages[name]["verb"], settings[name], folder)
        for name in recipe.stages
    ]
    _check_references(stages)
    return _ordered(stages)


def _override(
    settings: dict[str, dict[str, Any]], verbs: Mapping[str, Verb], overrides: Mapping[str, Any]
) -> None:
    """Parameters first: a method decides which other keys its stage knows."""
    split = {key: key.rpartition(".") for key in overrides}
    for stage, _, _ in split.values():
        if stage and stage not in verbs:
            raise UsageError(f"command line: unknown stage '{stage}'; {nearest(stage, verbs)}")
    used: set[str] = set()
    for parameters_only in (True, False):
        for name, verb in verbs.items():
            known = set(verb.parameters) if parameters_only else verb.keys(settings[name])
            # What names a stage comes last, and so wins over what is meant for all.
            for key, (stage, _, own) in sorted(split.items(), key=lambda item: item[1][0] != ""):
                if own in known and stage in ("", name):
                    source = verb.inputs.get(own)
                    value = overrides[key]
                    settings[name][own] = _from_here(value, source) if source else value
                    used.add(key)
    for key, (stage, _, own) in split.items():
        if key not in used:
            chosen = [stage] if stage else list(verbs)
            known = {k for name in chosen for k in verbs[name].keys(settings[name])}
            raise UsageError(f"command line: unknown key '{key}'; {nearest(own, known)}")


def _from_here(value: Any, source: Input) -> Any:
    """Make paths of the command line absolute, as recipes' paths are relative to the recipe."""
    if isinstance(value, list):
        return [_from_here(item, source) for item in value]
    if not isinstance(value, str) or value.startswith("@"):
        return value
    path = Path(value).expanduser().absolute()
    return value if source.free and not path.exists() else str(path)


def _set_defaults(
    settings: dict[str, dict[str, Any]], verbs: Mapping[str, Verb], recipe: Recipe
) -> None:
    for name, verb in verbs.items():
        if "seed" in verb.keys(settings[name]):
            settings[name].setdefault("seed", recipe.seed)
        for key, source in verb.inputs.items():
            if source.is_data and source.required and recipe.data is not None:
                settings[name].setdefault(key, recipe.data)


def _check_stage(
    name: str, verb: Verb, verb_name: str, settings: Mapping[str, Any], folder: Path
) -> PlannedStage:
    where = f"stage '{name}'"
    inputs: dict[str, Any] = {}
    for key, source in verb.inputs.items():
        if key in settings:
            inputs[key] = _resolve(settings[key], source, folder, f"{where}: {key}")
        elif source.required:
            hint = "data" if source.is_data else key
            raise UsageError(f"{where}: '{key}' is missing; add {hint} = …")
    own = {key: value for key, value in settings.items() if key not in verb.inputs}
    try:
        identity = verb.identity(own, where=where)
    except (TargetError, UsageError) as error:
        if str(error).startswith(where):
            raise
        raise UsageError(f"{where}: {error}") from error
    return PlannedStage(name, verb, verb_name, inputs, own, identity)


def _resolve(value: Any, source: Input, folder: Path, where: str) -> Any:
    if source.many:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            raise UsageError(f"{where}: takes a list of paths or @stages, found {value!r:.80}")
        return [_resolve_one(item, source, folder, where) for item in items]
    return _resolve_one(value, source, folder, where)


def _resolve_one(value: Any, source: Input, folder: Path, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: takes a path or @stage, found {value!r:.80}")
    if value.startswith("@"):
        if source.is_data:
            raise UsageError(f"{where}: takes data, and no stage makes data; give a path")
        return value
    path = (folder / Path(value).expanduser()).absolute()
    if path.exists() or source.is_data:  # tar shards are named by a pattern that is no file
        return str(path)
    if source.free:
        return value
    raise UsageError(f"{where}: {path}: no such file or folder; check the path")


def _check_references(stages: Iterable[PlannedStage]) -> None:
    artifacts = {stage.name: stage.verb.artifact for stage in stages}
    for stage in stages:
        for key, value in stage.inputs.items():
            for item in _each(value):
                if not item.startswith("@"):
                    continue
                where = f"stage '{stage.name}': {key}"
                if item[1:] not in artifacts:
                    hint = nearest(item[1:], artifacts)
                    raise UsageError(f"{where}: unknown stage '{item}'; {hint}")
                kinds = stage.verb.inputs[key].artifacts
                if artifacts[item[1:]] not in kinds:
                    raise UsageError(
                        f"{where}: '{item}' makes a {artifacts[item[1:]]}; name a stage that "
                        f"makes {' or '.join(kinds)}"
                    )


def _ordered(stages: list[PlannedStage]) -> list[PlannedStage]:
    """Kahn's order; among stages that are ready, that of the recipe."""
    waiting, ordered = list(stages), list[PlannedStage]()
    while waiting:
        done = {stage.name for stage in ordered}
        ready = next((s for s in waiting if done.issuperset(s.references)), None)
        if ready is None:
            names = ", ".join(stage.name for stage in waiting)
            raise UsageError(f"stages wait for each other: {names}; take one @reference out")
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


def _each(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _listed(verbs: Registry[type[Verb]]) -> str:
    return ", ".join(verbs.names())
