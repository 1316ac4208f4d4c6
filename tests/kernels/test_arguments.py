"""Bad input: each error names the function, the argument, what was found and the rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgessl import kernels
from edgessl.kernels import clip_loss, dcl, info_nce_queue, nt_xent, siglip_loss, supcon

Z = torch.randn(6, 4)
HALF = torch.randn(3, 4)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])

# With good arguments; each test changes one.
GOOD: dict[str, dict[str, Any]] = {
    "nt_xent": {"z": Z, "temperature": 0.1},
    "dcl": {"z": Z, "temperature": 0.1},
    "supcon": {"z": Z, "labels": LABELS, "temperature": 0.1},
    "clip_loss": {"image": Z, "text": Z, "logit_scale": 10.0},
    "siglip_loss": {"image": Z, "text": Z, "logit_scale": 10.0, "logit_bias": -10.0},
    "info_nce_queue": {"query": Z, "key": Z, "queue": HALF, "temperature": 0.1},
}
MODULES = {
    "nt_xent": "NTXentLoss",
    "dcl": "DCLLoss",
    "supcon": "SupConLoss",
    "clip_loss": "CLIPLoss",
    "siglip_loss": "SigLIPLoss",
    "info_nce_queue": "InfoNCEQueueLoss",
}
ROWS = [
    (loss, name)
    for loss, given in GOOD.items()
    for name in given
    if name in ("z", "image", "text", "query", "key", "queue")
]
SCALES = [
    (loss, name)
    for loss, given in GOOD.items()
    for name in given
    if name in ("temperature", "logit_scale")
]
SCALARS = [*SCALES, ("siglip_loss", "logit_bias")]

each_loss = pytest.mark.parametrize("loss", GOOD)
each_rows = pytest.mark.parametrize(("loss", "argument"), ROWS)
each_scale = pytest.mark.parametrize(("loss", "argument"), SCALES)
each_scalar = pytest.mark.parametrize(("loss", "argument"), SCALARS)


def refused(loss: str, error: type[Exception], *words: str, **changed: Any) -> None:
    """The error holds the function's name and all words."""
    with pytest.raises(error) as caught:
        getattr(kernels, loss)(**{**GOOD[loss], **changed})
    message = str(caught.value)
    assert message.startswith(f"{loss}: ")
    for word in words:
        assert word in message, message


@each_loss
def test_good_arguments_are_good(loss: str) -> None:
    assert getattr(kernels, loss)(**GOOD[loss]).isfinite()


@each_rows
def test_rows_must_be_a_matrix(loss: str, argument: str) -> None:
    for shape in [(6,), (2, 3, 4), (6, 0), (0, 4)]:
        refused(loss, ValueError, argument, "D)", str(shape), **{argument: torch.zeros(shape)})


@each_rows
def test_rows_must_be_floating(loss: str, argument: str) -> None:
    for dtype in (torch.int64, torch.int32, torch.bool, torch.complex64):
        refused(loss, TypeError, argument, "float32", str(dtype), **{argument: Z.to(dtype)})
    refused(loss, TypeError, argument, "tensor", "list", **{argument: Z.tolist()})


@pytest.mark.parametrize("loss", ["nt_xent", "dcl"])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_two_views_are_an_even_number_of_rows(loss: str, count: int) -> None:
    refused(loss, ValueError, "z", "(2N, D)", f"({count}, 4)", z=torch.randn(count, 4))


def test_dcl_needs_something_to_contrast_with() -> None:
    refused("dcl", ValueError, "z", "two samples", "(2, 4)", z=torch.randn(2, 4))


@pytest.mark.parametrize(
    ("loss", "first", "second"),
    [
        ("clip_loss", "image", "text"),
        ("siglip_loss", "image", "text"),
        ("info_nce_queue", "query", "key"),
    ],
)
@pytest.mark.parametrize("shape", [(5, 4), (6, 3), (7, 5)])
def test_pairs_have_one_shape(loss: str, first: str, second: str, shape: tuple[int, int]) -> None:
    words = (first, second, "(6, 4)", str(shape), "same shape")
    refused(loss, ValueError, *words, **{second: torch.randn(shape)})


def test_queue_has_the_queries_dimension() -> None:
    words = ("query", "queue", "D", "(6, 4)", "(9, 5)")
    refused("info_nce_queue", ValueError, *words, queue=torch.randn(9, 5))


def test_queue_is_a_constant() -> None:
    queue = torch.randn(9, 4, requires_grad=True)
    refused("info_nce_queue", ValueError, "queue", "gradient", "detach", queue=queue)


@each_scale
@pytest.mark.parametrize("value", [0.0, -0.5, 0, -3])
def test_scales_are_positive(loss: str, argument: str, value: float) -> None:
    refused(loss, ValueError, argument, "> 0", f"{value:g}", **{argument: value})
    learnt = torch.tensor(float(value), requires_grad=True)
    refused(loss, ValueError, argument, "> 0", f"{value:g}", **{argument: learnt})


@each_scalar
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scalars_are_finite(loss: str, argument: str, value: float) -> None:
    refused(loss, ValueError, argument, "finite", f"{value:g}", **{argument: value})
    learnt = torch.tensor(value, requires_grad=True)
    refused(loss, ValueError, argument, "finite", f"{value:g}", **{argument: learnt})


@each_scalar
def test_scalars_are_one_number(loss: str, argument: str) -> None:
    refused(loss, ValueError, argument, "one element", "(2,)", **{argument: torch.ones(2)})
    refused(loss, TypeError, argument, "number", "str", **{argument: "0.1"})
    refused(loss, TypeError, argument, "number", "bool", **{argument: True})
    refused(loss, TypeError, argument, "number", "NoneType", **{argument: None})
    refused(loss, TypeError, argument, "floating", "int64", **{argument: torch.tensor(1)})


@each_scalar
def test_scalars_of_one_element_keep_their_shape(loss: str, argument: str) -> None:
    learnt = torch.full((1,), 0.5, requires_grad=True)
    getattr(kernels, loss)(**{**GOOD[loss], argument: learnt}).backward()
    assert learnt.grad is not None
    assert learnt.grad.shape == (1,)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (LABELS[:5], ValueError, ("(6,)", "(5,)")),
        (LABELS[:, None], ValueError, ("(6,)", "(6, 1)")),
        (LABELS.float(), TypeError, ("integers", "float32")),
        (LABELS.tolist(), TypeError, ("integers", "list")),
        (LABELS - 1, ValueError, ("≥ 0", "-1")),
    ],
)
def test_labels(labels: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    refused("supcon", error, "labels", *words, labels=labels)


@each_loss
def test_tensors_on_different_devices(loss: str) -> None:
    """The meta device stands for a second one."""
    for name, value in GOOD[loss].items():
        elsewhere = (
            value.to("meta") if isinstance(value, Tensor) else torch.tensor(value, device="meta")
        )
        if loss in ("nt_xent", "dcl") and name == "z":
            continue  # the only tensor
        if loss == "supcon" and name == "z":
            refused(loss, ValueError, "labels", "device", "cpu", "meta", z=elsewhere)
        else:
            refused(loss, ValueError, name, "device", "cpu", "meta", **{name: elsewhere})


@each_loss
@pytest.mark.parametrize("keyword", ["reduction", "implementation"])
def test_words(loss: str, keyword: str) -> None:
    known = {
        "reduction": ("mean", "sum", "none"),
        "implementation": ("auto", "triton", "chunked", "reference"),
    }[keyword]
    refused(loss, ValueError, keyword, "'magic'", *known, **{keyword: "magic"})
    with pytest.raises(ValueError, match=f"{keyword}.*'magic'"):
        getattr(kernels, MODULES[loss])(**{keyword: "magic"})


@each_loss
def test_a_module_knows_its_keywords(loss: str) -> None:
    with pytest.raises(TypeError, match=f"{MODULES[loss]}: no keyword 'reducton'; there are"):
        getattr(kernels, MODULES[loss])(reducton="mean")


@each_loss
def test_triton_is_refused_where_it_cannot_run(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgessl.kernels import implementations

    monkeypatch.setattr(implementations, "_interpreted", lambda: False)
    refused(loss, ValueError, "triton", "GPU", "cpu", "chunked", implementation="triton")
    monkeypatch.setattr(implementations, "_NO_TRITON", "is not installed")
    refused(loss, ValueError, "triton", "not installed", "chunked", implementation="triton")
    # Nobody asked for Triton here, so that its absence changes nothing.
    assert getattr(kernels, loss)(**GOOD[loss]).isfinite()


@each_loss
def test_triton_has_no_float64(loss: str) -> None:
    pytest.importorskip("triton")
    wide = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in GOOD[loss].items()
    }
    refused(loss, ValueError, "triton", "float64", "chunked", **wide, implementation="triton")


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: nt_xent(torch.zeros(3, 4), 0.1),
        lambda: dcl(Z.long(), 0.1),
        lambda: supcon(Z, LABELS - 5, 0.1),
        lambda: clip_loss(Z, HALF, 1.0),
        lambda: siglip_loss(Z, Z, -1.0, 0.0),
        lambda: info_nce_queue(Z, Z, HALF, 0.0),
    ],
)
def test_errors_fit_into_a_few_lines(attempt: Callable[[], Tensor]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        attempt()
    assert re.fullmatch(r"\w+: \w+.{10,200}", str(caught.value))
