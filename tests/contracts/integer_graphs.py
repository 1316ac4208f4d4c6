"""timm models as integer graphs with an open batch, made in this process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from contracts.quantizing import Workshop
from edgessl.compiler.integer_step import place_integers

__all__ = [
    "SCHEMES",
    "GraphPair",
    "export_timm",
    "make_pair",
    "run_plainly",
    "small_network",
    "timm_model",
]

SCHEMES = {
    "u8s8": ("u8s8", "int8"),
    "s8s8": ("s8s8", "int8"),
    "tensorrt": ("tensorrt", "int8"),
    "qnn": ("qnn", "int8"),
    "qnn-a16w8": ("qnn", "a16w8"),
}


@dataclass(frozen=True)
class GraphPair:
    """A float graph and the QDQ graph that a scheme makes of it.

    Attributes:
        float_model: Path of the float one.
        model: Path of the QDQ one.
        images: Calibration images, ``(N, C, H, W)`` float32.
    """

    float_model: Path
    model: Path
    images: NDArray[np.float32]

    @property
    def batch(self) -> torch.Tensor:
        """The images as a tensor."""
        return torch.from_numpy(self.images)


def timm_model(name: str, **options: Any) -> nn.Module:
    """A backbone without classifier whose batch norms have seen data."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.2)
    return model.eval()


def export_timm(model: nn.Module, path: Path, *, size: int) -> Path:
    """Export with an open batch, as `edgessl.exporting.export` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            opset_version=18,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    program.save(str(path))
    return path


def make_pair(model: Path, scheme: str, folder: Path, *, size: int, count: int = 8) -> GraphPair:
    """Quantize an export with one of `SCHEMES`."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, 3, size // 4, size // 4)).astype(np.float32)
    images = np.kron(coarse, np.ones((1, 1, 4, 4), np.float32))
    images += 0.1 * rng.standard_normal(images.shape).astype(np.float32)
    work = Workshop.of(model, {"images": images}, folder)
    kind, precision = SCHEMES[scheme]
    place = folder / "integers"
    place.mkdir()
    made = place_integers(
        work.graph.model_dump(mode="json"),
        str(folder / "samples"),
        str(place),
        target="test",
        scheme=kind,
        precision=precision,
        per_channel=True,
        reduce_range=False,
        method="minmax",
        keep_float=[],
        engine="onnxruntime",
        rough=True,
    )
    return GraphPair(place / made["float_model"], place / made["model"], images)


def run_plainly(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output in onnxruntime, node by node as the file says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return result


class ConvNet(nn.Module):
    """Convolutions with ReLU, ReLU6 and hard-swish, squeeze-excite, a residual sum, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(16, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 1),
            nn.Hardsigmoid(),
        )
        self.out = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU6())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(32, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.deep(x)
        x = x + y * self.squeeze(y)
        return self.head(self.pool(self.out(x)).mean((2, 3)))


class Transformer(nn.Module):
    """Patches with positions, and one block of attention and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        self.norms = nn.ModuleList([nn.LayerNorm(32), nn.LayerNorm(32)])
        self.qkv, self.mix = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        q, k, v = self.qkv(self.norms[0](x)).reshape(-1, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
        shares = torch.softmax(q @ k.transpose(-1, -2) / 4, -1)
        x = x + self.mix((shares @ v).transpose(1, 2).reshape(-1, 16, 32))
        x = x + self.mlp(self.norms[1](x))
        return x.mean(1)


def small_network(kind: str) -> nn.Module:
    """``"conv"`` or ``"transformer"``, with weights and statistics that vary."""
    torch.manual_seed(0)
    network = ConvNet() if kind == "conv" else Transformer()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()
