"""A look at the embedding while it is being learnt: is it getting better, or collapsing?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgessl.data.modality import Modality
from edgessl.data.source import Splits
from edgessl.data.store import SampleStore
from edgessl.evaluation.neighbours import knn_accuracy, retrieval_accuracy
from edgessl.evaluation.spectrum import effective_rank
from edgessl.models import Encoder
from edgessl.pretraining.trainer import Probe

__all__ = ["labelled_probe", "view_probe"]

_BATCH = 64


def view_probe(store: SampleStore, modality: Modality, encoder: Encoder, *, samples: int) -> Probe:
    """Without labels: does a sample's view find its other view among all samples'?

    The probe gives ``view_knn_accuracy``, the share of samples whose nearest neighbour among the
    second views is their own, and ``effective_rank`` of the embeddings (1 is full collapse).

    Args:
        store: Decoded samples; the same ones are looked at every time.
        modality: Makes the views.
        encoder: For its input specification.
        samples: How many to look at, at most.
    """
    views = modality.views("contrastive", encoder.spec, seed=0)
    chosen = np.random.default_rng(0).permutation(len(store))[:samples]
    chosen.sort()

    def probe(current: Encoder) -> dict[str, float]:
        device = next(current.parameters()).device
        pairs: list[NDArray[np.float32]] = []
        for start in range(0, len(chosen), _BATCH):
            batch = store.fetch(chosen[start : start + _BATCH])
            with torch.inference_mode():
                embedded = [
                    current(view.to(device)).float().cpu().numpy() for view in views(batch, 0)
                ]
            pairs.append(np.stack(embedded[:2]))
        first, second = np.concatenate(pairs, axis=1)
        return {
            "view_knn_accuracy": retrieval_accuracy(first, second),
            "effective_rank": effective_rank(first),
        }

    return probe


def labelled_probe(splits: Splits, modality: Modality, encoder: Encoder, *, seed: int) -> Probe:
    """With labels that the user gave for this: weighted kNN accuracy on a labelled set.

    Args:
        splits: The labelled set; its declared test split, or one drawn from the seed.
        modality: Brings the samples to the encoder's input.
        encoder: For its input specification.
        seed: Of the split.
    """
    from edgessl.evaluation.features import labelled_samples, normalized_batches

    train, test = labelled_samples(splits, modality, encoder.spec, seed=seed)

    def probe(current: Encoder) -> dict[str, float]:
        device = next(current.parameters()).device

        def embed(samples: NDArray[np.generic]) -> NDArray[np.float32]:
            with torch.inference_mode():
                parts = [
                    current(torch.from_numpy(x).to(device)).float().cpu().numpy()
                    for x in normalized_batches(samples, encoder.spec, _BATCH)
                ]
            return np.concatenate(parts)

        correct = knn_accuracy(embed(train.samples), train.labels, embed(test.samples), test.labels)
        return {"knn_accuracy": float(correct.mean())}

    return probe
