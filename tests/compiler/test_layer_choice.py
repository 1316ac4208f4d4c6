"""The cheapest layers to keep in float, against every set there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop
from edgessl.compiler.layer_choice import cheapest_cover, cheapest_set
from edgessl.compiler.layer_cost import counted_costs
from edgessl.compiler.layer_search import expected_removals
from edgessl.compiler.layer_work import count_layers
from edgessl.compiler.sensitivity import LayerTrials
from edgessl.compiler.switches import SwitchedGraph

Numbers = NDArray[np.float64]
# A set may cost this much more than the best: a small price on the number of layers.
SLACK = 0.01


def subsets(count: int, most: int) -> Iterator[tuple[int, ...]]:
    for size in range(min(count, most) + 1):
        yield from itertools.combinations(range(count), size)


def total(values: Numbers, chosen: tuple[int, ...]) -> float:
    return float(sum(values[k] for k in chosen))


@pytest.mark.parametrize("seed", range(40))
def test_a_cover_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, most = int(rng.integers(1, 11)), int(rng.integers(1, 7))
    removals = rng.gamma(0.5, 1.0, count)
    costs = rng.gamma(0.5, 1.0, count) * rng.choice([1.0, 1.0, 1.0, 0.0, -1.0], count)
    needed = float(rng.random() * removals.sum())
    enough = [s for s in subsets(count, most) if total(removals, s) >= needed]
    found = cheapest_cover(list(removals), list(costs), needed=needed, most=most)
    if not enough:
        assert found is None
        return
    assert found is not None
    assert len(found) <= most
    assert total(removals, found) >= needed * (1 - 1e-9)
    best = min(total(costs, s) for s in enough)
    assert total(costs, found) <= best + SLACK * np.abs(costs).mean()


def test_a_dear_layer_is_passed_over_for_two_cheap_ones() -> None:
    assert cheapest_cover([10.0, 6.0, 5.0], [9.0, 1.0, 1.0], needed=10.0, most=3) == (1, 2)
    assert cheapest_cover([10.0, 6.0, 5.0], [9.0, 1.0, 1.0], needed=10.0, most=1) == (0,)
    assert cheapest_cover([10.0, 6.0, 5.0], [np.inf, 1.0, 1.0], needed=12.0, most=3) is None


def test_equal_costs_take_the_fewest_layers() -> None:
    assert cheapest_cover([1.0, 1.0, 2.0], [0.0, 0.0, 0.0], needed=2.0, most=3) == (2,)


def test_what_turns_out_unnecessary_goes_back() -> None:
    removals, costs = [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]

    def error(kept: frozenset[int]) -> float:
        """Layer 2 hides the others: without it half of their error is gone too."""
        return 3.0 - len(kept) if 2 not in kept else 0.2 * (2 - len(kept - {2}))

    assert cheapest_set(error, removals, costs, allowed=0.5, most=3) == (2,)


def test_nothing_is_chosen_where_nothing_is_enough() -> None:
    assert cheapest_set(lambda kept: 1.0, [1.0, 1.0], [1.0, 1.0], allowed=0.5, most=2) is None


def test_beside_the_others_a_layer_may_remove_more() -> None:
    assert expected_removals([1.0, 2.0, 3.0], {1: 4.0, 2: 9.0}, 10.0) == (1.0, 6.0, 3.0)


@pytest.mark.parametrize("share", [0.6, 0.3, 0.1])
def test_on_a_graph_no_set_that_leaves_so_little_is_cheaper(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("choice")
    workshop = Workshop.of(write_cnn(folder / "cnn.onnx"), {"images": cnn_inputs(12)}, folder)
    quantized = workshop.quantize("u8s8", per_channel=False)
    graph = SwitchedGraph(quantized.with_name("float.onnx"), quantized, threads=1)
    trials = LayerTrials(graph, workshop.samples, count=4)
    layers = range(len(graph.layers))
    assert 4 <= len(layers) <= 10

    def error(kept: frozenset[int]) -> float:
        return trials.loss([k for k in layers if k not in kept]).noise

    alone = [trials.loss([k]).noise for k in layers]
    whole = error(frozenset())
    removals = expected_removals(alone, {k: error(frozenset({k})) for k in layers}, whole)
    work = count_layers(graph.float_graph, [name for name, _ in graph.layers])
    costs = np.array(counted_costs(work, why="a test").costs)
    allowed, most = share * whole, 4
    fitting = [s for s in subsets(len(layers), most) if error(frozenset(s)) <= allowed]
    found = cheapest_set(error, removals, list(costs), allowed=allowed, most=most)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert error(frozenset(found)) <= allowed
    assert total(costs, found) <= min(total(costs, s) for s in fitting) + SLACK * costs.mean()
