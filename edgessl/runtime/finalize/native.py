"""The native bundle: one build, its canaries, its record, and what stands in for it if small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgessl.bundle.manifest import Candidate, EngineSpec, Manifest, NativeRecord, StandIn
from edgessl.runtime.finalize.builds import Prepared
from edgessl.runtime.finalize.measuring import Setting

__all__ = ["native_bundle"]

_PREFIX = "finalize "
_KEPT_BYTES = 64 * 1024**2
"""A stand-in travels on if its files are no larger: an emulator or a CPU can then check results."""


def native_bundle(
    prepared: Prepared,
    folder: Path,
    *,
    settings: Sequence[tuple[Setting, Manifest]],
    chosen: Setting,
    reasons: Mapping[str, tuple[str, str]],
    native: NativeRecord,
    source_sha256: str,
) -> tuple[Manifest, dict[str, Path | bytes]]:
    """The manifest and the members of the native bundle.

    Args:
        prepared: The build that won.
        folder: Where the bundle was extracted.
        settings: What was measured, each with the manifest of its build.
        chosen: The setting that won, one of them.
        reasons: Build → status and reason here.
        native: The record.
        source_sha256: Hash of the bundle that this one is made from.
    """
    build = prepared.build
    old = build.manifest
    stand_ins, more = _kept(prepared, folder)
    members: dict[str, Path | bytes] = {**prepared.members, **more}
    for name in (build.canaries.inputs, build.canaries.outputs):
        members[name] = folder / name
    engine = EngineSpec(name=old.engine.name, version=prepared.version, options=chosen.options)
    lineage = {**old.provenance.lineage, "finalized_from": source_sha256}
    manifest = old.model_copy(
        update={
            "kind": "native",
            "engine": engine,
            "model": prepared.model,
            "candidates": (
                *_compiled(old.candidates, reasons),
                *_measured(settings, chosen),
            ),
            "provenance": old.provenance.model_copy(update={"lineage": lineage}),
            "requirements": prepared.requirements,
            "stand_ins": stand_ins,
            "variants": (),
            "native": native,
        }
    )
    return manifest, members


def _kept(prepared: Prepared, folder: Path) -> tuple[tuple[StandIn, ...], dict[str, Path]]:
    """Stand-ins whose files the build has anyway, or that are small; and the latters' files."""
    available = prepared.build.files(folder)
    kept: list[StandIn] = []
    files: dict[str, Path] = {}
    for stand_in in prepared.stand_ins:
        stem = Path(stand_in.model).stem
        own = {
            name: file
            for name, file in available.items()
            if Path(name).stem == stem and name not in prepared.members
        }
        if stand_in.model not in {*prepared.members, *own}:
            continue
        if sum(file.stat().st_size for file in own.values()) <= _KEPT_BYTES:
            kept.append(stand_in)
            files |= own
    return tuple(kept), files


def _compiled(
    candidates: Sequence[Candidate], reasons: Mapping[str, tuple[str, str]]
) -> list[Candidate]:
    """The compiler's lines, with this device's word where it has one; an earlier choice goes."""
    lines = []
    for candidate in candidates:
        if candidate.name.startswith(_PREFIX):
            continue
        if len(reasons) > 1 and candidate.name in reasons:
            status, reason = reasons[candidate.name]
            update = {"status": status, "reason": f"on the device: {reason}"}
            candidate = candidate.model_copy(update=update)
        lines.append(candidate)
    return lines


def _measured(settings: Sequence[tuple[Setting, Manifest]], chosen: Setting) -> list[Candidate]:
    return [
        Candidate(
            name=_PREFIX + setting.name,
            engine=manifest.engine.name,
            precision=manifest.precision,
            status="chosen" if setting is chosen else "passed",
            reason="fastest here" if setting is chosen else _compare(setting, chosen),
            latency_p50_ms=setting.latency_p50_ms,
            latency_p90_ms=setting.latency_p90_ms,
        )
        for setting, manifest in settings
    ]


def _compare(setting: Setting, chosen: Setting) -> str:
    ratio = setting.latency_p50_ms / chosen.latency_p50_ms
    if ratio <= 1:
        return "as fast with more threads"
    return f"slower: p50 {ratio:.2f} times the chosen"
