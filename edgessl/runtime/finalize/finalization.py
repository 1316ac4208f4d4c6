"""On the device: finish every build that a bundle carries, and write a native one with the best."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgessl.bundle.archive import Bundle, open_bundle, pack
from edgessl.bundle.arrays import load_arrays
from edgessl.bundle.manifest import NativeRecord
from edgessl.config import Options
from edgessl.errors import BundleError, EdgeSSLError, GateError, UsageError
from edgessl.files import sha256_file
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.runtime.canaries import CanaryResult, canary_inputs, compare_outputs
from edgessl.runtime.finalize.builds import Build, FinalizeOptions, Job, Prepared, builds_of
from edgessl.runtime.finalize.measuring import Contender, Setting, choose, measure
from edgessl.runtime.finalize.native import native_bundle
from edgessl.runtime.finalize.record import record
from edgessl.runtime.finalize.strategies import prepare
from edgessl.runtime.model import Model

__all__ = ["BuildOutcome", "FinalizeReport", "finalize"]

_ROUNDS = 5


class BuildOutcome(Options):
    """One build of the bundle and what became of it here.

    Attributes:
        name: The candidate that it was.
        status: ``"failed"`` if it does not run here or gives other results.
        reason: Why, in a few words.
        latency_p50_ms: With its best setting; None if it was not measured.
    """

    name: str
    engine: str
    precision: str
    status: Literal["chosen", "rejected", "failed"]
    reason: str
    latency_p50_ms: float | None = None


class FinalizeReport(Options):
    """What `finalize` measured and chose.

    Attributes:
        builds: The bundle's builds.
        settings: What was measured, of all builds that reproduce their canaries.
        native: What the new manifest says about it.
        remarks: What a person should know.
    """

    bundle: str
    out: str
    engine: str
    engine_version: str
    precision: str
    chosen: Setting
    settings: tuple[Setting, ...]
    builds: tuple[BuildOutcome, ...]
    canaries: CanaryResult
    native: NativeRecord
    remarks: tuple[str, ...] = ()


def finalize(
    path: str | Path,
    out: str | Path | None = None,
    *,
    threads: Sequence[int] | None = None,
    rounds: int = _ROUNDS,
    workspace_mib: int | None = None,
    dla_core: int | None = None,
    progress: Progress = silent,
) -> FinalizeReport:
    """Finish a bundle on this device and write a native one.

    Each build that the bundle carries is compared with this machine, built where its engine builds
    on the device, and must reproduce its canaries. Then all are measured in turns, in rounds, one
    open at a time, so that drift of the clock speed meets all alike; a setting's latency is the
    median over its runs. Among settings within 3 % of the fastest, the one with the fewest threads
    is kept. Nothing is written before the end; interrupted, it leaves the bundle as it was.

    Args:
        path: A portable or native bundle with canaries.
        out: Where the native bundle goes; in the place of ``path`` by default.
        threads: Thread counts to try on a CPU; by default the powers of two up to the physical
            cores, and their number.
        rounds: Turns that every setting gets.
        workspace_mib: Most scratch memory of a TensorRT layer, instead of the recipe's.
        dla_core: Deep-learning accelerator to build for, instead of the recipe's.
        progress: Told how far it is.

    Raises:
        BundleError: The bundle is damaged, or has no canaries to measure and check with.
        GateError: No build reproduces its canaries, or an engine's layers compute in another
            precision than was asked for; nothing is written.
        UnavailableError: This machine is not what the bundle needs.
    """
    path, place = Path(path), Path(out) if out is not None else Path(path)
    counts = [rounds, *(threads or ()), *([] if workspace_mib is None else [workspace_mib])]
    if min(counts) < 1:
        raise UsageError("rounds, threads and workspace must be at least 1")
    options = FinalizeOptions(
        threads=tuple(threads or ()), workspace_mib=workspace_mib, dla_core=dla_core
    )
    with (
        open_bundle(path, verify=False) as bundle,
        tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as scratch,
    ):
        folder = Path(scratch)
        inputs = canary_inputs(bundle)
        builds = builds_of(bundle.manifest)
        if inputs is None or not builds:
            raise BundleError(f"{path.name}: has no canaries to measure with; compile it again")
        bundle.extract(folder)
        prepared, failures = _prepare(builds, folder, options, progress, path.name)
        contenders = measure(
            prepared,
            folder,
            inputs,
            lambda build, model: _check(bundle, build, model),
            rounds=rounds,
            progress=progress,
        )
        several = len(builds) > 1
        usable = [c for c in contenders if c.usable]
        if not usable:
            _refuse(path.name, contenders, failures)
        settings = {id(c): c.setting(c.prepared.build.name if several else "") for c in usable}
        chosen = choose(list(settings.values()))
        winner = next(c for c in usable if settings[id(c)] == chosen)
        outcomes = _outcomes(builds, contenders, failures, winner, several)
        canaries = winner.canaries
        if canaries is None:
            raise GateError(f"{path.name}: the canaries did not run; nothing was written")
        versions = {
            winner.prepared.build.manifest.engine.name: winner.prepared.version,
            **winner.prepared.versions,
        }
        native = record(chosen, canaries, versions)
        manifest, members = native_bundle(
            winner.prepared,
            folder,
            settings=[(settings[id(c)], c.prepared.build.manifest) for c in usable],
            chosen=chosen,
            reasons={o.name: (o.status, o.reason) for o in outcomes},
            native=native,
            source_sha256=sha256_file(path),
        )
        pack(place, manifest, members)
    return FinalizeReport(
        bundle=path.name,
        out=str(place),
        engine=manifest.engine.name,
        engine_version=manifest.engine.version,
        precision=manifest.precision,
        chosen=chosen,
        settings=tuple(settings.values()),
        builds=outcomes,
        canaries=canaries,
        native=native,
        remarks=tuple(remark for p in prepared for remark in p.remarks),
    )


def _prepare(
    builds: Sequence[Build],
    folder: Path,
    options: FinalizeOptions,
    progress: Progress,
    where: str,
) -> tuple[list[Prepared], dict[str, EdgeSSLError]]:
    """Finish every build; one that cannot be finished here is no error as long as one is left."""
    prepared: list[Prepared] = []
    failures: dict[str, EdgeSSLError] = {}
    for build in builds:
        try:
            prepared.append(prepare(Job(build, folder, options, progress, where)))
        except EdgeSSLError as error:
            failures[build.name] = error
            if len(builds) > 1:
                text = f"{build.name}: {error}"
                progress(ProgressEvent("finalize", message=text, warning=True))
    if not prepared:
        _refuse(where, [], failures)
    return prepared, failures


def _check(bundle: Bundle, prepared: Prepared, model: Model) -> CanaryResult:
    canaries = prepared.build.canaries
    name = bundle.path.name
    inputs = load_arrays(bundle.read(canaries.inputs), where=f"{name}: {canaries.inputs}")
    expected = load_arrays(bundle.read(canaries.outputs), where=f"{name}: {canaries.outputs}")
    return compare_outputs(model.run(inputs), expected, canaries)


def _refuse(where: str, contenders: Sequence[Contender], failures: dict[str, EdgeSSLError]) -> None:
    """No build is left: say why, with the error of the first."""
    differing = [c.canaries for c in contenders if c.canaries and not c.canaries.passed]
    if differing:
        raise GateError(
            f"{where}: this device does not reproduce the canaries ({differing[0].describe()}); "
            "nothing was written; compile for this target again"
        )
    errors = [*failures.values(), *(c.failure for c in contenders if c.failure is not None)]
    reasons = {
        str(error).removeprefix(f"{where}: ").removeprefix(f"{name}: "): name
        for name, error in reversed(failures.items())
    }
    if len(failures) == 1 or not failures:
        raise errors[0]
    told = [reason if len(reasons) == 1 else f"{n}: {reason}" for reason, n in reasons.items()]
    raise type(errors[0])(
        f"{where}: none of the {len(failures)} builds can be finished here: {'; '.join(told[::-1])}"
    )


def _outcomes(
    builds: Sequence[Build],
    contenders: Sequence[Contender],
    failures: dict[str, EdgeSSLError],
    winner: Contender,
    several: bool,
) -> tuple[BuildOutcome, ...]:
    best = {name: _best(name, contenders) for name in (build.name for build in builds)}
    fastest = best[winner.prepared.build.name] or 0.0
    outcomes = []
    for build in builds:
        status: Literal["chosen", "rejected", "failed"] = "failed"
        latency = best[build.name]
        if build is winner.prepared.build:
            status = "chosen"
            reason = "the fastest here" if several else "the only build"
        elif latency is not None:
            status = "rejected"
            reason = _slower(latency, fastest, winner.prepared.build)
        else:
            reason = _why_failed(build.name, contenders, failures)
        manifest = build.manifest
        outcomes.append(
            BuildOutcome(
                name=build.name,
                engine=manifest.engine.name,
                precision=manifest.precision,
                status=status,
                reason=reason,
                latency_p50_ms=latency,
            )
        )
    return tuple(outcomes)


def _best(name: str, contenders: Sequence[Contender]) -> float | None:
    times = [c.setting("").latency_p50_ms for c in contenders if c.usable and _is(c, name)]
    return min(times, default=None)


def _is(contender: Contender, name: str) -> bool:
    return contender.prepared.build.name == name


def _slower(latency: float, fastest: float, winner: Build) -> str:
    percent = round((latency / fastest - 1.0) * 100)
    if percent < 1:
        return f"not faster than {winner.name}"
    return f"{percent} % slower than {winner.name}"


def _why_failed(
    name: str, contenders: Sequence[Contender], failures: dict[str, EdgeSSLError]
) -> str:
    if name in failures:
        return str(failures[name])
    own = [c for c in contenders if _is(c, name)]
    differing = [c.canaries for c in own if c.canaries and not c.canaries.passed]
    if differing:
        return f"does not reproduce its canaries: {differing[0].describe()}"
    return "; ".join(dict.fromkeys(str(c.failure) for c in own if c.failure is not None))
