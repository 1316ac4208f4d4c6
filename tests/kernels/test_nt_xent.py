"""NT-Xent against its definition written row by row, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgessl.kernels import NTXentLoss, nt_xent


def definition(z: Tensor, temperature: float) -> Tensor:
    """The formula of the paper, row by row, in float64: (2N,)."""
    z = z.double()
    z = z / z.norm(dim=1, keepdim=True)
    count = len(z)
    losses = []
    for i in range(count):
        logits = z @ z[i] / temperature
        others = torch.cat([logits[:i], logits[i + 1 :]])
        losses.append(torch.logsumexp(others, 0) - logits[(i + count // 2) % count])
    return torch.stack(losses)


@pytest.mark.parametrize("rows", [2, 6, 34])
@pytest.mark.parametrize("temperature", [0.02, 0.2, 1.0])
def test_matches_definition(rows: int, temperature: float) -> None:
    z = torch.randn(rows, 7)
    given = nt_xent(z, temperature, reduction="none")
    torch.testing.assert_close(given.double(), definition(z, temperature), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nt_xent(z, temperature), given.mean())
    torch.testing.assert_close(nt_xent(z, temperature, reduction="sum"), given.sum())


def test_gradients_match_definition() -> None:
    z = torch.randn(10, 5, requires_grad=True)
    (given,) = torch.autograd.grad(nt_xent(z, 0.3), z)
    (wanted,) = torch.autograd.grad(definition(z, 0.3).mean(), z)
    torch.testing.assert_close(given, wanted.float(), rtol=1e-4, atol=1e-6)


def test_temperature_gets_a_gradient() -> None:
    z, temperature = torch.randn(8, 4), torch.tensor(0.5, requires_grad=True)
    nt_xent(z, temperature).backward()
    step = 1e-4
    slope = (definition(z, 0.5 + step).mean() - definition(z, 0.5 - step).mean()) / (2 * step)
    assert temperature.grad is not None
    torch.testing.assert_close(temperature.grad.double(), slope, rtol=1e-3, atol=1e-5)


def test_low_precision_accumulates_in_float32() -> None:
    z = torch.randn(64, 32)
    wanted = definition(z.bfloat16(), 0.1).mean()
    given = nt_xent(z.bfloat16(), 0.1)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), wanted, rtol=1e-4, atol=1e-4)


def test_normalize_false_takes_rows_as_they_are() -> None:
    z = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    torch.testing.assert_close(nt_xent(z, 0.2, normalize=False), nt_xent(5 * z, 0.2))


def test_module_keeps_its_settings() -> None:
    z = torch.randn(8, 4)
    torch.testing.assert_close(NTXentLoss(0.7)(z), nt_xent(z, 0.7))


def test_agrees_with_lightly() -> None:
    """Another implementation, of other people."""
    from lightly.loss import NTXentLoss as LightlyLoss

    first, second = torch.randn(16, 9), torch.randn(16, 9)
    wanted = LightlyLoss(temperature=0.3)(first, second)
    torch.testing.assert_close(nt_xent(torch.cat([first, second]), 0.3), wanted)
