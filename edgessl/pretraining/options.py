"""Settings of the trainer: those that decide the result, and those that only decide where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from edgessl.config import Options

__all__ = ["ExecutionOptions", "TrainerOptions"]


class TrainerOptions(Options):
    """What decides the result; a resumed run must have the same.

    Attributes:
        epochs: Passes over the data.
        max_steps: Stop after so many optimizer steps; None runs all epochs.
        batch_size: Samples per optimizer step, over all processes and accumulated parts.
        accumulate: Parts that a batch is split into to save memory; contrastive losses then see
            the negatives of one part only.
        learning_rate: Peak of the schedule.
        min_learning_rate: Where the cosine ends.
        warmup_epochs: Linear rise at the start; None takes a tenth of the epochs, at most 10.
        weight_decay: Applied to matrices and kernels, not to biases and norms.
        optimizer: Any name that timm knows: ``adamw``, ``sgd``, ``lars``, ``lamb``, …
        clip_norm: Largest gradient norm; 0 does not clip.
        ema_decay: Decay of the weight average that is exported in the weights' place; 0 is off.
        precision: ``auto`` is bf16 on GPUs that have it and fp32 elsewhere.
        seed: Of weights, order, views and masks.
        log_steps: Steps between two lines of ``metrics.jsonl``.
        probe_epochs: Epochs between two looks at the embedding; None looks ten times, 0 never.
        probe_samples: Samples that are looked at.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=2)] = 256
    accumulate: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    optimizer: str = "adamw"
    clip_norm: Annotated[float, Field(ge=0)] = 5.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    log_steps: Annotated[int, Field(ge=1)] = 10
    probe_epochs: Annotated[int, Field(ge=0)] | None = None
    probe_samples: Annotated[int, Field(ge=16)] = 512

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size must be a multiple of accumulate, {self.accumulate}")
        return self


class ExecutionOptions(Options):
    """What decides only where and how fast; a resumed run may change it.

    Attributes:
        device: ``auto`` takes a GPU where there is one.
        num_workers: Processes that prepare batches; None takes up to 8 for a GPU and none for a
            CPU, whose cores are busy training.
        threads: CPU threads per process; 0 takes all cores, shared among local processes.
        checkpoint_steps: Steps between checkpoints; None goes by time alone.
        checkpoint_minutes: Minutes between checkpoints.
        max_corrupt: Share of unreadable samples that is tolerated.
        decode_cache: Keep decoded samples on the disk for the next run.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    threads: Annotated[int, Field(ge=0)] = 0
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    max_corrupt: Annotated[float, Field(ge=0, le=1)] = 0.01
    decode_cache: bool = True
