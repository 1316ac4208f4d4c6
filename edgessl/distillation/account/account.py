"""`account()`: what a distilled student kept of its teacher, and where it lost the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgessl.config import build_options
from edgessl.data.modality import MODALITIES
from edgessl.data.source import Splits, fingerprint, open_source
from edgessl.distillation.account.gathering import gather
from edgessl.distillation.account.judging import judge
from edgessl.distillation.account.page import write_page
from edgessl.distillation.account.plots import Picture, draw
from edgessl.distillation.account.result import Account, AccountOptions, Part
from edgessl.distillation.account.samples import PartSamples, choose_parts
from edgessl.distillation.account.subjects import open_models
from edgessl.errors import RunError, UnavailableError
from edgessl.evaluation.embedders import Embedder
from edgessl.files import atomic_path, write_json
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.run_directory import RunDirectory

__all__ = ["account"]


def account(
    run: str | Path,
    data: str | Path,
    *,
    teachers: Sequence[str | Path | Embedder] = (),
    bundle: str | Path | None = None,
    labels: str | Path | None = None,
    out: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Account:
    """Write ``account.md``, ``account.json`` and ``account.png`` about a distilled run.

    Args:
        run: A run of `distill`; one trained for a target's integers is judged with them.
        data: The data that it was trained on; labels in it are not read.
        teachers: Its teachers, by path or name, or open; none takes those that the run's
            configuration names. What an earlier account kept of them is not computed again. If
            they are gone and nothing was kept, the account lacks what needs them, and says so.
        bundle: A compiled model to be judged too: a ``.edge`` or ``.onnx`` file.
        labels: A labelled source; kNN, linear and 5-shot accuracy of each model are added.
        out: Folder to write to; None is ``RUN/account``.
        overrides: `AccountOptions` by name.
        progress: Told how far it is.

    Raises:
        RunError: There is no finished run of `distill`.
        DataError: The data cannot be used, or are too few.
        UsageError: The bundle is none, or a setting is unknown.
        ModelError: A teacher that was named cannot be used, or is not the run's.
    """
    options = build_options(AccountOptions, overrides or {}, where="account")
    opened = RunDirectory.open(Path(run))
    config = opened.config()
    if config.get("verb") != "distill":
        raise RunError(f"{run}: is a run of {config.get('verb')}; give a run of distill")
    kind = MODALITIES.get("image")
    modality = kind(build_options(kind.Options, config["modality"], where=str(run)))
    splits = open_source(data)
    with contextlib.ExitStack() as stack:
        models = []
        for model in open_models(opened, str(config["backbone"]), bundle):
            stack.callback(model.embedder.close)
            models.append(model)
        train, held, held_out = choose_parts(
            splits,
            modality,
            models[0].embedder.spec,
            samples=options.samples,
            seed=options.seed,
            view_seed=int(config["trainer"]["seed"]),
            progress=progress,
        )
        parts: dict[Part, PartSamples] = {"train": train, "held-out": held}
        found = gather(
            opened, models, parts, options, teachers=teachers, labels=labels, progress=progress
        )
    digest = _data_sha256(splits, config, found.missing)
    trained = RunDirectory(opened.integers_path)
    facts = {
        "run": opened.path.name,
        "data": Path(str(data)).name,
        "data_sha256": digest,
        "labels": None if labels is None else Path(str(labels)).name,
    }
    result = judge(
        found,
        held.keys,
        {"float": opened.metrics(), "integers": trained.metrics()},
        options,
        held_out=held_out,
        precision=_precision(opened, trained),
        facts=facts,
    )
    picture = Picture.of(
        result, found.embeddings, {"float": opened.metrics(), "integers": trained.metrics()}
    )
    _write(result, picture, out if out is not None else opened.path / "account", progress)
    return result


def _data_sha256(splits: Splits, config: Mapping[str, Any], missing: list[str]) -> str:
    digest = fingerprint(splits.train)
    if digest != config["data"]["sha256"]:
        missing.append(
            "the training samples as such: these are not the data of the run, or they have "
            "changed, so that capacity and distillation cannot be told apart"
        )
    return digest


def _precision(run: RunDirectory, trained: RunDirectory) -> str | None:
    """Precision that the student was trained for; None if it was not."""
    if not (run.student_path.is_file() and trained.config_path.is_file()):
        return None
    return str(trained.config().get("integer_precision", "int8"))


def _write(result: Account, picture: Picture, folder: Path, progress: Progress) -> None:
    """Write the page; without matplotlib it goes without a picture, and says so."""
    drawn = True
    try:
        with atomic_path(folder / "account.png") as temporary:
            draw(picture, temporary)
    except UnavailableError as error:
        drawn = False
        progress(ProgressEvent("account", message=f"no picture: {error}", warning=True))
    write_json(folder / "account.json", result.model_dump(mode="json"))
    write_page(result, folder / "account.md", drawn=drawn)
