"""Find a target by name or by path, merge what it extends, validate it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pydantic

from edgessl.config import describe_validation, read_toml
from edgessl.errors import TargetError, UsageError, nearest
from edgessl.targets.facts import FACTS
from edgessl.targets.host import this_arch
from edgessl.targets.meaning import first_objection
from edgessl.targets.model import HardwareFact, Target

__all__ = ["list_targets", "load_target"]

_FOLDER = Path(__file__).parent
_GROUP = "edgessl.targets"


def list_targets() -> list[str]:
    """Names of all targets: those that ship, and those of other packages' entry points."""
    shipped = (path.stem for path in _FOLDER.glob("*.toml"))
    return sorted({*shipped, *(entry.name for entry in entry_points(group=_GROUP))})


def load_target(name: str | Path) -> Target:
    """Load one target.

    Args:
        name: A known name, or the path of a TOML file (it ends in ``.toml`` or has a slash).
            Another package registers targets in the entry-point group ``edgessl.targets``: each
            entry is a function that takes nothing and returns the path of a TOML file.

    Raises:
        TargetError: The target is unknown (the message names the nearest), its file cannot be
            read, has an unknown key or a value that does not fit, names a chip, an engine or a
            hardware fact that does not exist, or extends itself.
    """
    path = _locate(str(name))
    values = _merged(path, ())
    unknown = [key for key in values if key not in Target.model_fields]
    if unknown:
        hint = nearest(unknown[0], Target.model_fields)
        raise TargetError(f"{path.name}: unknown key '{unknown[0]}'; {hint}")
    try:
        target = Target.model_validate(values)
    except pydantic.ValidationError as error:
        raise TargetError(f"{path.name}: {describe_validation(error)}; correct the file") from error
    wrong = first_objection(target)
    if wrong is not None:
        raise TargetError(f"{path.name}: {wrong}")
    return target.model_copy(
        update={"hardware": {n: _with_unit(n, fact) for n, fact in target.hardware.items()}}
    )


def _with_unit(name: str, fact: HardwareFact) -> HardwareFact:
    return fact.model_copy(update={"unit": FACTS[name]})


def _locate(name: str) -> Path:
    if _is_path(name):
        return Path(name)
    if name in {path.stem for path in _FOLDER.glob("*.toml")}:
        return _FOLDER / f"{name}.toml"
    for entry in entry_points(group=_GROUP):
        if entry.name == name:
            return Path(entry.load()())
    raise TargetError(
        f"unknown target '{name}'; {nearest(name, list_targets())} (or the path of a .toml file)"
    )


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's keys over those of the target that it extends; tables merge key by key."""
    resolved = path.resolve()
    if resolved in seen:
        raise TargetError(f"{path.name}: extends itself; take 'extends' out of one of the files")
    try:
        values = read_toml(path)
    except UsageError as error:
        raise TargetError(str(error)) from error
    base = values.get("extends")
    if base is None:
        return values
    if isinstance(base, dict):
        base = base.get(this_arch(), base.get("any"))
    if not isinstance(base, str):
        raise TargetError(
            f"{path.name}: extends: must be the name of a target, or one for each architecture, "
            f"found {values['extends']!r} on {this_arch()}"
        )
    place = path.parent / base if _is_path(base) else _locate(base)
    return _overlay(_merged(place, (*seen, resolved)), values)


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _overlay(old, value)
        else:
            result[key] = value
    return result
