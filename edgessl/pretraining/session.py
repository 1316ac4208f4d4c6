"""What pretraining and distillation share: settings, data and the run around the trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric

from edgessl import __version__
from edgessl.config import Options, build_options, split_overrides
from edgessl.data.loader import TrainingLoader
from edgessl.data.modality import MODALITIES, Modality, ViewKind
from edgessl.data.source import Splits, fingerprint, open_source
from edgessl.data.store import SampleStore
from edgessl.files import cache_directory, sha256_json
from edgessl.models import Encoder, save_encoder
from edgessl.preprocessing import ImageInput
from edgessl.pretraining.devices import start_fabric
from edgessl.pretraining.method import Objective
from edgessl.pretraining.options import ExecutionOptions, TrainerOptions
from edgessl.pretraining.probe import labelled_probe, view_probe
from edgessl.pretraining.recorder import Recorder
from edgessl.pretraining.trainer import Probe, Trainer
from edgessl.progress import Progress
from edgessl.run_directory import RunDirectory

__all__ = ["Save", "Session", "open_training"]


Save = Callable[[Encoder, RunDirectory, Mapping[str, str]], None]


def _save_encoder(encoder: Encoder, run: RunDirectory, lineage: Mapping[str, str]) -> None:
    save_encoder(encoder, run.encoder_path, lineage=lineage)


@dataclass(frozen=True)
class Session:
    """A training that is about to start.

    Attributes:
        verb: ``"pretrain"``, ``"distill"`` or a phase of its own, ``"integers"``.
        own: The method's or the distillation's settings.
        more: Settings of a later phase, which do not decide this one's result.
        splits: The data; only ``splits.train`` is trained on.
        out: The run directory to be.
        resume: Continue the run that is there.
        overwrite: Replace the run that is there.
    """

    verb: str
    trainer: TrainerOptions
    execution: ExecutionOptions
    own: Options
    modality: Modality
    splits: Splits
    fabric: Fabric
    out: Path
    resume: bool
    overwrite: bool
    progress: Progress
    more: Options | None = None

    def cache(self, name: str, *more: str) -> Path | None:
        """A folder of the cache; None if this run is to keep nothing beyond itself."""
        return cache_directory(name, *more) if self.execution.decode_cache else None

    def with_channels(self, channels: int) -> Session:
        """The same training with samples of another number of channels (a teacher's, say)."""
        options = self.modality.options.model_copy(update={"channels": channels})
        return replace(self, modality=type(self.modality)(options))

    def decode(self, spec: ImageInput) -> SampleStore:
        """Decode the training samples once; the first process does it for all."""
        with self.fabric.rank_zero_first():
            return self.modality.prepare(
                self.splits.train,
                spec,
                cache_dir=self.cache("decoded"),
                num_workers=torch.get_num_threads(),
                max_corrupt=self.execution.max_corrupt,
                progress=self.progress if self.fabric.is_global_zero else _ignore,
            )

    def train(
        self,
        objective: Objective,
        store: SampleStore,
        *,
        views: ViewKind,
        facts: Mapping[str, Any],
        lineage: Mapping[str, str],
        views_cycle: int | None = None,
        monitor: str | Path | None = None,
        save: Save = _save_encoder,
    ) -> RunDirectory:
        """Train, and leave a finished run behind.

        Args:
            objective: What to train.
            store: The decoded training samples.
            views: The kind of views that the objective wants.
            facts: What else decides the result; written to ``config.toml`` and compared on resume.
            lineage: Hashes of what went in, kept with the encoder.
            views_cycle: Draw the views of so many epochs over and over; None draws new ones.
            monitor: A labelled source for an online kNN accuracy; None goes without labels.
            save: Writes what is kept of the trained encoder, given the run and the lineage.
        """
        spec, seed = objective.encoder.spec, self.trainer.seed
        data_hash = fingerprint(self.splits.train)
        config = {
            "edgessl": __version__,
            "verb": self.verb,
            **facts,
            "data": {"path": str(self.splits.train.path), "sha256": data_hash},
            "settings": self.own.model_dump(mode="json", exclude_none=True),
            "trainer": self.trainer.model_dump(mode="json", exclude_none=True),
            "modality": self.modality.options.model_dump(mode="json", exclude_none=True),
        }
        run = self._run_directory(config)
        recorder = Recorder(
            run, stage=self.verb, progress=self.progress, active=self.fabric.is_global_zero
        )
        loader = TrainingLoader(
            store,
            self.modality.views(views, spec, seed=seed),
            batch_size=self.trainer.batch_size // self.trainer.accumulate,
            seed=seed,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            num_workers=self._num_workers(),
            views_cycle=views_cycle,
            device=self.fabric.device,
        )
        trainer = Trainer(
            objective,
            loader,
            options=self.trainer,
            execution=self.execution,
            fabric=self.fabric,
            run=run,
            recorder=recorder,
            probe=self._probe(objective, store, monitor),
        )
        started = time.monotonic()
        with run.lock() if self.fabric.is_global_zero else _nothing():
            for key, reason in store.corrupt:
                recorder.say(f"skipped {key}: {reason}", warning=True)
            encoder = trainer.fit(resume=self.resume)
            if self.fabric.is_global_zero:
                own = {"data": data_hash, self.verb: sha256_json(config)}
                save(encoder, run, {**lineage, **own})
                recorder.say(f"finished after {time.monotonic() - started:.0f} s")
        return run

    def _run_directory(self, config: Mapping[str, Any]) -> RunDirectory:
        if not self.fabric.is_global_zero:
            self.fabric.barrier()
            return RunDirectory(self.out)
        if self.resume:
            run = RunDirectory.resume(self.out, config)
        else:
            run = RunDirectory.create(self.out, config, overwrite=self.overwrite)
        self.fabric.barrier()
        return run

    def _num_workers(self) -> int:
        if self.execution.num_workers is not None:
            return self.execution.num_workers
        return min(8, torch.get_num_threads()) if self.fabric.device.type == "cuda" else 0

    def _probe(self, objective: Objective, store: SampleStore, monitor: str | Path | None) -> Probe:
        look = view_probe(
            store, self.modality, objective.encoder, samples=self.trainer.probe_samples
        )
        if monitor is None:
            return look
        labelled = labelled_probe(
            open_source(monitor), self.modality, objective.encoder, seed=self.trainer.seed
        )
        return lambda encoder: {**look(encoder), **labelled(encoder)}


@contextmanager
def open_training(
    verb: str,
    data: str | Path,
    *,
    own: type[Options],
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
    out: Path,
    resume: bool,
    overwrite: bool,
    progress: Progress,
    more: type[Options] | None = None,
) -> Iterator[Session]:
    """Check everything that can be checked before work starts, then join the process group.

    Args:
        verb: Name for messages and the configuration.
        data: The source of training samples.
        own: The method's settings.
        defaults: Trainer settings that the method prefers.
        overrides: What the user set: any name of the trainer, the execution, the modality or the
            method.
        out: The run directory to be.
        resume: Continue the run that is there.
        overwrite: Replace the run that is there.
        progress: The caller's callback.
        more: Settings of a later phase that the user may set as well.

    Raises:
        UsageError: An unknown setting, or a value out of range.
        DataError: The data cannot be used.
        OutputError: ``out`` is taken.
    """
    kind = MODALITIES.get("image")
    models: list[type[Options]] = [TrainerOptions, ExecutionOptions, kind.Options, own]
    parts = split_overrides(overrides, [*models, *([more] if more else [])], where=verb)
    trainer, execution, modal, special = parts[:4]
    if not resume:
        RunDirectory(out).refuse_existing(overwrite=overwrite)
    trainer_options = build_options(TrainerOptions, {**defaults, **trainer}, where=verb)
    execution_options = build_options(ExecutionOptions, execution, where=verb)
    modality = kind(build_options(kind.Options, modal, where=verb))
    own_options = build_options(own, special, where=verb)
    more_options = build_options(more, parts[4], where=verb) if more else None
    splits = open_source(data)
    fabric = start_fabric(execution_options, trainer_options.precision)
    try:
        yield Session(
            verb=verb,
            trainer=trainer_options,
            execution=execution_options,
            own=own_options,
            modality=modality,
            splits=splits,
            fabric=fabric,
            out=Path(out),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            more=more_options,
        )
        fabric.barrier()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _ignore(event: object) -> None:
    """Progress of the other processes."""


@contextmanager
def _nothing() -> Iterator[None]:
    yield
