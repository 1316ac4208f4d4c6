"""All losses against their definitions in float64, on a grid where every pair of values meets."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

from contracts.contrastive_checks import ENGINES, available, check
from contracts.contrastive_losses import LOSSES, problem

GRID: dict[str, tuple[Any, ...]] = {
    "loss": LOSSES,
    "count": (2, 50, 70, 254, 1000),
    "dim": (1, 24, 48, 96, 128, 200, 256, 384, 512, 768),
    "temperature": (0.5, 0.2, 0.07, 0.02, 0.005),
    "dtype": (torch.float32, torch.float16, torch.bfloat16),
    "reduction": ("none", "mean", "sum"),
    "numbers": (False, True),
    "normalize": (True, False),
}


def covering(values: dict[str, tuple[Any, ...]], seed: int = 0) -> list[dict[str, Any]]:
    """Cases in which every two values of different parameters meet at least once.

    Greedy: of random cases, each holding one pair that is still missing, the one that adds most.
    """
    generator = random.Random(seed)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(values, 2)
        for i in range(len(values[a]))
        for j in range(len(values[b]))
    }
    cases = []
    while missing:
        tries = []
        for first, second in generator.sample(sorted(missing), min(40, len(missing))):
            case = {name: generator.randrange(len(choices)) for name, choices in values.items()}
            case.update([first, second])
            gain = set(itertools.combinations(case.items(), 2)) & missing
            tries.append((len(gain), sorted(case.items()), gain))
        _, best, gain = max(tries, key=lambda one: one[:2])
        missing -= gain
        cases.append({name: values[name][index] for name, index in best})
    return cases


def cases() -> list[Any]:
    """Each engine's cases; Triton's interpreter walks programs one by one, so it gets few rows."""
    found = []
    for engine in ENGINES:
        grid = dict(GRID)
        if engine == "cpu-triton":
            grid["count"] = tuple(count for count in GRID["count"] if count <= 300)
        for case in covering(grid, seed=ENGINES.index(engine)):
            if engine == "cpu-triton" and case["dim"] > 256:
                case["count"] = min(case["count"], 140)  # still more than one tile
            words = [str(value).removeprefix("torch.") for value in case.values()]
            found.append(pytest.param(engine, case, id="-".join([engine, *words])))
    return found


def test_every_pair_of_values_meets() -> None:
    found = covering(GRID)
    for (a, first), (b, second) in itertools.combinations(GRID.items(), 2):
        met = {(case[a], case[b]) for case in found}
        assert met == set(itertools.product(first, second))


@pytest.mark.parametrize(("engine", "case"), cases())
def test_matches_definition(engine: str, case: dict[str, Any]) -> None:
    device, implementation = available(engine)
    # One sample alone has nothing to be contrasted with once the positive is left out.
    count = 4 if case["loss"] == "dcl" and case["count"] == 2 else case["count"]
    given = problem(case["loss"], count, case["dim"], case["temperature"], case["dtype"])
    check(
        given.to(device),
        implementation=implementation,
        reduction=case["reduction"],
        numbers=case["numbers"],
        normalize=case["normalize"],
    )


@pytest.mark.parametrize(
    ("loss", "dim", "temperature", "dtype"),
    [
        ("nt_xent", 200, 0.02, torch.bfloat16),
        ("dcl", 24, 0.2, torch.float16),
        ("supcon", 48, 0.07, torch.float32),
        ("clip_loss", 96, 0.005, torch.float32),
        ("siglip_loss", 128, 0.02, torch.bfloat16),
        ("info_nce_queue", 384, 0.005, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_many_rows(
    engine: str, loss: str, dim: int, temperature: float, dtype: torch.dtype
) -> None:
    if engine == "cpu-triton":
        pytest.skip("minutes in Triton's interpreter")
    device, implementation = available(engine)
    given = problem(loss, 4098, dim, temperature, dtype).to(device)
    check(given, implementation=implementation, reduction="mean")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_float64_is_computed_in_float64(loss: str, normalize: bool, implementation: str) -> None:
    given = problem(loss, 70, 24, 0.05, torch.float64)
    check(given, implementation=implementation, normalize=normalize)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reference_matches_definition(loss: str, temperature: float, reduction: str) -> None:
    check(problem(loss, 50, 24, temperature), implementation="reference", reduction=reduction)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("engine", ENGINES)
def test_skipping_blocks_changes_nothing_that_float32_can_hold(loss: str, engine: str) -> None:
    if loss in ("siglip_loss", "info_nce_queue"):
        pytest.skip("these have no backward pass over logits")
    device, implementation = available(engine)
    # Positives are so near, at such a temperature, that almost every block vanishes.
    given = problem(loss, 300, 24, 0.01, spread=0.1).to(device)
    check(given, implementation=implementation, skip_tiles=True)
    check(given, implementation=implementation, skip_tiles=False)


def test_the_same_tests_run_on_the_card() -> None:
    available("cuda-triton")  # skips, once for all of them, where there is none
    assert "cuda-triton" in ENGINES
