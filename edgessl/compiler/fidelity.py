"""How close a candidate's outputs are to the float32 model's, without labels; and the gate.

Cosines are taken per sample over the flattened output. A mean cosine alone hides two failures: a
few samples that are far off (hence the 1st percentile) and outputs that share a large common
offset, beside which any error looks small (hence the cosine after subtracting the reference's
mean). Agreement of nearest neighbours is what retrieval and kNN see. Models that are not encoders
are judged by the signal-to-quantization-noise ratio of each output instead.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgessl.bundle.manifest import Fidelity, OutputFidelity
from edgessl.compiler.samples import Samples
from edgessl.config import Options
from edgessl.errors import ModelError

__all__ = ["Gate", "mean_cosines", "measure_fidelity"]

_NEIGHBOURS = 10
# Wider outputs (detection, segmentation) are thinned out evenly for the two metrics that need all
# samples at once: 200 samples of this size are 50 MB.
_MAX_COLUMNS = 65_536
_DIGITS = 6
_TINY = 1e-12
_ROUNDING = 1e-5


class Gate(Options):
    """Least figures that pass.

    Attributes:
        encoder: True if outputs are embeddings, whose direction counts; the other figures then
            decide. False for detectors and the like, whose values count: `sqnr_db` decides.
        cosine_mean: The minimum fidelity F itself.
        cosine_p1: 1 - 3 (1 - F).
        centred_cosine_mean: 1 - 5 (1 - F).
        neighbour_agreement: From the target.
        sqnr_db: Signal-to-quantization-noise ratio of each output, in decibels.
    """

    encoder: bool
    cosine_mean: float
    cosine_p1: float
    centred_cosine_mean: float
    neighbour_agreement: float
    sqnr_db: float

    @classmethod
    def of(
        cls,
        min_fidelity: float,
        *,
        neighbour_agreement: float,
        sqnr_db: float | None = None,
        encoder: bool = True,
    ) -> Self:
        """The gate that belongs to a minimum fidelity F, the least mean cosine.

        Noise at right angles to the signal turns it by the angle whose cosine is F where the
        ratio is -10 log10(2 (1 - F)) decibels; that is the ratio if none is given.
        """
        slack = 1.0 - min_fidelity
        return cls(
            encoder=encoder,
            cosine_mean=min_fidelity,
            cosine_p1=round(1.0 - 3.0 * slack, _DIGITS),
            centred_cosine_mean=round(1.0 - 5.0 * slack, _DIGITS),
            neighbour_agreement=neighbour_agreement,
            sqnr_db=_ratio_of(slack) if sqnr_db is None else sqnr_db,
        )

    def objection(self, fidelity: Fidelity) -> str | None:
        """Why the figures do not pass; None if they do."""
        if not fidelity.finite:
            return "outputs hold NaN or infinite values"
        if not self.encoder:
            return self._noisy_outputs(fidelity)
        checks = [
            ("cosine mean", fidelity.cosine_mean, self.cosine_mean),
            ("cosine p1", fidelity.cosine_p1, self.cosine_p1),
            ("centred cosine", fidelity.centred_cosine_mean, self.centred_cosine_mean),
            ("neighbour agreement", fidelity.neighbour_agreement, self.neighbour_agreement),
        ]
        failed = [f"{name} {have:.4g} < {want:.4g}" for name, have, want in checks if have < want]
        return ", ".join(failed) or None

    def _noisy_outputs(self, fidelity: Fidelity) -> str | None:
        ratios = [(o.name, o.sqnr_db) for o in fidelity.outputs if o.sqnr_db is not None]
        failed = [
            f"SQNR of '{name}' {ratio:.4g} dB < {self.sqnr_db:g} dB"
            for name, ratio in ratios
            if ratio < self.sqnr_db
        ]
        return ", ".join(failed) or None


def measure_fidelity(reference: Samples, candidate: Samples) -> Fidelity:
    """Compare outputs; with several outputs each figure is that of the worst.

    Args:
        reference: Outputs of the float32 model.
        candidate: Outputs of the candidate, same samples.

    Raises:
        ModelError: The two do not have the same outputs.
    """
    want = {s.name: s.shape for s in reference.streams}
    have = {s.name: s.shape for s in candidate.streams}
    if want != have:
        raise ModelError(f"gives outputs {have}, the float32 model {want}")
    outputs = []
    for name in want:
        output = _one_output(reference, candidate, name)
        if output is None:
            return _without_figures(reference.count)
        outputs.append(output)
    ratios = [o.sqnr_db for o in outputs if o.sqnr_db is not None]
    return Fidelity(
        samples=reference.count,
        finite=True,
        cosine_mean=min(o.cosine_mean for o in outputs),
        cosine_p1=min(o.cosine_p1 for o in outputs),
        centred_cosine_mean=min(o.centred_cosine_mean for o in outputs),
        neighbour_agreement=min(o.neighbour_agreement for o in outputs),
        sqnr_db=min(ratios, default=None),
        outputs=tuple(outputs),
    )


def mean_cosines(want: NDArray[np.float32], have: NDArray[np.float32]) -> tuple[float, float]:
    """Mean cosine, and mean cosine after subtracting the reference's mean; not rounded.

    Args:
        want: ``(N, D)`` float32, the reference's output.
        have: ``(N, D)`` float32, finite.
    """
    if want.shape[1] == 1:
        want, have = _as_angles(want, have)
    return float(np.mean(_cosine(want, have))), _centred_cosine(want, have)


def _one_output(reference: Samples, candidate: Samples, name: str) -> OutputFidelity | None:
    """The figures of one output; None if the candidate's are not finite."""
    pairs = zip(reference.rows(name), candidate.rows(name), strict=True)
    cosines, wants, haves = [], [], []
    signal = noise = 0.0
    for want, have in pairs:
        if not np.isfinite(want).all():
            raise ModelError(f"the float32 model gives NaN or infinite values in '{name}'")
        if not np.isfinite(have).all():
            return None
        signal += float(want @ want)
        noise += float((want - have) @ (want - have))
        cosines.append(_cosine(want[None], have[None])[0])
        step = max(1, -(-want.size // _MAX_COLUMNS))
        wants.append(want[::step].astype(np.float32))
        haves.append(have[::step].astype(np.float32))
    want_all, have_all = np.stack(wants), np.stack(haves)
    if want_all.shape[1] == 1:
        want_all, have_all = _as_angles(want_all, have_all)
        cosines = list(_cosine(want_all, have_all))
    return OutputFidelity(
        name=name,
        cosine_mean=round(float(np.mean(cosines)), _DIGITS),
        cosine_p1=round(float(np.percentile(cosines, 1)), _DIGITS),
        centred_cosine_mean=round(_centred_cosine(want_all, have_all), _DIGITS),
        neighbour_agreement=round(_agreement(want_all, have_all), _DIGITS),
        sqnr_db=_decibels(signal, noise),
    )


def _ratio_of(slack: float) -> float:
    return round(-10.0 * math.log10(2.0 * slack + _TINY), 2)


def _decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None without noise, and finite for a signal of zeros."""
    if noise == 0.0:
        return None
    return round(10.0 * math.log10(max(signal, _TINY * noise) / noise), 2)


def _without_figures(samples: int) -> Fidelity:
    return Fidelity(
        samples=samples,
        finite=False,
        cosine_mean=0.0,
        cosine_p1=0.0,
        centred_cosine_mean=0.0,
        neighbour_agreement=0.0,
    )


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine per row; two zero rows are alike, one zero row is like nothing."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    both = (norm_a <= _TINY) & (norm_b <= _TINY)
    cosine = (a * b).sum(axis=1) / np.maximum(norm_a * norm_b, _TINY**2)
    return np.where(both, 1.0, np.clip(cosine, -1.0, 1.0))


def _as_angles(
    want: NDArray[np.float32], have: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give single numbers a direction, in units of the reference's spread.

    The cosine of two numbers is their sign. (x - mean, deviation) turns by 45° when x moves by
    one deviation, so that the same gate says something.
    """
    mean = want.mean()
    spread = max(float(want.std()), 1e-3 * abs(float(mean)), _TINY)

    def with_spread(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.hstack([x - mean, np.full_like(x, spread)])

    return with_spread(want), with_spread(have)


def _centred_cosine(want: NDArray[np.float32], have: NDArray[np.float32]) -> float:
    """Mean cosine after subtracting the reference's mean, over samples that differ from it."""
    mean = want.mean(axis=0, dtype=np.float64)
    centred = want - mean
    size = np.linalg.norm(centred, axis=1)
    differs = size > _ROUNDING * np.linalg.norm(want.astype(np.float64), axis=1)
    if not differs.any():
        return 1.0
    return float(np.mean(_cosine(centred, have - mean)[differs]))


def _agreement(want: NDArray[np.float32], have: NDArray[np.float32]) -> float:
    """Mean share of the candidate's nearest neighbours that are the reference's too.

    10 neighbours by cosine, fewer where there are fewer than 51 samples. A sample as near as the
    reference's last neighbour, up to rounding, counts as one.
    """
    count = max(1, min(_NEIGHBOURS, (len(want) - 1) // 5))
    reference = _similarity(want)
    last = -np.sort(-reference, axis=1)[:, count - 1 : count]
    nearest = np.argsort(-_similarity(have), axis=1, kind="stable")[:, :count]
    return float(np.mean(np.take_along_axis(reference, nearest, axis=1) >= last - _ROUNDING))


def _similarity(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # In float64, because the squares of large outputs overflow.
    size = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    unit = (x / np.maximum(size, _TINY)).astype(np.float32)
    similarity: NDArray[np.float32] = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity
