"""Who takes part in the GPU benchmark: edgessl, plain PyTorch, and packages that may be missing.

Each rival is one function of a case's inputs that gives the mean loss, scaling to unit length
included. A rival that cannot be had, or does not fit, is a row with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from cases import Case
from torch import Tensor

__all__ = ["OURS", "PACKAGES", "Absent", "Rival", "rivals"]

OURS = "edgessl triton"
PACKAGES = ("lightly", "open_clip_torch", "inf-cl", "siglip-kernel", "triton", "torch")
"""Whose versions are written down."""

Loss = Callable[..., Tensor]


class Absent(Exception):
    """This rival cannot be had here; the message says why."""


@dataclass(frozen=True)
class Rival:
    """One way to compute a loss.

    Attributes:
        name: In the results.
        make: The function for a case; raises `Absent`.
        remark: What a reader of the figures has to know.
        ours: Part of edgessl.
        capturable: Its passes are captured in a CUDA graph too.
        checked: Its errors are taken at the small sizes too.
    """

    name: str
    make: Callable[[Case], Loss]
    remark: str = ""
    ours: bool = False
    capturable: bool = False
    checked: bool = True


def rivals(case: Case, *, small: bool) -> Iterator[Rival]:
    """All rivals of a case; ``small`` compiles without a code generator."""
    for implementation in ("triton", "chunked"):
        yield Rival(
            f"edgessl {implementation}",
            lambda case, i=implementation: _edgessl(case, {"implementation": i}),
            ours=True,
            capturable=implementation == "triton",
        )
    if case.temperature < 0.05 and case.loss == "nt_xent":
        yield Rival(
            "edgessl triton, all tiles",
            lambda case: _edgessl(case, {"implementation": "triton", "skip_tiles": False}),
            ours=True,
        )
    if case.loss == "clip":
        yield Rival(
            "edgessl triton, scale a number",
            _edgessl_with_number,
            "a scale that is not learnt is known to be at most 74: exponentials are shared",
            ours=True,
        )
    eager = _EAGER[case.loss]
    yield Rival(
        "PyTorch float32",
        lambda case: _with_temperature(eager, case),
        "whole matrix; float32 products may run in TF32, in which bfloat16 rows are exact",
    )
    yield Rival(
        "PyTorch bfloat16", lambda case: _autocast(eager, case), "autocast, so bfloat16 logits"
    )
    backend = "aot_eager" if small else "inductor"
    yield Rival(
        "torch.compile float32",
        lambda case: torch.compile(
            _with_temperature(eager, case), dynamic=False, fullgraph=True, backend=backend
        ),
        f"of PyTorch float32, backend {backend}",
        checked=False,  # each size is compiled anew, and its errors are those of PyTorch float32
    )
    yield from _PACKAGED[case.loss]


def _edgessl(case: Case, keywords: dict[str, Any]) -> Loss:
    kernels = import_module("edgessl.kernels")
    name = {"nt_xent": "nt_xent", "clip": "clip_loss", "siglip": "siglip_loss"}[case.loss]
    loss = getattr(kernels, name, None)
    if loss is None:
        raise Absent(f"edgessl.kernels has no {name}")
    if case.loss == "nt_xent":
        return lambda z: loss(z, case.temperature, **keywords)
    return lambda *inputs: loss(*inputs, **keywords)


def _edgessl_with_number(case: Case) -> Loss:
    loss = _edgessl(case, {"implementation": "triton"})
    # The scale keeps a gradient, as all rivals give one.
    return lambda image, text, scale: loss(image, text, 1 / case.temperature) + 0 * scale


def _with_temperature(loss: Loss, case: Case) -> Loss:
    if case.loss == "nt_xent":
        return lambda z: loss(z, case.temperature)
    return loss


def _autocast(loss: Loss, case: Case) -> Loss:
    inner = _with_temperature(loss, case)

    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            return inner(*inputs)

    return run


def _eager_nt_xent(z: Tensor, temperature: float) -> Tensor:
    rows = F.normalize(z.float(), dim=1)
    logits = rows @ rows.T / temperature
    count = len(rows)
    itself = torch.eye(count, dtype=torch.bool, device=z.device)
    positive = (torch.arange(count, device=z.device) + count // 2) % count
    return F.cross_entropy(logits.masked_fill(itself, float("-inf")), positive)


def _eager_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = scale * (F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T)
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _eager_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * (F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T) + bias
    signs = 2 * torch.eye(len(image), device=image.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


_EAGER: dict[str, Loss] = {
    "nt_xent": _eager_nt_xent,
    "clip": _eager_clip,
    "siglip": _eager_siglip,
}


def _package(name: str, distribution: str) -> Any:
    try:
        version(distribution)
    except PackageNotFoundError:
        raise Absent(f"{distribution} is not installed; pip install {distribution}") from None
    try:
        return import_module(name)
    # A package that is there but does not work here is a row with its own words.
    except Exception as error:
        raise Absent(f"{distribution} cannot be imported: {error}") from error


def _unit(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """As CLIP models do it: scaled in float32, then in the dtype of the towers."""
    return F.normalize(rows.float(), dim=1).to(dtype)


def _lightly(dtype: torch.dtype) -> Callable[[Case], Loss]:
    def make(case: Case) -> Loss:
        loss = _package("lightly.loss", "lightly").NTXentLoss(temperature=case.temperature)
        return lambda z: loss(*z.to(dtype).chunk(2))

    return make


def _open_clip(name: str, dtype: torch.dtype) -> Callable[[Case], Loss]:
    def make(case: Case) -> Loss:
        loss = getattr(_package("open_clip.loss", "open_clip_torch"), name)()
        return lambda image, text, *rest: loss(
            _unit(image, dtype), _unit(text, dtype), *(number.to(dtype) for number in rest)
        )

    return make


def _chunked_options() -> Any:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Absent(f"torch {torch.__version__} has no LinearCrossEntropyOptions")
    return torch.nn.LinearCrossEntropyOptions()


def _linear_clip(case: Case) -> Loss:
    """Texts are the weights of a classifier of images, and images of texts."""
    options = _chunked_options()

    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        images, texts = (_unit(rows, image.dtype) for rows in (image, text))
        own = torch.arange(len(image), device=image.device)
        one, other = (
            F.linear_cross_entropy((scale * a).to(a.dtype), b, own, options=options)
            for a, b in ((images, texts), (texts, images))
        )
        return (one + other) / 2

    return loss


def _linear_nt_xent(case: Case) -> Loss:
    """All rows are classes. A row's own logit s, which does not count, is taken out afterwards.

    With c = log Σₖ exp(sₖ) − s, the log-sum of the others is s + log(exp(c) − 1).
    """
    options = _chunked_options()

    def cross_entropies(rows: Tensor) -> Tensor:
        itself = torch.arange(len(rows), device=rows.device)
        scaled = (rows / case.temperature).to(rows.dtype)
        return F.linear_cross_entropy(scaled, rows, itself, reduction="none", options=options)

    return _without_itself(case, cross_entropies)


def _without_itself(case: Case, cross_entropies: Callable[[Tensor], Tensor]) -> Loss:
    def loss(z: Tensor) -> Tensor:
        rows = _unit(z, z.dtype)
        wide = rows.float()
        own = (wide * wide).sum(1) / case.temperature
        positive = (wide * wide.roll(len(z) // 2, 0)).sum(1) / case.temperature
        others = own + torch.log(torch.expm1(cross_entropies(rows).float()))
        return (others - positive).mean()

    return loss


def _inf_cl() -> tuple[Callable[..., Tensor], Callable[[int], int]]:
    loss = _package("inf_cl", "inf-cl").cal_flash_loss
    # It cuts rows into heads, whose width must divide D.
    return loss, lambda dimensions: math.gcd(dimensions, 256)


def _inf_cl_clip(case: Case) -> Loss:
    flash, head = _inf_cl()

    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        images, texts = (_unit(rows, image.dtype) for rows in (image, text))
        width = head(case.dimensions)
        one = flash(images, texts, scale=scale, head_dim=width)
        return (one + flash(texts, images, scale=scale, head_dim=width)).mean() / 2

    return loss


def _inf_cl_nt_xent(case: Case) -> Loss:
    flash, head = _inf_cl()
    width = head(case.dimensions)
    return _without_itself(
        case, lambda rows: flash(rows, rows, scale=1 / case.temperature, head_dim=width)
    )


def _siglip_kernel(case: Case) -> Loss:
    loss = _package("siglip_kernel", "siglip-kernel").fused_siglip_loss

    def run(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        images, texts = (_unit(rows, image.dtype) for rows in (image, text))
        return loss(images, texts, scale.log(), bias)

    return run


_AS_GIVEN = "logits in the rows' dtype, as the package computes them"
_WIDENED = "rows converted to float32 first"
_TAKEN_OUT = "a row's own logit is taken out afterwards, which loses digits for small τ"
_PACKAGED: dict[str, tuple[Rival, ...]] = {
    "nt_xent": (
        Rival("lightly bfloat16", _lightly(torch.bfloat16), _AS_GIVEN),
        Rival("lightly float32", _lightly(torch.float32), _WIDENED),
        Rival("linear_cross_entropy", _linear_nt_xent, f"chunked; {_TAKEN_OUT}"),
        Rival("Inf-CL", _inf_cl_nt_xent, f"cal_flash_loss; {_TAKEN_OUT}"),
    ),
    "clip": (
        Rival("open_clip bfloat16", _open_clip("ClipLoss", torch.bfloat16), _AS_GIVEN),
        Rival("open_clip float32", _open_clip("ClipLoss", torch.float32), _WIDENED),
        Rival("linear_cross_entropy", _linear_clip, "chunked; once for each direction"),
        Rival("Inf-CL", _inf_cl_clip, "cal_flash_loss, once for each direction"),
    ),
    "siglip": (
        Rival("open_clip bfloat16", _open_clip("SigLipLoss", torch.bfloat16), _AS_GIVEN),
        Rival("open_clip float32", _open_clip("SigLipLoss", torch.float32), _WIDENED),
        Rival("siglip-kernel", _siglip_kernel, "fused_siglip_loss, backend auto"),
    ),
}
