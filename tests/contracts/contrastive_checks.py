"""Run a loss and compare it with its definition, within bounds that follow from the dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from contracts.contrastive_losses import Problem, Wanted, definition
from edgessl import kernels
from edgessl.kernels.engine import engine

__all__ = [
    "ENGINES",
    "EPS",
    "agrees",
    "available",
    "by_definition",
    "call",
    "check",
    "gradients",
    "shares",
    "upstream_of",
]

ENGINES = (
    "cpu-chunked",
    "cpu-triton",
    *(("cuda-chunked", "cuda-triton") if torch.cuda.is_available() else ()),
)
"""Where and by what a loss is computed; on a CPU Triton's kernels run in its interpreter."""

EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
}

# A logit is a sum of up to 1024 products of unit rows in float32, times the scale: at most a few
# float32 eps of the scale. Triton's "tf32x3" leaves out the product of the two low parts, 2⁻²².
_LOGIT_ERROR = {torch.float64: 2.0**-48, torch.float32: 2.0**-21}


def available(name: str) -> tuple[str, str]:
    """Device and implementation of one of `ENGINES`; skips the test where this machine has none."""
    device, implementation = name.split("-")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU on this machine")
    if implementation == "triton":
        pytest.importorskip("triton")
        from triton import knobs

        if device == "cpu" and not knobs.runtime.interpret:
            pytest.skip("Triton's interpreter is off (TRITON_INTERPRET=0): kernels run on the GPU")
    return device, implementation


def call(given: Problem, *, numbers: bool = False, **keywords: Any) -> Tensor:
    """The loss as the function of `edgessl.kernels` computes it.

    Args:
        given: The problem.
        numbers: Pass temperature, scale and bias as numbers, which are known without a look at the
            device, so that exponentials may do without the largest logit.
        keywords: Of the function.
    """
    scalars = [float(value.detach()) if numbers else value for value in given.scalars.values()]
    labels = [] if given.labels is None else [given.labels]
    result: Tensor = getattr(kernels, given.loss)(
        *given.rows.values(), *labels, *scalars, **keywords
    )
    return result


def upstream_of(count: int, device: str = "cpu") -> Tensor:
    """Upstream gradients of both signs and different sizes."""
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, generator=generator) - 0.3).to(device)


def gradients(
    loss: Tensor, given: Problem, upstream: Tensor | None = None, *, numbers: bool = False
) -> dict[str, Tensor]:
    """Gradients by argument, through `torch.autograd.grad` (``given`` is learnable)."""
    leaves = {
        name: leaf for name, leaf in given.leaves.items() if name in given.rows or not numbers
    }
    found = torch.autograd.grad(loss, list(leaves.values()), upstream)
    return dict(zip(leaves, found, strict=True))


def shares(given: Problem, count: int) -> Tensor:
    """(count,) what each row's loss contributes to the mean: of supcon only rows with positives."""
    if given.labels is None:
        return torch.full((count,), 1 / count, device=next(iter(given.rows.values())).device)
    same = (given.labels[:, None] == given.labels[None, :]).sum(1)
    return (same > 1) / (same > 1).sum().clamp(min=1)


def by_definition(
    given: Problem, upstream: Tensor | None, *, implementation: str, normalize: bool = True
) -> Wanted:
    """What an implementation should give, on unit rows that it rounds itself."""
    if implementation == "reference":
        return definition(given, upstream, normalize=normalize, plain=True)
    return definition(given, upstream, normalize=normalize, engine=engine(implementation))


def check(
    given: Problem,
    *,
    reduction: str = "none",
    numbers: bool = False,
    normalize: bool = True,
    **keywords: Any,
) -> None:
    """Losses and all gradients against the definition.

    With ``reduction="none"`` each row has an upstream gradient of its own (`upstream_of`), else
    the reduced loss has one of −0.6.
    """
    learnable = given.learnable()
    loss = call(learnable, reduction=reduction, numbers=numbers, normalize=normalize, **keywords)
    count = len(loss) if reduction == "none" else len(next(iter(given.rows.values())))
    device = str(loss.device)
    share = shares(given, count) if reduction == "mean" else torch.ones(count, device=device)
    into = torch.tensor(-0.6, device=device) if reduction != "none" else upstream_of(count, device)
    wanted = by_definition(
        given, share * into, normalize=normalize, implementation=keywords["implementation"]
    )
    found = gradients(loss, learnable, into.to(loss.dtype), numbers=numbers)
    losses = loss.detach()
    if reduction != "none":
        wanted = replace(wanted, losses=(share * wanted.losses).sum())
    agrees(given, losses, found, wanted)


def agrees(
    given: Problem,
    losses: Tensor,
    found: dict[str, Tensor],
    wanted: Wanted,
) -> None:
    """Compare, with bounds that follow from what is rounded and how often.

    - Losses are float32 whatever the rows are: the error of a logit, and a few eps of the loss,
      which is a sum over columns.
    - Gradients of rows are Σ W·c with W rounded to the rows' dtype (half an eps of each), c exact,
      and the result rounded once more; W carries the error of its logit and its sum. So one eps of
      Σ|W|·|c|, in the norm of a row: not of the gradient, of which most may cancel.
    - In 16 bits, blocks may be left out that bring a row less than eps of the largest pull, and
      numbers of float16 end at 2⁻²⁴.
    - Gradients of scalars are sums of all those, before the result is rounded.
    """
    dtype = next(iter(given.rows.values())).dtype
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    assert losses.dtype == precision
    logit = _LOGIT_ERROR[precision] * wanted.logit
    bound = logit + 8 * EPS[precision] * wanted.losses.abs()
    if given.loss == "siglip_loss":  # each of its terms brings a logit's error
        bound = bound + logit * wanted.losses.abs()
    _within((losses.double() - wanted.losses).abs(), bound, "losses")
    for name, gradient in found.items():
        difference = (gradient.double() - wanted.gradients[name]).abs()
        bound = (EPS[dtype] + logit) * wanted.magnitudes[name]
        if dtype in (torch.float16, torch.bfloat16):
            bound = bound + EPS[dtype] * wanted.largest[name]
        # Exponentials end at 2⁻¹²⁶. Weights in float16 are scaled by 2¹³ before they are rounded,
        # and end at 2⁻³⁷: each is off by half of that, in each column of a row, or in all pairs.
        columns = max(len(rows) for rows in given.rows.values())
        weights = columns if name in given.rows else columns**2
        smallest = 2.0**-38 * weights if dtype == torch.float16 else 2.0**-110
        bound = bound + smallest * wanted.slopes[name]
        if name in given.rows:
            assert gradient.dtype == dtype
            difference = difference.norm(dim=1)
            if dtype == torch.float16:
                smallest = 2.0**-24 * gradient.shape[1] ** 0.5
                bound = torch.where(bound > 0, bound + smallest, bound)
        _within(difference, bound, name)


def _within(difference: Tensor, bound: Tensor, what: str) -> None:
    excess = torch.where(bound > 0, difference / bound, torch.where(difference > 0, torch.inf, 0))
    worst = float(excess.max())
    assert worst <= 1, f"{what}: {worst:.3g} of the error that is allowed"
