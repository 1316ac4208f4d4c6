"""Run a bundle's canary inputs and compare with the outputs that it carries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgessl.bundle.archive import Bundle
from edgessl.bundle.arrays import load_arrays
from edgessl.bundle.manifest import Canaries
from edgessl.config import Options
from edgessl.errors import BundleError
from edgessl.runtime.model import Model
from edgessl.runtime.session import Array

__all__ = ["CanaryResult", "canary_inputs", "compare_outputs", "output_cosines", "run_canaries"]


class CanaryResult(Options):
    """How near this device comes to the reference outputs.

    Attributes:
        samples: Canary samples N.
        finite: False if any output was NaN or infinite.
        min_cosine: Least cosine over samples and outputs; 0 if not finite.
        max_abs_difference: Largest difference of any value; None if not finite.
        required_cosine: What the bundle asks for.
    """

    samples: int
    finite: bool
    min_cosine: float
    max_abs_difference: float | None
    required_cosine: float

    @property
    def passed(self) -> bool:
        """True if the device gives the same results as far as the bundle asks."""
        return self.finite and self.min_cosine >= self.required_cosine

    def describe(self) -> str:
        """One line for a person."""
        if not self.finite:
            return f"outputs hold NaN or infinity on {self.samples} canaries"
        return (
            f"least cosine {self.min_cosine:.6f} on {self.samples} canaries, "
            f"{self.required_cosine:g} required"
        )


def canary_inputs(bundle: Bundle) -> dict[str, Array] | None:
    """The canary inputs, samples first; None if the bundle has no canaries.

    Raises:
        BundleError: The member is not a readable ``.npz``.
    """
    canaries = bundle.manifest.canaries
    if canaries is None:
        return None
    return _member(bundle, canaries.inputs)


def run_canaries(bundle: Bundle, model: Model) -> CanaryResult | None:
    """Run the canaries through an opened model; None if the bundle has none.

    Raises:
        BundleError: The canaries do not fit the model.
    """
    canaries = bundle.manifest.canaries
    inputs = canary_inputs(bundle)
    if canaries is None or inputs is None:
        return None
    return compare_outputs(model.run(inputs), _member(bundle, canaries.outputs), canaries)


def compare_outputs(
    outputs: Mapping[str, Array], expected: Mapping[str, Array], canaries: Canaries
) -> CanaryResult:
    """Compare outputs with the reference, sample by sample.

    Raises:
        BundleError: Other names or shapes than the reference has.
    """
    least, largest = 1.0, 0.0
    for name, reference in expected.items():
        found = outputs.get(name)
        if found is None or found.shape != reference.shape:
            shape = None if found is None else found.shape
            raise BundleError(
                f"canary output '{name}' is {reference.shape}, the model gives {shape}; "
                "compile the bundle again"
            )
        if not bool(np.isfinite(found).all()):
            return CanaryResult(
                samples=canaries.samples,
                finite=False,
                min_cosine=0.0,
                max_abs_difference=None,
                required_cosine=canaries.min_cosine,
            )
        least = min(least, float(output_cosines(found, reference).min(initial=1.0)))
        difference = np.abs(found.astype(np.float64) - reference.astype(np.float64))
        largest = max(largest, float(difference.max(initial=0.0)))
    return CanaryResult(
        samples=canaries.samples,
        finite=True,
        min_cosine=least,
        max_abs_difference=largest,
        required_cosine=canaries.min_cosine,
    )


def _member(bundle: Bundle, name: str) -> dict[str, Array]:
    return load_arrays(bundle.read(name), where=f"{bundle.path.name}: {name}")


def output_cosines(a: Array, b: Array) -> Array:
    """Cosine of each sample's output, flattened, in float64.

    Two rows of zeros are equal (1); one row of zeros is unlike any other (0).

    Args:
        a: ``(N, ...)``.
        b: The same shape.

    Returns:
        ``(N,)`` float64.
    """
    rows = len(a) if a.ndim else 1
    x = a.reshape(rows, -1).astype(np.float64)
    y = b.reshape(rows, -1).astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    both_zero = ~x.any(axis=1) & ~y.any(axis=1)
    products = np.einsum("nd,nd->n", x, y)
    return np.where(both_zero, 1.0, products / np.where(norms > 0, norms, np.inf))
