"""Which of the candidates that pass goes into the bundle, and with which engine settings.

On the device itself the fastest wins, by measurement. Where the device is not at hand, nothing is
guessed from this machine's clock: the target lists its candidates with the fastest first, and what
else passes travels along for `finalize` to measure.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.latency import Contender, Ranking, rank
from edgessl.compiler.process import WorkerFailure
from edgessl.compiler.search import Search
from edgessl.compiler.trial import Trial
from edgessl.errors import ModelError
from edgessl.files import sha256_file, sha256_json
from edgessl.runtime.threads import physical_cores

__all__ = ["choose"]

# Of two equally fast candidates the more precise one is kept.
_PREFERENCE = ("fp32", "bf16", "fp16", "w8", "a16w8", "w4", "int8")


def choose(search: Search, trials: Sequence[Trial], *, remeasure: bool) -> list[Trial]:
    """Give the trials their final verdicts; the chosen one, if any passes, says so.

    Raises:
        ModelError: A candidate ran, and failed when it was measured.
    """
    passed = [t for t in trials if t.status == "passed"]
    if not passed:
        return list(trials)
    if search.obstacle is not None or passed[0].built.kind == "portable":
        return [_by_the_list(t, passed) for t in trials]
    running = [t for t in trials if t.runs]
    if len(running) == 1:
        decided = [_alone(t) if t in passed else t for t in trials]
    else:
        running.sort(key=lambda t: _PREFERENCE.index(t.spec.precision))
        ranking = _rank(search, [_contender(t) for t in running], remeasure=remeasure)
        alone = len(passed) == 1
        decided = [_placed(t, ranking, alone=alone) for t in trials]
    return [_tuned(search, t, remeasure=remeasure) if t.status == "chosen" else t for t in decided]


def _by_the_list(trial: Trial, passed: Sequence[Trial]) -> Trial:
    first = passed[0]
    if trial is first:
        reason = "the first of the target's list that passes; the device is not here to measure"
        return trial.becomes("chosen", reason, reason)
    if trial not in passed:
        return trial
    reason = f"passes; the target expects {first.name} to be faster"
    if trial.built.kind == "portable":
        reason += ", finalize measures both"
    return trial.becomes("passed", reason, reason)


def _alone(trial: Trial) -> Trial:
    return trial.becomes("chosen", "the only one that runs", "the only one that runs")


def _rank(search: Search, contenders: Sequence[Contender], *, remeasure: bool) -> Ranking:
    try:
        return rank(
            contenders,
            samples=search.held_out.folder,
            folder=search.work.folder,
            remeasure=remeasure,
            progress=search.progress,
        )
    except WorkerFailure as failure:
        raise ModelError(
            f"{contenders[0].name} ran, but {failure} when it was measured; "
            "name an --engine or a --precision to leave it out"
        ) from failure


def _contender(
    trial: Trial, *, name: str = "", options: dict[str, OptionValue] | None = None
) -> Contender:
    built = trial.built
    digests = {name: sha256_file(trial.folder / name) for name in built.files}
    return Contender(
        name=name or trial.name,
        engine=trial.spec.engine,
        version=trial.engine.version,
        model=trial.folder / built.model,
        options=built.options if options is None else options,
        digest=sha256_json(digests),
        eligible=trial.status in ("passed", "chosen"),
    )


def _placed(trial: Trial, ranking: Ranking, *, alone: bool) -> Trial:
    latency = ranking.latencies.get(trial.name)
    if trial.name == ranking.winner:
        reason = "the only one that passes" if alone else "the fastest that passes"
        return trial.becomes("chosen", reason, reason, latency)
    if trial.status != "passed":
        return trial.becomes(
            trial.status, trial.outcome.reason, trial.outcome.stable_reason, latency
        )
    best = ranking.latencies.get(ranking.winner)
    if latency is None or best is None:
        reason = "failed while it was measured"
        return trial.becomes("failed", reason, reason)
    slower = latency.p50_ms / best.p50_ms - 1.0
    reason = (
        f"{100 * slower:.0f} % slower than {ranking.winner}"
        if slower >= 0.005
        else f"not 2 % faster than {ranking.winner}, which is as precise or more"
    )
    return trial.becomes("passed", reason, reason, latency)


def _tuned(search: Search, trial: Trial, *, remeasure: bool) -> Trial:
    """The chosen one with the threads that serve it best, unless the user says how many."""
    grid = [] if search.threads else _grid(trial.spec.engine, trial.built.options)
    if len(grid) < 2:
        return trial
    contenders = [_contender(trial, name=_describe(o), options=o) for o in grid]
    ranking = _rank(search, contenders, remeasure=remeasure)
    options = grid[[c.name for c in contenders].index(ranking.winner)]
    reason = f"{trial.outcome.reason}; {ranking.winner}"
    built = trial.built.model_copy(update={"options": options})
    outcome = trial.outcome.model_copy(update={"built": built})
    latency = ranking.latencies.get(ranking.winner)
    return Trial(trial.spec, trial.folder, outcome).becomes("chosen", reason, reason, latency)


def _grid(engine: str, options: dict[str, OptionValue]) -> list[dict[str, OptionValue]]:
    """Options worth trying, the most modest first: of equals the first wins."""
    cores = physical_cores()
    counts = sorted({1, max(1, cores // 2), cores})
    if engine == "openvino":
        return [{**options, "threads": count} for count in counts]
    if engine != "onnxruntime":
        return []
    grid: list[dict[str, OptionValue]] = []
    for count in counts:
        # Waiting by spinning matters only where there are threads to wait for.
        spins = (False, True) if count > 1 else (False,)
        grid += [{**options, "threads": count, "intra_op_spinning": spin} for spin in spins]
    return grid


def _describe(options: dict[str, OptionValue]) -> str:
    shown = {k: v for k, v in sorted(options.items()) if k in ("threads", "intra_op_spinning")}
    return " ".join(f"{key}={str(value).lower()}" for key, value in shown.items())
