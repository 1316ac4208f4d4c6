"""Processes that share a global batch against one process that has all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from contracts.contrastive_checks import agrees, by_definition, call, shares, upstream_of
from contracts.contrastive_losses import LOSSES, Problem
from contracts.contrastive_process import (
    COUNT,
    Encoder,
    cases,
    global_batch,
    losses_of,
    one_share,
    row_count,
)

Results = list[dict[Any, Any]]


@pytest.fixture(scope="module", params=[2, 4])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each process left; one spawn for all tests, since a process takes seconds to start."""
    folder: Path = tmp_path_factory.mktemp(f"world{request.param}")
    mp.spawn(one_share, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def together(parts: list[Tensor], loss: str) -> Tensor:
    """Rows of all processes in the order of the global batch."""
    if loss not in ("nt_xent", "dcl"):
        return torch.cat(parts)
    return torch.cat([part.chunk(2)[view] for view in range(2) for part in parts])


def expected_cases(results: Results) -> list[tuple[str, str, str]]:
    found = [key for key in results[0] if len(key) == 3 and key != "halves"]
    assert found == cases(len(results))
    return found


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_equal_one_process(results: Results, loss: str) -> None:
    world = len(results)
    given = global_batch(loss)
    count = row_count(given)
    for case in expected_cases(results):
        if case[0] != loss:
            continue
        _, implementation, reduction = case
        losses = [result[case][0] for result in results]
        of_each = [result[case][1] for result in results]
        if reduction == "mean":
            # DDP averages over processes what the processes return.
            upstream, averaged = shares(given, count), 1 / world
        else:
            upstream = upstream_of(count) if reduction == "none" else torch.ones(count)
            averaged = 1.0
        wanted = by_definition(given, upstream, implementation=implementation)
        rows = {name: [each[name] for each in of_each] for name in of_each[0]}
        found = {
            name: averaged * (together(parts, loss) if name in given.rows else sum(parts))
            for name, parts in rows.items()
        }
        if reduction == "none":
            total = together(losses, loss)
        else:
            total = averaged * torch.stack(losses).sum()
            wanted = replace(wanted, losses=(wanted.losses * upstream).sum())
        agrees(given, total, found, wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_model_under_ddp_gets_the_gradients_of_one_process(results: Results, loss: str) -> None:
    given = global_batch(loss)
    model = Encoder(given)
    losses_of(model, given, implementation="chunked").backward()
    for result in results:
        found = result[loss, "model"]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(
                found[name], parameter.grad, rtol=1e-4, atol=1e-5 * scale, msg=name
            )


def test_a_group_of_some_processes(results: Results) -> None:
    """Processes 0 and 1 share one batch, 2 and 3 another."""
    if len(results) != 4:
        pytest.skip("two groups of two need four processes")
    given = global_batch("clip_loss")
    for half in range(2):
        own = slice(half * COUNT // 2, (half + 1) * COUNT // 2)
        rows = {name: each[own] for name, each in given.rows.items()}
        alone = call(Problem("clip_loss", rows, given.scalars), implementation="chunked")
        pair = [results[2 * half + index]["halves"] for index in range(2)]
        torch.testing.assert_close(torch.stack(pair).mean(), alone)


def test_the_check_sees_a_gradient_counted_twice() -> None:
    """The comparison above has to fail where it should."""
    given = global_batch("nt_xent")
    wanted = by_definition(given, None, implementation="chunked")
    losses = wanted.losses.float()
    with pytest.raises(AssertionError, match="of the error"):
        agrees(given, losses, {"z": 2 * wanted.gradients["z"].float()}, wanted)
    with pytest.raises(AssertionError, match="of the error"):
        agrees(given, losses * 1.001, {}, wanted)
