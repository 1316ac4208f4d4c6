"""Damaged and hostile bundles end in a clear error or a correct result; nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.bundle_process import BundleProcess
from contracts.hostile_bundles import BUNDLE_KINDS, hostile_bundle, places, replace, rewritten
from contracts.tiny_bundle import write_bundle
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import parse_manifest
from edgessl.errors import BundleError

CASES = 10

_names = st.sampled_from(["", "x", "../x", "/etc/passwd", "engine/model.onnx", "manifest.json"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _names
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("good") / "good.edge")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BundleProcess]:
    with BundleProcess(tmp_path_factory.mktemp("bundles") / "temporary") as started:
        yield started


@pytest.mark.parametrize("kind", BUNDLE_KINDS)
def test_every_kind_ends_well(
    process: BundleProcess, good: Path, tmp_path: Path, kind: str
) -> None:
    whole = process.open(good)
    assert whole["verdict"] == "runs"
    case = tmp_path / "case.edge"
    for seed in range(CASES):
        case.write_bytes(hostile_bundle(good.read_bytes(), kind, seed=seed).data)
        ended = process.open(case)
        assert ended["verdict"] in ("refused", "differs", "runs"), (seed, ended)
        assert ended["reason"].isprintable(), seed
        if ended["verdict"] == "runs":
            assert ended["output"] == whole["output"], seed
        assert list(process.folder.iterdir()) == []
        assert [p.name for p in tmp_path.iterdir()] == ["case.edge"]


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_any_field(data: st.DataObject) -> None:
    """The schema takes it, and gives the same back, or refuses it in one line."""
    values = _manifest()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places(values)))
        values = replace(values, at, data.draw(_json))
        if not isinstance(values, dict | list) or not values:
            break
    try:
        manifest = parse_manifest(json.dumps(values), where="x.edge")
    except BundleError as error:
        refused = str(error)
        assert refused.startswith("x.edge: ")
        assert refused.isprintable()
    else:
        assert parse_manifest(manifest.to_json(), where="x.edge") == manifest


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_a_whole_bundle(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What opens says of its members only what is in it."""
    good = _good_bytes()
    values = _manifest()
    values = replace(values, data.draw(st.sampled_from(places(values))), data.draw(_json))
    path = tmp_path_factory.getbasetemp() / "any.edge"
    path.write_bytes(rewritten(good, values))
    try:
        with open_bundle(path) as bundle:
            names = {entry.path for entry in bundle.manifest.files}
            assert bundle.manifest.model in names
            assert names == {"canaries/inputs.npz", "canaries/outputs.npz", "engine/model.onnx"}
    except BundleError as error:
        refused = str(error)
    else:
        refused = ""
    assert refused.isprintable()


_cached: list[bytes] = []


def _good_bytes() -> bytes:
    if not _cached:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            _cached.append(write_bundle(Path(folder) / "good.edge").read_bytes())
    return _cached[0]


def _manifest() -> Any:
    start = _good_bytes().index(b"{")
    return json.JSONDecoder().raw_decode(_good_bytes()[start:].decode("latin-1"))[0]
