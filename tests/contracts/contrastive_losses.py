"""The six losses as their papers write them, in float64, and problems to compute them on.

Implementations round unit rows once to the rows' dtype; so do these definitions, and for both the
rounding counts as the identity in the gradient. All else is plain PyTorch with full matrices.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from edgessl.kernels.engine import Engine

__all__ = ["LOSSES", "Problem", "Wanted", "definition", "problem"]

LOSSES = ("nt_xent", "dcl", "supcon", "clip_loss", "siglip_loss", "info_nce_queue")


@dataclass(frozen=True)
class Problem:
    """Arguments of one loss.

    Attributes:
        loss: Name of the function.
        rows: Matrices in the order of the function's arguments.
        labels: (M,) for supcon.
        scalars: Temperature, or logit_scale and logit_bias, as 0-dimensional tensors.
    """

    loss: str
    rows: dict[str, Tensor]
    scalars: dict[str, Tensor]
    labels: Tensor | None = None

    @property
    def arguments(self) -> list[Tensor]:
        """As the function takes them."""
        labels = [] if self.labels is None else [self.labels]
        return [*self.rows.values(), *labels, *self.scalars.values()]

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Those that can have a gradient: all but labels and the queue, which is a constant."""
        return {
            name: tensor
            for name, tensor in {**self.rows, **self.scalars}.items()
            if name != "queue"
        }

    def map(self, change: Callable[[Tensor], Tensor]) -> Problem:
        """The same with every matrix of rows changed."""
        rows = {name: change(rows) for name, rows in self.rows.items()}
        return Problem(self.loss, rows, self.scalars, self.labels)

    def learnable(self) -> Problem:
        """A copy whose rows and scalars are leaves that want gradients."""
        copies = {
            name: tensor.detach().clone().requires_grad_() for name, tensor in self.leaves.items()
        }
        return Problem(
            self.loss,
            {name: copies.get(name, rows) for name, rows in self.rows.items()},
            {name: copies[name] for name in self.scalars},
            self.labels,
        )

    def to(self, device: str) -> Problem:
        """A copy on another device."""
        return Problem(
            self.loss,
            {name: rows.to(device) for name, rows in self.rows.items()},
            {name: scalar.to(device) for name, scalar in self.scalars.items()},
            None if self.labels is None else self.labels.to(device),
        )


@dataclass(frozen=True)
class Wanted:
    """What a definition gives.

    Attributes:
        losses: (A,) float64, one for each row that has a loss of its own.
        gradients: Of Σ upstream·losses, by argument.
        magnitudes: By argument, what the terms of each gradient sum to if none cancel: (A,) for
            rows, 0-dimensional for scalars. Rounding errors are in proportion to them.
        largest: As ``magnitudes``, but with the sum that is the largest of all rows, so that only
            the row's length makes a difference.
        slopes: As ``largest``, for weights that sum to the largest upstream gradient.
        logit: The largest that a logit can be by its rows' lengths.
    """

    losses: Tensor
    gradients: dict[str, Tensor]
    magnitudes: dict[str, Tensor]
    largest: dict[str, Tensor]
    slopes: dict[str, Tensor]
    logit: float


def problem(
    loss: str,
    count: int,
    dim: int,
    temperature: float,
    dtype: torch.dtype = torch.float32,
    spread: float = 0.7,
) -> Problem:
    """Rows of many lengths, positives near each other, from a seed that the arguments fix.

    Args:
        loss: One of `LOSSES`.
        count: How many rows there are in all columns: M of (M, D), N of two towers, K of a queue.
        dim: D.
        temperature: τ; logit_scale is 1/τ, logit_bias −0.3/τ.
        dtype: Of the rows; scalars are float32, or float64 for float64.
        spread: Standard deviation of a view around its sample.
    """
    seed = zlib.crc32(repr((loss, count, dim)).encode())
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def views(samples: Tensor) -> Tensor:
        rows = samples + spread * noise(*samples.shape)
        return (F.normalize(rows) * torch.exp2(noise(len(samples), 1))).to(dtype)

    precision = torch.float64 if dtype == torch.float64 else torch.float32
    tau = torch.tensor(temperature, dtype=precision)
    if loss in ("clip_loss", "siglip_loss"):
        samples = noise(count, dim)
        rows = {"image": views(samples), "text": views(samples)}
        scalars = {"logit_scale": 1 / tau}
        if loss == "siglip_loss":
            scalars["logit_bias"] = -0.3 / tau
        return Problem(loss, rows, scalars)
    if loss == "info_nce_queue":
        samples = noise(max(2, count // 3), dim)
        queue = views(noise(count, dim))
        return Problem(
            loss,
            {"query": views(samples), "key": views(samples), "queue": queue},
            {"temperature": tau},
        )
    if loss == "supcon":
        labels = torch.randint(0, max(2, count // 6), (count,), generator=generator)
        centres = noise(int(labels.max()) + 1, dim)
        return Problem(loss, {"z": views(centres[labels])}, {"temperature": tau}, labels)
    samples = noise(count // 2, dim)
    return Problem(loss, {"z": torch.cat([views(samples), views(samples)])}, {"temperature": tau})


def definition(
    given: Problem,
    upstream: Tensor | None = None,
    *,
    normalize: bool = True,
    plain: bool = False,
    engine: Engine = ORACLE,
) -> Wanted:
    """Losses and gradients in float64.

    Args:
        given: The problem; nothing in it is changed.
        upstream: (A,) gradient of each loss; None for ones.
        normalize: Scale rows to unit length.
        engine: Rounds unit rows: where one lies midway between two numbers of the dtype, which are
            far apart beside the error of a loss, the last bit of float32 decides.
        plain: As the reference counts: unit rows are not rounded, and a positive's pull, 1 − P,
            comes about by subtraction, so that its error is in proportion to 1 and not to itself.
    """
    units, inverse = {}, {}
    for name, rows in given.rows.items():
        scaled = ORACLE.unit_rows(rows.detach())
        values = rows.detach()
        if normalize:
            values = scaled.values if plain else engine.unit_rows(values).values.to(rows.dtype)
        units[name] = values.double().clone().requires_grad_()
        inverse[name] = scaled.inverse_norm if normalize else None
    scalars = {
        name: value.detach().double().requires_grad_() for name, value in given.scalars.items()
    }
    scale = scalars["logit_scale"] if "logit_scale" in scalars else 1 / scalars["temperature"]
    products = _products(units, given.loss, plain)
    logits = [_retained(scale * product) for product, _, _ in products]
    losses = _losses(given.loss, logits, scalars.get("logit_bias"), given.labels)
    weights = torch.ones_like(losses) if upstream is None else upstream.double()
    (losses * weights).sum().backward()

    sums = {name: torch.zeros_like(unit[:, 0].detach()) for name, unit in units.items()}
    for logit, (_, row, column) in zip(logits, products, strict=True):
        sums[row] = sums[row] + _gradient(logit).abs().sum(1)
        sums[column] = sums[column] + _gradient(logit).abs().sum(0)
    top = max(float(total.max()) for total in sums.values())
    longest = max(float(unit.detach().norm(dim=1).max()) for unit in units.values())
    steepness = float(scale.detach())

    gradients, magnitudes, largest, slopes = {}, {}, {}, {}
    for name, unit in units.items():
        gradient, norm = _gradient(unit), inverse[name]
        factor = torch.full_like(sums[name], steepness * longest, dtype=torch.float64)
        if norm is not None:
            along = (gradient * unit.detach()).sum(1, keepdim=True)
            gradient = (gradient - unit.detach() * along) * norm[:, None]
            factor = steepness * norm
        gradients[name], slopes[name] = gradient, factor * weights.abs().max()
        magnitudes[name], largest[name] = factor * sums[name], factor * top
    everything = torch.stack([_gradient(logit).abs().sum() for logit in logits]).sum()
    of_scalars = {
        "temperature": (steepness * longest) ** 2,
        "logit_scale": longest**2,
        "logit_bias": 1.0,
    }
    for name, scalar in scalars.items():
        gradients[name] = _gradient(scalar)
        slopes[name] = of_scalars[name] * weights.abs().max()
        magnitudes[name] = largest[name] = everything * of_scalars[name]
    logit = steepness * longest**2
    return Wanted(losses.detach(), gradients, magnitudes, largest, slopes, logit)


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _retained(logits: Tensor) -> Tensor:
    logits.retain_grad()
    return logits


def _products(rows: dict[str, Tensor], loss: str, plain: bool) -> list[tuple[Tensor, str, str]]:
    """Inner products that a loss is a function of, and whose rows and columns they are.

    Those of positives come a second time where their pull is the difference of two terms, so that
    the size of each term is seen.
    """
    if "query" in rows:
        own = torch.diag((rows["query"] * rows["key"]).sum(1))
        found = [(rows["query"] @ rows["queue"].T, "query", "queue"), (own, "query", "key")]
        return [*found, (own.clone(), "query", "key")] if plain else found
    first, second = ("z", "z") if "z" in rows else ("image", "text")
    product = rows[first] @ rows[second].T
    twice = loss == "supcon" or (plain and loss in ("nt_xent", "clip_loss"))
    return [(product.clone(), first, second) for _ in range(2 if twice else 1)]


def _softmax_losses(others: Tensor, positive: Tensor, again: Tensor | None) -> Tensor:
    """−log of the positive's share, of which ``others`` (A, …) hold the rest.

    log(1 + exp(lse − s⁺)), which has a gradient without cancellation; with the positive ``again``:
    log(exp lse + exp s⁺) − s⁺.
    """
    rest = others.logsumexp(1)
    if again is None:
        return torch.logaddexp(rest - positive, torch.zeros_like(rest))
    return torch.logaddexp(rest, positive) - again


def _losses(loss: str, logits: list[Tensor], bias: Tensor | None, labels: Tensor | None) -> Tensor:
    """One loss for each row; 0 for a row of supcon without a positive."""
    s, again = logits[0], logits[-1]
    count = len(s)
    index = torch.arange(count, device=s.device)
    itself = index[:, None] == index[None, :]
    if loss == "clip_loss":
        sides = [
            _softmax_losses(
                side.masked_fill(itself, -torch.inf),
                side.diagonal(),
                again.diagonal() if len(logits) > 1 else None,
            )
            for side in (s, s.T)
        ]
        return (sides[0] + sides[1]) / 2
    if loss == "siglip_loss":
        assert bias is not None
        signs = 1 - 2 * itself.double()
        return torch.logaddexp(signs * (s + bias), torch.zeros_like(s)).sum(1)
    if loss == "info_nce_queue":
        own = logits[1].diagonal()
        return _softmax_losses(s, own, again.diagonal() if len(logits) > 2 else None)
    if loss == "supcon":
        assert labels is not None
        positive = (labels[:, None] == labels[None, :]) & ~itself
        has = positive.any(1)
        mean = torch.where(positive, again, 0).sum(1) / positive.sum(1).clamp(min=1)
        # A row alone counts itself, so that its logarithm is finite, and is then left out.
        counts = ~itself | ~has[:, None]
        return torch.where(has, s.masked_fill(~counts, -torch.inf).logsumexp(1) - mean, 0)
    partner = (index + count // 2) % count
    others = s.masked_fill(itself | (index[None, :] == partner[:, None]), -torch.inf)
    if loss == "dcl":
        return others.logsumexp(1) - s[index, partner]
    return _softmax_losses(
        others, s[index, partner], again[index, partner] if len(logits) > 1 else None
    )
