"""The one training loop. It knows an objective, a loader and a run directory, nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from threading import Event
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgessl.data.loader import Batch, TrainingLoader
from edgessl.errors import RunError, UsageError
from edgessl.models import Encoder
from edgessl.pretraining.batch_norm import synchronize_batch_norm
from edgessl.pretraining.checkpoint import load_checkpoint, save_checkpoint
from edgessl.pretraining.interrupt import deferred_interrupt
from edgessl.pretraining.method import Objective, StepContext
from edgessl.pretraining.options import ExecutionOptions, TrainerOptions
from edgessl.pretraining.recorder import Recorder
from edgessl.run_directory import RunDirectory

__all__ = ["Probe", "Trainer"]

Probe = Callable[[Encoder], dict[str, float]]


class Trainer:
    """Trains an objective and keeps the run directory in order.

    Args:
        objective: What to train; moved to Fabric's device and trained in place.
        loader: Its batches; ``batch_size`` must be that of one accumulated part.
        options: What decides the result.
        execution: What decides where and how fast.
        fabric: Device, precision and process group.
        run: Where everything is written, by the first process only.
        recorder: Metrics, log and progress.
        probe: Looks at the encoder now and then; its figures are recorded.
    """

    def __init__(
        self,
        objective: Objective,
        loader: TrainingLoader,
        *,
        options: TrainerOptions,
        execution: ExecutionOptions,
        fabric: Fabric,
        run: RunDirectory,
        recorder: Recorder,
        probe: Probe | None,
    ) -> None:
        self.objective, self.loader, self.fabric = objective, loader, fabric
        self.options, self.execution = options, execution
        self.run, self.recorder, self.probe = run, recorder, probe
        self.group = dist.group.WORLD if fabric.world_size > 1 else None
        if self.group is not None:
            synchronize_batch_norm(objective, fabric.device)
        objective.to(fabric.device)
        self.average = self._make_average()
        self.optimizer = self._make_optimizer()
        self.module, self.wrapped_optimizer = fabric.setup(objective, self.optimizer)
        parts = loader.steps_per_epoch * options.epochs
        self.total_steps = min(parts // options.accumulate, options.max_steps or parts)
        self.steps_per_epoch = loader.steps_per_epoch / options.accumulate
        if self.total_steps == 0:
            raise UsageError(
                f"{options.epochs} epochs give no full batch of {options.batch_size} in "
                f"{options.accumulate} parts; lower batch_size or raise epochs"
            )

    def fit(self, *, resume: bool) -> Encoder:
        """Train to the end and return the encoder to keep (the weight average, if there is one).

        Raises:
            RunError: The loss is no longer finite, or the checkpoint cannot be used.
            KeyboardInterrupt: Ctrl-C; the state after the last whole step is saved.
        """
        step = self._restore() if resume else 0
        self.recorder.start(step, self.total_steps, unit_samples=self.options.batch_size)
        with (
            closing(self.recorder),
            closing(self.loader.batches(step * self.options.accumulate)) as batches,
            deferred_interrupt() as interrupted,
        ):
            self._run(step, batches, interrupted)
        return (
            self.objective.encoder if self.average is None else cast(Encoder, self.average.module)
        )

    def _run(self, step: int, batches: Iterator[Batch], interrupted: Event) -> None:
        last_checkpoint = time.monotonic()
        if step == 0:
            self._probe(0)
        while step < self.total_steps:
            metrics = self._step(step, batches)
            step += 1
            if step % self.options.log_steps == 0 or step == self.total_steps:
                self._record(step, metrics)
            else:
                self.recorder.advance(step)
            self._probe(step)
            if self._checkpoint_is_due(step, last_checkpoint) or interrupted.is_set():
                self._save(step, metrics["loss"])
                last_checkpoint = time.monotonic()
            if interrupted.is_set() and step < self.total_steps:
                self.recorder.say(f"interrupted, step {step} is saved; go on with --resume")
                raise KeyboardInterrupt

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One optimizer step over all accumulated parts; metrics are means over the parts."""
        self.objective.train()
        seed_generators(self.options.seed, step, self.fabric.global_rank)
        parts = self.options.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step) * group.get("lr_scale", 1.0)
        totals: dict[str, Tensor] = {}
        for part in range(parts):
            epoch = (step * parts + part) // self.loader.steps_per_epoch
            context = self._context(step, epoch)
            batch = next(batches).to(self.fabric.device)
            waits = part < parts - 1 and self.group is not None
            with self.fabric.no_backward_sync(self.module) if waits else nullcontext():
                loss, metrics = self.module(batch, context)
                self.fabric.backward(loss / parts)
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, 0) + value.detach().float() / parts
        if self.options.clip_norm > 0:
            self.fabric.clip_gradients(
                self.module,
                self.wrapped_optimizer,
                max_norm=self.options.clip_norm,
                error_if_nonfinite=False,
            )
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        self.objective.after_step(context)
        if self.average is not None:
            self.average.update_parameters(self.objective.encoder)
        return totals

    def _context(self, step: int, epoch: int) -> StepContext:
        return StepContext(
            step=step,
            total_steps=self.total_steps,
            epoch=epoch,
            seed=self.options.seed,
            group=self.group,
        )

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine: a function of the step alone, so resume needs no state."""
        options = self.options
        warmup_epochs = options.warmup_epochs
        if warmup_epochs is None:
            warmup_epochs = min(10.0, options.epochs / 10)
        warmup = min(round(warmup_epochs * self.steps_per_epoch), self.total_steps - 1)
        if step < warmup:
            return options.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        span = options.learning_rate - options.min_learning_rate
        return options.min_learning_rate + span * (1 + math.cos(math.pi * done)) / 2

    def _record(self, step: int, metrics: dict[str, Tensor]) -> None:
        values = torch.stack([metrics[name] for name in sorted(metrics)])
        values = cast(Tensor, self.fabric.all_reduce(values, reduce_op="mean"))
        figures = dict(zip(sorted(metrics), values.tolist(), strict=True))
        self._refuse_divergence(step, figures["loss"])
        figures["learning_rate"] = self._learning_rate(step - 1)
        self.recorder.record(step, step / self.steps_per_epoch, figures)

    def _probe(self, step: int) -> None:
        """Look at the encoder at the ends of the epochs that are due, and before the first."""
        every = self.options.probe_epochs
        every = max(1, self.options.epochs // 10) if every is None else every
        if self.probe is None or every == 0 or not self.fabric.is_global_zero:
            return
        epoch_steps = max(1, round(self.steps_per_epoch * every))
        if step % epoch_steps == 0 or step == self.total_steps:
            was_training = self.objective.training
            self.recorder.record_probe(step, self.probe(self.objective.encoder.eval()))
            self.objective.train(was_training)

    def _checkpoint_is_due(self, step: int, last: float) -> bool:
        by_steps = self.execution.checkpoint_steps
        due = step == self.total_steps or (by_steps is not None and step % by_steps == 0)
        by_time = time.monotonic() - last >= self.execution.checkpoint_minutes * 60
        return due or by_time

    def _save(self, step: int, loss: Tensor) -> None:
        if not self.fabric.is_global_zero:
            return
        self._refuse_divergence(step, float(loss))
        save_checkpoint(
            self.run.checkpoint_path,
            step=step,
            modules=self._stateful(),
            optimizer=self.optimizer,
            scaler=self._precision_state(),
        )

    def _restore(self) -> int:
        """Load the last checkpoint; a run that was stopped before its first one starts anew."""
        step, scaler = 0, dict[str, Any]()
        if self.run.checkpoint_path.is_file():
            step, scaler = load_checkpoint(
                self.run.checkpoint_path, modules=self._stateful(), optimizer=self.optimizer
            )
        if scaler:
            self.fabric.strategy.precision.load_state_dict(scaler)
        if self.fabric.is_global_zero:
            self.run.truncate_metrics(step if step else -1)
        return step

    def _refuse_divergence(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {step}; lower learning_rate or use precision=fp32"
            )

    def _stateful(self) -> dict[str, torch.nn.Module]:
        modules: dict[str, torch.nn.Module] = {"objective": self.objective}
        return modules if self.average is None else {**modules, "average": self.average}

    def _precision_state(self) -> dict[str, Any]:
        return dict(self.fabric.strategy.precision.state_dict())

    def _make_average(self) -> AveragedModel | None:
        if self.options.ema_decay == 0:
            return None
        update = get_ema_multi_avg_fn(self.options.ema_decay)
        return AveragedModel(self.objective.encoder, multi_avg_fn=update, use_buffers=True)

    def _make_optimizer(self) -> Optimizer:
        try:
            return create_optimizer_v2(
                self.objective,
                opt=self.options.optimizer,
                lr=self.options.learning_rate,
                weight_decay=self.options.weight_decay,
            )
        except (ValueError, AssertionError) as error:
            raise UsageError(
                f"optimizer '{self.options.optimizer}' is not one of timm's ({error}); "
                "use adamw, sgd, lars or lamb"
            ) from error


def seed_generators(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step, so that a resumed run draws what it would have."""
    torch.manual_seed((seed * 1_000_003 + step) * 65_537 + rank)
