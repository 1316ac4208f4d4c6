"""`pretrain()`: a backbone learns from samples without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgessl.files import sha256_file
from edgessl.models import build_encoder, load_encoder, load_weights
from edgessl.models.weights import encoder_file
from edgessl.pretraining.method import METHODS
from edgessl.pretraining.session import open_training
from edgessl.progress import Progress, silent
from edgessl.run_directory import RunDirectory

__all__ = ["pretrain"]


def pretrain(
    data: str | Path,
    *,
    method: str,
    backbone: str,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    init_from: Path | None = None,
    monitor: str | Path | None = None,
    progress: Progress = silent,
) -> RunDirectory:
    """Train an encoder on unlabelled samples.

    Started under ``torchrun``, every process takes its share of each batch; the loss is that of
    the global batch.

    Args:
        data: A source, see ``docs/data.md``; of a split, only the training part is used.
        method: ``simclr``, ``byol``, ``mae`` or one that another package registered.
        backbone: A timm model name.
        out: The run directory to be.
        overrides: Settings by name; see ``docs/pretrain.md``.
        resume: Continue the run at ``out`` exactly where its last checkpoint left it.
        overwrite: Replace the run at ``out``.
        init_from: A run or an ``encoder.safetensors`` to start from instead of random weights.
        monitor: A labelled source for an online kNN accuracy; labels are read for nothing else.
        progress: Told of every step.

    Returns:
        The finished run.

    Raises:
        UsageError: An unknown method, backbone or setting.
        DataError: The data cannot be used.
        OutputError: ``out`` is taken or cannot be written.
        RunError: The run cannot be resumed, or diverged.
    """
    kind = METHODS.get(method)
    with open_training(
        "pretrain",
        data,
        own=kind.Options,
        defaults=kind.defaults,
        overrides=overrides or {},
        out=out,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    ) as session:
        start = load_encoder(init_from)[0].spec if init_from else None
        spec = session.modality.input_spec(
            session.splits.train, mean_std=(start.mean, start.std) if start else None
        )
        torch.manual_seed(session.trainer.seed)
        encoder = build_encoder(backbone, spec)
        lineage = {}
        if init_from is not None:
            load_weights(encoder.backbone, encoder_file(init_from))
            lineage["init_from"] = sha256_file(encoder_file(init_from))
        objective = kind(encoder, session.own)
        return session.train(
            objective,
            session.decode(spec),
            views=kind.views,
            facts={"method": method, "backbone": encoder.name, **lineage},
            lineage=lineage,
            monitor=monitor,
        )
