"""``recipe.json``: how the device builds its engine from the portable model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field, model_validator
from typing_extensions import Self

from edgessl.config import Options, describe_validation
from edgessl.errors import BundleError

__all__ = [
    "RECIPE_NAME",
    "ImplicitQuantization",
    "LayerPrecision",
    "Recipe",
    "Remainder",
    "ShapeRange",
    "read_recipe",
    "trtexec_lines",
]

RECIPE_NAME = "recipe.json"

LayerPrecision = Literal["fp32", "fp16", "int8"]
Remainder = Literal["fp32", "fp16"]
Sizes = tuple[Annotated[int, Field(ge=0)], ...]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]


class ShapeRange(Options):
    """What sizes an input may have, and for which the engine is tuned."""

    least: Sizes
    typical: Sizes
    most: Sizes

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not len(self.least) == len(self.typical) == len(self.most):
            raise ValueError("least, typical and most must have as many dimensions")
        triples = zip(self.least, self.typical, self.most, strict=True)
        if any(not low <= middle <= high for low, middle, high in triples):
            raise ValueError("each dimension needs least <= typical <= most")
        return self


class ImplicitQuantization(Options):
    """The same integers as ranges, for a DLA whose TensorRT takes no Q/DQ nodes (10.x).

    Attributes:
        model: File name of the graph without Q/DQ nodes, in float32.
        ranges: Tensor → largest absolute value, which becomes 127.
    """

    model: FileName
    ranges: dict[str, Annotated[float, Field(gt=0)]]


class Recipe(Options):
    """How to build.

    Attributes:
        model: File name of the strongly typed ONNX graph.
        precision: What matrix products and convolutions compute in, as far as they are quantized.
        remainder: What everything else computes in.
        workspace_mib: Most scratch memory of a layer; None leaves TensorRT its default, all.
        builder_optimization_level: 0 to 5; higher levels try more kernels and build longer.
        profiles: For each optimization profile, input → sizes; empty if all shapes are fixed.
        dla_core: Deep-learning accelerator that runs what it can; None for the GPU alone.
        gpu_fallback: What the accelerator cannot run, the GPU may.
        expected: Node of a convolution or a matrix product → the precision it must run in.
        float32_nodes: Nodes that stay in float32 because float16 overflows.
        implicit: For a DLA under TensorRT 10.
        trtexec: Version of TensorRT → the command that builds the same by hand.
    """

    schema_version: Literal[1] = 1
    model: FileName = "model.onnx"
    precision: LayerPrecision
    remainder: Remainder
    workspace_mib: Annotated[int, Field(ge=1)] | None = 1024
    builder_optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    profiles: tuple[dict[str, ShapeRange], ...] = ()
    dla_core: Annotated[int, Field(ge=0, le=1)] | None = None
    gpu_fallback: bool = True
    expected: dict[str, LayerPrecision] = Field(default_factory=dict)
    float32_nodes: tuple[str, ...] = ()
    implicit: ImplicitQuantization | None = None
    trtexec: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical text."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        BundleError: It is missing, not JSON or not valid.
    """
    try:
        return Recipe.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BundleError(f"{path.name} is missing beside the model; compile it again") from error
    except pydantic.ValidationError as error:
        raise BundleError(f"{path.name}: {describe_validation(error)}; compile it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path.name}: cannot be read ({error}); compile it again") from error


def trtexec_lines(recipe: Recipe) -> dict[str, str]:
    """The commands that build the same engine by hand: for TensorRT 10.3, and from 10.12 on.

    10.3 takes precisions as flags; a strongly typed graph carries them itself, and trtexec 11 has
    neither those flags nor a weakly typed mode.
    """
    common = [f"--onnx={recipe.model}", "--saveEngine=engine.plan"]
    if recipe.workspace_mib is not None:
        common.append(f"--memPoolSize=workspace:{recipe.workspace_mib}M")
    common.append(f"--builderOptimizationLevel={recipe.builder_optimization_level}")
    for ranges in recipe.profiles[:1]:
        for option, field in (("min", "least"), ("opt", "typical"), ("max", "most")):
            sizes = [
                f"{name}:{'x'.join(map(str, getattr(shape, field)))}"
                for name, shape in sorted(ranges.items())
            ]
            common.append(f"--{option}Shapes={','.join(sizes)}")
    if recipe.dla_core is not None:
        common.append(f"--useDLACore={recipe.dla_core}")
        common += ["--allowGPUFallback"] if recipe.gpu_fallback else []
    common += ["--profilingVerbosity=detailed", "--exportLayerInfo=layers.json"]
    flags = [f"--{p}" for p in ("fp16", "int8") if p in (recipe.precision, recipe.remainder)]
    if recipe.remainder == "fp16":
        pinned = [f"{_quoted(name)}:fp32" for name in recipe.float32_nodes]
        flags += ["--precisionConstraints=prefer"] if pinned else []
        flags += [f"--layerPrecisions={','.join(pinned)}"] if pinned else []
    flags += ["--noTF32"]
    lines = {"11": " ".join(["trtexec", *common, "--stronglyTyped", "--noTF32"])}
    if recipe.implicit is None:
        lines["10.3"] = " ".join(["trtexec", *common, *flags])
    return lines


def _quoted(name: str) -> str:
    """A layer's name as trtexec and a shell take it."""
    return '"' + name.replace('"', '\\"') + '"'
