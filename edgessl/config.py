"""Options: frozen pydantic models, one vocabulary, ``key=value`` overrides with near-miss help."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from edgessl.errors import UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Options",
    "build_options",
    "describe_validation",
    "nest_tables",
    "parse_overrides",
    "read_toml",
    "split_overrides",
]

M = TypeVar("M", bound=pydantic.BaseModel)


class Options(pydantic.BaseModel):
    """Base of every options model: unknown keys are errors, instances do not change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` words; values are TOML where they parse as such, else plain text.

    Raises:
        UsageError: A word has no ``=`` or no key, or a key is given twice.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"'{pair}' is not an override; write key=value, like epochs=10")
        if key in result:
            raise UsageError(f"'{key}' is given twice; give it once")
        result[key] = _parse_value(text)
    return result


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def nest_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into tables, as TOML does: ``objectives.cosine=2``.

    Raises:
        UsageError: A key is both a value and a table.
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        table, parts = result, key.split(".")
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UsageError(f"'{part}' is both a value and a table; give '{key}' once")
        if parts[-1] in table:
            raise UsageError(f"'{key}' is both a value and a table; give it once")
        table[parts[-1]] = value
    return result


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: The file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); check the file") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def build_options(model: type[M], values: Mapping[str, Any], *, where: str) -> M:
    """Validate values into an options model, with one-line errors.

    Args:
        model: The options class.
        values: Key → value, from a recipe or from overrides.
        where: Where they came from, for the message (a file name or ``"command line"``).

    Raises:
        UsageError: An unknown key (with the nearest right names) or a value out of range.
    """
    unknown = [key for key in values if key not in model.model_fields]
    if unknown:
        raise UsageError(
            f"{where}: unknown key '{unknown[0]}'; {nearest(unknown[0], model.model_fields)}"
        )
    try:
        return model.model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise UsageError(f"{where}: {describe_validation(error)}") from error


def describe_validation(error: pydantic.ValidationError) -> str:
    """The first complaint of pydantic as one line: key, reason, what was found."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "value"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key}: {first['msg']}, found {first['input']!r:.80}{more}"


def split_overrides(
    values: Mapping[str, Any], models: Iterable[type[pydantic.BaseModel]], *, where: str
) -> list[dict[str, Any]]:
    """Deal flat overrides out to several options models by their field names.

    Raises:
        UsageError: A key that none of the models has; the message suggests the nearest.
    """
    models = list(models)
    known = {name for model in models for name in model.model_fields}
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key '{key}'; {nearest(key, known)}")
    return [{k: v for k, v in values.items() if k in model.model_fields} for model in models]
