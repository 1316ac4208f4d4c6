"""The losses as operators of PyTorch: opcheck, compiled graphs, autocast, CUDA graphs, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from contracts.contrastive_checks import ENGINES, available, call, gradients
from contracts.contrastive_losses import LOSSES, Problem, problem
from edgessl import kernels

each_loss = pytest.mark.parametrize("loss", LOSSES)
each_engine = pytest.mark.parametrize("engine", ENGINES)


class Calls(TorchDispatchMode):
    """Keeps the calls of this package's operators, with copies of what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "edgessl":
            copies = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), args)
            self.found[str(func)] = (func, copies)
        return func(*args, **(kwargs or {}))


def wants_gradients(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda t: t.requires_grad_() if t.is_floating_point() else t, args
    )


@each_loss
@each_engine
@pytest.mark.parametrize(
    ("reduction", "normalize", "dtype"),
    [
        ("mean", True, torch.float32),
        ("none", True, torch.bfloat16),
        ("mean", False, torch.bfloat16),
        ("none", False, torch.float32),
    ],
)
# opcheck itself looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck(
    loss: str, engine: str, reduction: str, normalize: bool, dtype: torch.dtype
) -> None:
    device, implementation = available(engine)
    learnable = problem(loss, 12, 6, 0.2, dtype).to(device).learnable()
    with Calls() as calls:
        call(
            learnable, implementation=implementation, reduction=reduction, normalize=normalize
        ).sum().backward()
    assert len(calls.found) == 2
    assert sum("backward" in name for name in calls.found) == 1
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for name, (operator, args) in calls.found.items():
        torch.library.opcheck(operator, args, test_utils=checks)
        if "backward" not in name:
            which = (*checks, "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
            rows = learnable.rows.keys() - {"queue"}
            assert rows
            torch.library.opcheck(operator, wants_gradients(args), test_utils=which)


def compiled_loss(given: Problem, **keywords: Any) -> Callable[..., Tensor]:
    """The loss behind other operators, as in a training step."""

    def step(*tensors: Tensor) -> Tensor:
        named = dict(zip([*given.rows, *given.scalars], tensors, strict=True))
        rows = {name: named[name] * 1.5 for name in given.rows}
        scalars = {name: named[name] for name in given.scalars}
        return call(Problem(given.loss, rows, scalars, given.labels), **keywords) * 2

    return step


@each_loss
@each_engine
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_in_one_graph(loss: str, engine: str, backend: str) -> None:
    device, implementation = available(engine)
    if backend == "inductor" and loss not in ("nt_xent", "siglip_loss"):
        pytest.skip("code generation takes seconds; aot_eager traces the same graphs")
    torch._dynamo.reset()
    given = problem(loss, 12, 6, 0.2).to(device)
    step = compiled_loss(given, implementation=implementation)
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend=backend, dynamic=False)):
        learnable = given.learnable()
        total = function(*learnable.rows.values(), *learnable.scalars.values())
        results.append([total, *gradients(total, learnable).values()])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


@each_loss
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_implementation_is_chosen_while_compiling(loss: str, device: str) -> None:
    if device == "cuda":
        available("cuda-triton")
    torch._dynamo.reset()
    given = problem(loss, 12, 6, 0.2).to(device)

    numbers = [float(scalar) for scalar in given.scalars.values()]
    labels = [] if given.labels is None else [given.labels]
    function = getattr(kernels, loss)

    def step(*rows: Tensor) -> Tensor:
        found: Tensor = function(*rows, *labels, *numbers)
        return found

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given.rows.values()), step(*given.rows.values()))


@each_engine
def test_compiled_for_any_number_of_rows(engine: str) -> None:
    device, implementation = available(engine)
    torch._dynamo.reset()

    def step(z: Tensor) -> Tensor:
        given = Problem("nt_xent", {"z": z}, {"temperature": torch.tensor(0.2, device=device)})
        return call(given, implementation=implementation)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (12, 30, 50):
        z = torch.randn(count, 6, device=device, requires_grad=True)
        wanted = torch.autograd.grad(step(z), z)
        torch.testing.assert_close(torch.autograd.grad(compiled(z), z), wanted)


@each_loss
@each_engine
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_logits(loss: str, engine: str, dtype: torch.dtype) -> None:
    device, implementation = available(engine)
    for rows_dtype in (torch.float32, dtype):
        given = problem(loss, 50, 24, 0.05, rows_dtype).to(device)
        results = []
        for inside in (False, True):
            learnable = given.learnable()
            with torch.autocast(device, dtype=dtype, enabled=inside):
                losses = call(learnable, implementation=implementation, reduction="none")
            assert losses.dtype == torch.float32
            results.append([losses, *gradients(losses.sum(), learnable).values()])
        for outside, inside_autocast in zip(*results, strict=True):
            torch.testing.assert_close(inside_autocast, outside, rtol=1e-6, atol=1e-6)


@each_loss
def test_autocast_does_not_touch_the_reference(loss: str) -> None:
    given = problem(loss, 20, 8, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = call(given, implementation="reference", reduction="none")
    assert torch.equal(inside, call(given, implementation="reference", reduction="none"))


def test_a_layer_under_autocast_gives_rows_in_16_bits() -> None:
    layer = torch.nn.Linear(8, 6)
    given = problem("nt_xent", 20, 6, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = layer(torch.randn(20, 8))
        total = call(Problem("nt_xent", {"z": rows}, given.scalars), implementation="chunked")
    assert rows.dtype == torch.bfloat16
    assert total.dtype == torch.float32
    total.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@each_loss
def test_operators_never_read_a_value(loss: str) -> None:
    """No ``.item()`` below an operator: on a GPU it would wait, and break a CUDA graph."""
    learnable = problem(loss, 50, 24, 0.1).learnable()
    for reduction in ("none", "mean"):
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            call(learnable, implementation="chunked", reduction=reduction).sum().backward()
        events = list(recorded.events() or [])
        assert any(event.name.startswith("edgessl::") for event in events)
        for event in events:
            if event.name in ("aten::item", "aten::_local_scalar_dense", "aten::nonzero"):
                above = event.cpu_parent
                while above is not None:
                    assert not above.name.startswith("edgessl::"), event.name
                    above = above.cpu_parent


@each_loss
@pytest.mark.parametrize("implementation", ["chunked", "triton"])
def test_nothing_waits_for_the_gpu(loss: str, implementation: str) -> None:
    device, _ = available(f"cuda-{implementation}")
    learnable = problem(loss, 300, 24, 0.1).to(device).learnable()
    call(learnable, implementation=implementation).backward()  # what is compiled once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(learnable, implementation=implementation).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_loss
@pytest.mark.parametrize("implementation", ["chunked", "triton"])
@pytest.mark.parametrize("numbers", [False, True])
def test_cuda_graphs(loss: str, implementation: str, numbers: bool) -> None:
    device, _ = available(f"cuda-{implementation}")
    given = problem(loss, 300, 24, 0.1).to(device)
    learnable = given.learnable()

    def step() -> list[Tensor]:
        total = call(learnable, implementation=implementation, numbers=numbers)
        return [total, *gradients(total, learnable, numbers=numbers).values()]

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for name, rows in learnable.rows.items():
            rows.copy_(problem(loss, 300, 24, 0.1).rows[name].flip(1))
        for scalar in learnable.scalars.values():
            if not numbers:
                scalar.mul_(1.25)
    graph.replay()
    for replayed, eager in zip(captured, step(), strict=True):
        assert torch.equal(replayed, eager)


@contextmanager
def peak_of(result: list[int]) -> Iterator[None]:
    """Bytes that the CPU allocator held at most, beyond those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield
    held = highest = 0
    kineto: Any = recorded.profiler
    for event in sorted(kineto.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    result.append(highest)


@each_loss
def test_memory_is_linear_in_the_rows(loss: str) -> None:
    """Against the matrix of logits, which the reference stores several times over."""
    peaks: dict[str, list[int]] = {"chunked": [], "reference": []}
    counts = (2048, 4096)
    for implementation, found in peaks.items():
        for count in counts:
            learnable = problem(loss, count, 16, 0.1).learnable()
            with peak_of(found):
                call(learnable, implementation=implementation).backward()
    queries = 3 if loss == "info_nce_queue" else 1
    matrices = [4 * count * count // queries for count in counts]
    assert peaks["reference"][1] > matrices[1], "the measure sees the matrix"
    assert peaks["chunked"][1] < matrices[1] / 5
    assert peaks["chunked"][1] < 2.5 * peaks["chunked"][0]


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_on_a_gpu(loss: str, dtype: torch.dtype) -> None:
    device, implementation = available("cuda-triton")
    count, dim = 16384, 256
    learnable = problem(loss, count, dim, 0.1, dtype).to(device).learnable()
    call(learnable, implementation=implementation).backward()
    for leaf in learnable.leaves.values():
        leaf.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(learnable, implementation=implementation).backward()
    extra = torch.cuda.max_memory_allocated() - before
    rows = sum(len(rows) for rows in learnable.rows.values())
    assert extra <= 1.1 * (2 * rows * dim * dtype.itemsize + 16 * rows) + 2**20
