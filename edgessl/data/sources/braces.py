"""Names written with braces, as shells have them: ``shard-{000..009}.tar``, ``{a,b}.tar``."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["expand_braces"]

_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(text: str) -> Iterator[str]:
    """The names that a pattern stands for, one at a time.

    They are made as they are asked for, so that a mistyped range costs no memory.

    Raises:
        ValueError: A brace has no counterpart.
    """
    start = text.find("{")
    if start < 0:
        if "}" in text:
            raise ValueError("a '}' has no '{' before it")
        yield text
        return
    end = _closing(text, start)
    for middle in _alternatives(text[start + 1 : end]):
        for rest in expand_braces(text[end + 1 :]):
            yield text[:start] + middle + rest


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError("a '{' has no '}' after it")


def _alternatives(body: str) -> Iterator[str]:
    """What stands in one pair of braces: a range of whole numbers, or words with commas."""
    found = _RANGE.fullmatch(body)
    if found is None:
        for word in _words(body):
            yield from expand_braces(word)
        return
    first, last = int(found[1]), int(found[2])
    padded = any(len(text) > 1 and text.startswith("0") for text in found.groups())
    width = max(map(len, found.groups())) if padded else 0
    step = 1 if last >= first else -1
    for number in range(first, last + step, step):
        yield f"{number:0{width}d}"


def _words(body: str) -> Iterator[str]:
    """Split at the commas that lie in no inner braces."""
    depth = begin = 0
    for position, character in enumerate(body):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield body[begin:position]
            begin = position + 1
    yield body[begin:]
