"""Find a member of a family (method, backend, engine, …) by name, importing only that one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from edgessl.errors import UsageError, nearest

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """A lazy name → object map with third-party entry points.

    Args:
        family: What the members are, in the singular, as errors call it (``"method"``).
        members: Name → ``"module:attribute"``; the module is imported on first use.
        group: Entry-point group where other packages register members (``"edgessl.methods"``).
    """

    def __init__(self, family: str, members: Mapping[str, str], *, group: str) -> None:
        self.family = family
        self._members = dict(members)
        self._group = group

    def names(self) -> list[str]:
        """All known names, built in and registered through entry points, sorted."""
        return sorted({*self._members, *(e.name for e in entry_points(group=self._group))})

    def get(self, name: str) -> T:
        """Import and return one member.

        Raises:
            UsageError: No member has that name; the message suggests the nearest.
        """
        if name in self._members:
            module, _, attribute = self._members[name].partition(":")
            return cast(T, getattr(importlib.import_module(module), attribute))
        for entry in entry_points(group=self._group):
            if entry.name == name:
                return cast(T, entry.load())
        raise UsageError(f"unknown {self.family} '{name}'; {nearest(name, self.names())}")
