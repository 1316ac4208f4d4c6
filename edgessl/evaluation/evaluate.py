"""`evaluate()`: embed labelled data, ask what a simple classifier makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgessl.config import Options, build_options, split_overrides
from edgessl.errors import DataError, UsageError, nearest
from edgessl.evaluation.embedders import Embedder, open_embedder
from edgessl.evaluation.neighbours import knn_accuracy
from edgessl.evaluation.probes import fewshot_accuracy, linear_accuracy
from edgessl.evaluation.spectrum import effective_rank, uniformity
from edgessl.progress import Progress, ProgressEvent, silent

__all__ = ["PROTOCOLS", "EvaluationOptions", "EvaluationReport", "evaluate"]

PROTOCOLS = ("knn", "linear", "fewshot")


class EvaluationOptions(Options):
    """Settings of the protocols.

    Attributes:
        knn_k: Voters of kNN.
        temperature: τ of kNN's weights.
        shots: Labels per class of few-shot, one number or several.
        draws: Draws of few-shot.
        seed: Of splits, draws and random weights.
        test_fraction: Share of the test split where the data declare none.
        batch_size: Samples per forward pass.
        max_corrupt: Share of unreadable samples that is tolerated.
    """

    knn_k: Annotated[int, Field(ge=1)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07
    shots: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 5
    draws: Annotated[int, Field(ge=1)] = 10
    seed: Annotated[int, Field(ge=0)] = 0
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    batch_size: Annotated[int, Field(ge=1)] = 64
    max_corrupt: Annotated[float, Field(ge=0, le=1)] = 0.01


class EvaluationReport(Options):
    """What was found.

    Attributes:
        subject: What was evaluated.
        embedding_dim: D.
        train_samples: Samples that taught.
        test_samples: Samples that were tested.
        classes: Number of classes.
        split: ``"declared"`` by the data, or ``"drawn"`` from the seed.
        seed: Of splits and draws.
        effective_rank: Of the test embeddings.
        uniformity: Of the test embeddings.
        scores: ``knn_accuracy``, ``linear_accuracy``, ``fewshot_K_accuracy`` in [0, 1], each with
            its ``…_std``: over draws for few-shot, else the binomial deviation over test samples.
    """

    subject: str
    embedding_dim: int
    train_samples: int
    test_samples: int
    classes: int
    split: str
    seed: int
    effective_rank: float
    uniformity: float
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One flat object: the scores beside the facts."""
        values = self.model_dump(mode="json")
        return {**values.pop("scores"), **values}


def evaluate(
    subject: str | Path | Embedder,
    data: str | Path,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """Evaluate a run, an ONNX file, a bundle, random weights or raw pixels on labelled data.

    Args:
        subject: As for `open_embedder`; or something open that embeds, which stays open.
        data: A labelled source; see ``docs/data.md``.
        protocols: Any of ``knn``, ``linear``, ``fewshot``.
        overrides: Settings by name: `EvaluationOptions`, and those of the modality for subjects
            without an input of their own (``image_size``, ``channels``).
        progress: Told how far it is.

    Raises:
        UsageError: Unknown protocol, setting or subject.
        DataError: The data have no labels, or too few samples.
    """
    from edgessl.data.modality import MODALITIES
    from edgessl.data.source import open_source
    from edgessl.evaluation.features import labelled_samples

    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise UsageError(f"unknown protocol '{protocol}'; {nearest(protocol, PROTOCOLS)}")
    kind = MODALITIES.get("image")
    own, modal = split_overrides(
        overrides or {}, [EvaluationOptions, kind.Options], where="evaluate"
    )
    options = build_options(EvaluationOptions, own, where="evaluate")
    modality = kind(build_options(kind.Options, modal, where="evaluate"))
    splits = open_source(data)
    given = isinstance(subject, Embedder)
    embedder = (
        subject
        if isinstance(subject, Embedder)
        else open_embedder(
            str(subject),
            lambda: modality.input_spec(splits.train, mean_std=None),
            seed=options.seed,
        )
    )
    try:
        train, test = labelled_samples(
            splits,
            modality,
            embedder.spec,
            seed=options.seed,
            test_fraction=options.test_fraction,
            max_corrupt=options.max_corrupt,
            progress=progress,
        )
        sides = [_embed(embedder, part.samples, options, progress) for part in (train, test)]
    finally:
        if not given:
            embedder.close()
    return EvaluationReport(
        subject=embedder.name if given else str(subject),
        embedding_dim=sides[0].shape[1],
        train_samples=len(train.labels),
        test_samples=len(test.labels),
        classes=len(np.unique(train.labels)),
        split="declared" if splits.declared else "drawn",
        seed=options.seed,
        effective_rank=effective_rank(sides[1]),
        uniformity=uniformity(sides[1]),
        scores=_scores(protocols, sides[0], train.labels, sides[1], test.labels, options),
    )


def _embed(
    embedder: Embedder, samples: Any, options: EvaluationOptions, progress: Progress
) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(samples), options.batch_size):
        progress(ProgressEvent("embed", start, len(samples), "samples"))
        parts.append(embedder.embed(samples[start : start + options.batch_size]))
    progress(ProgressEvent("embed", len(samples), len(samples), "samples"))
    embeddings = np.concatenate(parts)
    finite = int(np.isfinite(embeddings).all(axis=1).sum())
    if finite < len(embeddings):
        raise DataError(
            f"{embedder.name}: {len(embeddings) - finite} of {len(embeddings)} embeddings are NaN "
            "or infinite; train or compile it again in fp32"
        )
    return embeddings


def _scores(
    protocols: Sequence[str],
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    options: EvaluationOptions,
) -> dict[str, float]:
    scores: dict[str, float] = {}
    four = (train, train_labels, test, test_labels)
    if "knn" in protocols:
        correct = knn_accuracy(*four, k=options.knn_k, temperature=options.temperature)
        scores |= _with_deviation("knn_accuracy", correct)
    if "linear" in protocols:
        scores |= _with_deviation("linear_accuracy", linear_accuracy(*four, seed=options.seed))
    if "fewshot" in protocols:
        for shots in options.shots if isinstance(options.shots, tuple) else (options.shots,):
            accuracies = fewshot_accuracy(
                *four, shots=shots, draws=options.draws, seed=options.seed
            )
            scores[f"fewshot_{shots}_accuracy"] = float(accuracies.mean())
            scores[f"fewshot_{shots}_accuracy_std"] = float(accuracies.std())
    return scores


def _with_deviation(name: str, correct: NDArray[np.bool_]) -> dict[str, float]:
    accuracy = float(correct.mean())
    deviation = float(np.sqrt(accuracy * (1 - accuracy) / len(correct)))
    return {name: accuracy, f"{name}_std": deviation}
