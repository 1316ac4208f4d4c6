"""The replay computes what the file computes, and writes what the quantizer wrote."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from contracts.integer_graphs import (
    SCHEMES,
    GraphPair,
    export_timm,
    make_pair,
    run_plainly,
    small_network,
    timm_model,
)
from edgessl.distillation.integers import IntegerBackbone
from edgessl.distillation.integers.ranges import RangeRule

SIZE = {"conv": 32, "transformer": 16}
CASES = [(kind, scheme) for kind in SIZE for scheme in SCHEMES]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], GraphPair]:
    folder = tmp_path_factory.mktemp("integers")
    made = {}
    for kind, size in SIZE.items():
        model = export_timm(small_network(kind), folder / f"{kind}.onnx", size=size)
        for scheme in SCHEMES:
            made[kind, scheme] = make_pair(model, scheme, folder / f"{kind}-{scheme}", size=size)
    return made


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def pair(request: pytest.FixtureRequest, pairs: dict[tuple[str, str], GraphPair]) -> GraphPair:
    return pairs[request.param]


def least_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def embed(module: IntegerBackbone, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        result: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return result


def train(module: IntegerBackbone, images: torch.Tensor, steps: int = 4) -> list[float]:
    """Pull the embeddings towards other ones."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        target = module(images)
    target = target + 0.3 * torch.randn(target.shape, generator=generator) * target.std()
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(module(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_untrained_it_writes_the_quantizers_file(pair: GraphPair, tmp_path: Path) -> None:
    IntegerBackbone.from_graph(pair.float_model, pair.model).write(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == pair.model.read_bytes()


def test_untrained_learned_ranges_write_the_same(pair: GraphPair, tmp_path: Path) -> None:
    module = IntegerBackbone.from_graph(pair.float_model, pair.model, ranges="learned")
    module.write(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == pair.model.read_bytes()


def test_it_computes_what_onnxruntime_computes(pair: GraphPair) -> None:
    module = IntegerBackbone.from_graph(pair.float_model, pair.model).eval()
    expected = run_plainly(pair.model, pair.images)
    assert least_cosine(embed(module, pair.images), expected) > 0.99999
    # The graph is not one that rounding leaves alone.
    assert least_cosine(run_plainly(pair.float_model, pair.images), expected) < 0.999999


@pytest.mark.parametrize("rule", ["moving_average", "learned"])
def test_after_training_the_file_computes_what_the_module_does(
    pair: GraphPair, rule: RangeRule, tmp_path: Path
) -> None:
    module = IntegerBackbone.from_graph(pair.float_model, pair.model, ranges=rule)
    losses = train(module, pair.batch)
    assert losses[-1] < losses[0]
    module.eval().write(tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
    found = embed(module, pair.images)
    assert least_cosine(found, run_plainly(tmp_path / "out.onnx", pair.images)) > 0.9999
    assert least_cosine(found, run_plainly(pair.model, pair.images)) < 0.99999


def test_in_float_it_is_the_float_graph(pair: GraphPair) -> None:
    module = IntegerBackbone.from_graph(pair.float_model, pair.model).eval()
    with module.in_float():
        found = embed(module, pair.images)
    expected = run_plainly(pair.float_model, pair.images)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(embed(module, pair.images) - expected).max() > 1e-4 * np.abs(expected).max()


def test_gradients_reach_every_parameter(pair: GraphPair) -> None:
    module = IntegerBackbone.from_graph(pair.float_model, pair.model, ranges="learned")
    module(pair.batch).square().sum().backward()
    without = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_batch(pairs: dict[tuple[str, str], GraphPair], count: int) -> None:
    for kind in SIZE:
        pair = pairs[kind, "u8s8"]
        module = IntegerBackbone.from_graph(pair.float_model, pair.model).eval()
        some = embed(module, pair.images[:count])
        np.testing.assert_allclose(some, embed(module, pair.images)[:count], atol=2e-2)
        assert some.shape == (count, 24 if kind == "conv" else 32)


@pytest.mark.parametrize("rule", ["moving_average", "learned"])
def test_training_goes_on_bit_for_bit_from_a_state(
    pairs: dict[tuple[str, str], GraphPair], rule: RangeRule, tmp_path: Path
) -> None:
    pair = pairs["conv", "u8s8"]
    first = IntegerBackbone.from_graph(pair.float_model, pair.model, ranges=rule)
    train(first, pair.batch)
    other = IntegerBackbone.from_graph(pair.float_model, pair.model, ranges=rule)
    other.load_state_dict(first.state_dict())
    twin = copy.deepcopy(first)
    modules = {"first": first, "other": other, "twin": twin}
    assert len({tuple(train(module, pair.batch)) for module in modules.values()}) == 1
    for name, module in modules.items():
        module.write(tmp_path / f"{name}.onnx")
    assert len({(tmp_path / f"{name}.onnx").read_bytes() for name in modules}) == 1


def test_a_copy_trains_apart(pairs: dict[tuple[str, str], GraphPair]) -> None:
    pair = pairs["conv", "u8s8"]
    module = IntegerBackbone.from_graph(pair.float_model, pair.model)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    train(copy.deepcopy(module), pair.batch)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_timm_mobilenet(tmp_path: Path) -> None:
    model = export_timm(timm_model("mobilenetv3_small_050"), tmp_path / "model.onnx", size=32)
    pair = make_pair(model, "qnn", tmp_path / "qnn", size=32)
    module = IntegerBackbone.from_graph(pair.float_model, pair.model).eval()
    expected = run_plainly(pair.model, pair.images)
    assert least_cosine(embed(module, pair.images), expected.reshape(len(expected), -1)) > 0.99999
    module.write(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == pair.model.read_bytes()
