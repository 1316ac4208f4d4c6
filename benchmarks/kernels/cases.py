"""What the GPU benchmark computes: losses, shapes, inputs, and the same in float64.

FLOP are counted in u = M²·D. Towers have M rows each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CASES", "SMALL_CASES", "Case", "Exact", "checks", "exact", "make_inputs"]

LossName = Literal["nt_xent", "clip", "siglip"]

_SHAPES = ((8192, 128), (16384, 768), (65536, 256), (131072, 512))
_SMALL_SHAPES = ((64, 16),)
_LOSSES: tuple[LossName, ...] = ("nt_xent", "clip", "siglip")
_SHARP = 0.02
_CHUNK = 1024
_SAMPLED_ROWS = 256
_BIAS = -10.0


@dataclass(frozen=True)
class Case:
    """One loss at one size.

    Attributes:
        loss: Which.
        rows: M: rows of z, or of each tower.
        dimensions: D.
        temperature: τ; the scale of the logits is 1/τ.
    """

    loss: LossName
    rows: int
    dimensions: int
    temperature: float = 0.1

    @property
    def name(self) -> str:
        """Such as ``"nt_xent 65536x256"``."""
        return f"{self.loss} {self.rows}x{self.dimensions} t={self.temperature:g}"

    @property
    def unit(self) -> float:
        """M²·D FLOP."""
        return float(self.rows) ** 2 * self.dimensions

    @property
    def input_rows(self) -> int:
        """Rows of all inputs together."""
        return self.rows if self.loss == "nt_xent" else 2 * self.rows


CASES = (
    *(Case(loss, *shape) for loss in _LOSSES for shape in _SHAPES),
    # Where tiles can be skipped, and where rounded logits show.
    Case("nt_xent", 65536, 256, _SHARP),
)
SMALL_CASES = tuple(Case(loss, *shape) for loss in _LOSSES for shape in _SMALL_SHAPES)


def checks(case: Case, small: bool) -> dict[str, Case]:
    """Small cases beside the measured one, whose errors are reported too."""
    rows = 54 if small else 1000
    return {
        "ragged": replace(case, rows=rows),
        "sharp": replace(case, rows=32 if small else 1024, temperature=_SHARP),
    }


def make_inputs(case: Case, dtype: torch.dtype, device: str, seed: int) -> tuple[Tensor, ...]:
    """Leaves that require gradients: z (M, D); or image, text, scale and, for SigLIP, bias.

    Rows are Gaussian; a row and its positive have a cosine of about 0.7.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def gaussian(rows: int) -> Tensor:
        return torch.randn(rows, case.dimensions, generator=generator, device=device)

    count = case.rows // 2 if case.loss == "nt_xent" else case.rows
    first = gaussian(count)
    second = first + gaussian(count)
    rows = [torch.cat([first, second])] if case.loss == "nt_xent" else [first, second]
    numbers = {"nt_xent": [], "clip": [1 / case.temperature]}.get(
        case.loss, [1 / case.temperature, _BIAS]
    )
    leaves = [matrix.to(dtype) for matrix in rows]
    leaves += [torch.tensor(number, device=device) for number in numbers]
    return tuple(leaf.requires_grad_() for leaf in leaves)


@dataclass(frozen=True)
class Exact:
    """In float64, from the same rounded inputs.

    Attributes:
        loss: The mean loss.
        sample: Rows whose gradients follow.
        gradients: Of these rows, one matrix for each matrix of the inputs.
    """

    loss: float
    sample: Tensor
    gradients: tuple[Tensor, ...]

    def errors(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> dict[str, float]:
        """Relative errors of a loss, and of gradients in the Frobenius norm (the worst matrix)."""
        worst = 0.0
        for expected, whole in zip(self.gradients, gradients[: len(self.gradients)], strict=True):
            difference = whole[self.sample].double() - expected
            error = (difference.norm() / expected.norm()).item()
            worst = max(worst, error) if error == error else error  # NaN stays
        return {
            "loss": abs(loss.double().item() - self.loss) / abs(self.loss),
            "gradient": worst,
        }


def exact(case: Case, inputs: tuple[Tensor, ...]) -> Exact:
    """The loss of a case and gradients of some rows, in float64, without the whole matrix."""
    with torch.no_grad():
        sample = torch.linspace(
            0, case.rows - 1, min(case.rows, _SAMPLED_ROWS), device=inputs[0].device
        ).long()
        if case.loss == "nt_xent":
            return _nt_xent(case, inputs[0], sample)
        image, text = inputs[:2]
        # What the rivals get: the temperature as float32 holds it.
        scale = inputs[2].double()
        return (_clip if case.loss == "clip" else _siglip)(image, text, scale, sample)


def _nt_xent(case: Case, z: Tensor, sample: Tensor) -> Exact:
    unit, norm = _unit(z)
    scale = 1 / case.temperature
    rows = torch.arange(case.rows, device=z.device)
    positive = (rows + case.rows // 2) % case.rows

    def logits(some: Tensor) -> Tensor:
        return (scale * unit[some] @ unit.T).scatter(1, some[:, None], float("-inf"))

    log_sums = _by_chunks(rows, lambda some: logits(some).logsumexp(1))
    loss = (log_sums - scale * (unit * unit[positive]).sum(1)).mean().item()
    found = logits(sample)
    weights = (found - log_sums[sample, None]).exp() + (found - log_sums).exp()
    weights[_places(sample), positive[sample]] -= 2
    gradient = weights @ unit * (scale / case.rows)
    return Exact(loss, sample, (_through_scaling(gradient, unit[sample], norm[sample]),))


def _clip(image: Tensor, text: Tensor, scale: Tensor, sample: Tensor) -> Exact:
    (images, image_norm), (texts, text_norm) = _unit(image), _unit(text)
    rows = torch.arange(len(image), device=image.device)
    of_images = _by_chunks(rows, lambda some: (scale * images[some] @ texts.T).logsumexp(1))
    of_texts = _by_chunks(rows, lambda some: (scale * texts[some] @ images.T).logsumexp(1))
    loss = ((of_images + of_texts) / 2 - scale * (images * texts).sum(1)).mean().item()

    def gradient(own: Tensor, other: Tensor, own_sums: Tensor, other_sums: Tensor) -> Tensor:
        logits = scale * own[sample] @ other.T
        weights = (logits - own_sums[sample, None]).exp() + (logits - other_sums).exp()
        weights[_places(sample), sample] -= 2
        return weights @ other * (scale / (2 * len(own)))

    of_image = gradient(images, texts, of_images, of_texts)
    of_text = gradient(texts, images, of_texts, of_images)
    return Exact(
        loss,
        sample,
        (
            _through_scaling(of_image, images[sample], image_norm[sample]),
            _through_scaling(of_text, texts[sample], text_norm[sample]),
        ),
    )


def _siglip(image: Tensor, text: Tensor, scale: Tensor, sample: Tensor) -> Exact:
    (images, image_norm), (texts, text_norm) = _unit(image), _unit(text)
    rows = torch.arange(len(image), device=image.device)

    def losses(some: Tensor) -> Tensor:
        logits = scale * images[some] @ texts.T + _BIAS
        logits[_places(some), some] *= -1
        return F.softplus(logits).sum(1)

    def gradient(own: Tensor, other: Tensor) -> Tensor:
        weights = (scale * own[sample] @ other.T + _BIAS).sigmoid()
        weights[_places(sample), sample] -= 1
        return weights @ other * (scale / len(own))

    return Exact(
        _by_chunks(rows, losses).mean().item(),
        sample,
        (
            _through_scaling(gradient(images, texts), images[sample], image_norm[sample]),
            _through_scaling(gradient(texts, images), texts[sample], text_norm[sample]),
        ),
    )


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.detach().double()
    norm = rows.norm(dim=1, keepdim=True)
    return rows / norm, norm


def _by_chunks(rows: Tensor, values: Callable[[Tensor], Tensor]) -> Tensor:
    def parts() -> Iterator[Tensor]:
        for some in rows.split(_CHUNK):
            yield values(some)

    return torch.cat(list(parts()))


def _places(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)


def _through_scaling(gradient: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    return (gradient - unit * (gradient * unit).sum(1, keepdim=True)) / norm
