from __future__ import annotations

import itertools

import pytest

from edgessl.data.sources.braces import expand_braces


@pytest.mark.parametrize(
    "pattern",
    [
        "shard-{000..009}.tar",
        "{8..12}",
        "{08..12}",
        "{3..1}-{a,b}.tar",
        "{a,b{0..2}c,}x",
        "{{a,b},{1..2}}",
        "plain.tar",
    ],
)
def test_as_braceexpand(pattern: str) -> None:
    reference = pytest.importorskip("braceexpand")
    assert list(expand_braces(pattern)) == list(reference.braceexpand(pattern))


def test_known_names() -> None:
    assert list(expand_braces("s-{09..11}.tar")) == ["s-09.tar", "s-10.tar", "s-11.tar"]


def test_names_are_made_one_at_a_time() -> None:
    huge = expand_braces("{0..99999999999999999999}" * 3)
    assert list(itertools.islice(huge, 2))[1].endswith("01")


@pytest.mark.parametrize("pattern", ["a{0..3", "a}", "{a}b}", "{{a}"])
def test_braces_without_counterpart(pattern: str) -> None:
    with pytest.raises(ValueError, match="has no"):
        list(expand_braces(pattern))
