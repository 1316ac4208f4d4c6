"""What embeddings are worth, with labels and without: the functions that `evaluate` calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.archive import open_bundle
from edgessl.compiler.fidelity import measure_fidelity
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.data.image import ImageModality, ImageOptions
from edgessl.data.source import open_source
from edgessl.evaluation.embedders import open_embedder
from edgessl.evaluation.features import labelled_samples
from edgessl.evaluation.neighbours import knn_accuracy
from edgessl.evaluation.probes import fewshot_accuracy, linear_accuracy
from edgessl.evaluation.spectrum import effective_rank
from edgessl.preprocessing import ImageInput, RawImage
from edgessl.runtime.model import Model, Place, open_engine

__all__ = ["Embedded", "accuracies", "embed_bundle", "embed_subject", "fidelity", "spread"]

Embeddings = NDArray[np.float32]
_BATCH = 64


class Embedded(dict[str, Any]):
    """``train``, ``test`` (N, D) float32 and ``train_labels``, ``test_labels`` (N,)."""

    @classmethod
    def read(cls, path: Path) -> Embedded:
        """What `write` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays)

    def write(self, path: Path) -> None:
        """Keep for later comparison."""
        np.savez(path, **self)


def embed_subject(subject: Path, data: Path) -> Embedded:
    """A run, an encoder, or an ``.onnx`` with its preprocessing."""
    embedder = open_embedder(str(subject), _no_spec, seed=0)
    try:
        return _embed(embedder.embed, embedder.spec, data)
    finally:
        embedder.close()


def embed_bundle(path: Path, data: Path, *, on: Place, test_samples: int | None = None) -> Embedded:
    """A bundle in its engine, or in a stand-in that computes with the same integers.

    Args:
        path: The ``.edge`` file.
        data: A labelled source.
        on: ``"device"``, ``"host"`` or ``"emulator"``.
        test_samples: Only so many test samples, and no training samples (an emulator is slow).
    """
    with open_bundle(path, verify=False) as bundle:
        model = Model(bundle.manifest, open_engine(bundle, threads=1, on=on), name=path.name)
    try:
        return _embed(model, model.manifest.preprocessing, data, test_samples)
    finally:
        model.close()


def accuracies(embedded: Mapping[str, Any], *, gallery: Mapping[str, Any]) -> dict[str, float]:
    """KNN, linear and 5-shot accuracy in [0, 1], as `edgessl.evaluation.evaluate` has them.

    Args:
        embedded: What is judged.
        gallery: Embeddings of the float student; ``gallery`` is the kNN accuracy of the judged test
            samples among its training samples, as where a device asks an index that a server made.
    """
    four = [embedded[key] for key in ("train", "train_labels", "test", "test_labels")]
    among = [gallery["train"], gallery["train_labels"], *four[2:]]
    return {
        "knn": float(knn_accuracy(*four).mean()),
        "linear": float(linear_accuracy(*four, seed=0).mean()),
        "fewshot_5": float(fewshot_accuracy(*four, shots=5, draws=10, seed=0).mean()),
        "gallery": float(knn_accuracy(*among).mean()),
        "effective_rank": effective_rank(embedded["test"]),
    }


def fidelity(reference: Embeddings, candidate: Embeddings) -> dict[str, float]:
    """How close two embeddings of the same samples are: the figures of the compiler's gate."""
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for name, rows in (("reference", reference), ("candidate", candidate)):
            stream = Stream(name="embedding", dtype="float32", shape=rows.shape[1:], batched=True)
            with SampleWriter(Path(folder) / name, (stream,), batch_size=1) as writer:
                writer.append({"embedding": rows})
            parts.append(Samples(Path(folder) / name))
        found = measure_fidelity(*parts)
    return {
        "samples": found.samples,
        "cosine": found.cosine_mean,
        "cosine_p1": found.cosine_p1,
        "centred_cosine": found.centred_cosine_mean,
        "neighbour_agreement": found.neighbour_agreement,
    }


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Indices of ``count`` of ``total`` samples, evenly spaced, so that no class is left out."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def _embed(
    embed: Callable[[RawImage], Embeddings],
    spec: Any,
    data: Path,
    test_samples: int | None = None,
) -> Embedded:
    assert isinstance(spec, ImageInput)
    parts = labelled_samples(open_source(data), ImageModality(ImageOptions()), spec, seed=0)
    given = Embedded()
    for name, part in zip(("train", "test"), parts, strict=True):
        if test_samples is not None and name == "train":
            continue
        chosen = spread(len(part.labels), test_samples or len(part.labels))
        samples = part.samples[chosen]
        rows = [embed(samples[i : i + _BATCH]) for i in range(0, len(samples), _BATCH)]
        given[name], given[f"{name}_labels"] = np.concatenate(rows), part.labels[chosen]
    return given


def _no_spec() -> ImageInput:
    raise ValueError("a subject of the benchmark has an input of its own")
