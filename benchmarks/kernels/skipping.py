"""How many blocks of pairs NT-Xent's backward can leave out: 128×128 cells, on random rows.

    python benchmarks/kernels/skipping.py

Rows are Gaussian directions, two noisy views of each; gradients in bfloat16. Two thresholds for the
weights of a cell: eps/M times the largest pull of the batch, which `skip_tiles` takes (an error of
eps in the norm of the gradient), and eps/M itself. Writes benchmarks/results/kernels_skipping.json.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

ROWS, CELL = 8192, 128
RESULTS = Path(__file__).parents[1] / "results" / "kernels_skipping.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--rows", type=int, default=ROWS, help="M, a multiple of 256")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [
        measure(options.rows, width, temperature, noise, options.seed)
        for width in (128, 256)
        for temperature in (0.1, 0.05, 0.02, 0.01)
        for noise in (0.3, 0.6)
    ]
    result = {
        "rows": options.rows,
        "seed": options.seed,
        "eps": torch.finfo(torch.bfloat16).eps,
        "versions": {"torch": version("torch")},
        "results": rows,
    }
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


def measure(count: int, width: int, temperature: float, noise: float, seed: int) -> dict[str, Any]:
    """Shares of the cells that are left out at one setting."""
    generator = torch.Generator().manual_seed(seed)
    first, *noises = (torch.randn(count // 2, width, generator=generator) for _ in range(3))
    z = F.normalize(torch.cat([first + noise * one for one in noises]), dim=1)
    row = torch.arange(count)
    positive = (row + count // 2) % count
    cosine = (z * z[positive]).sum(1)
    logits = z @ z.T / temperature
    logits[row, row] = logits[row, positive] = -torch.inf
    others = logits.logsumexp(1)
    pull = torch.sigmoid(others - cosine / temperature)
    normalizer = torch.logaddexp(others, cosine / temperature)
    peaks = logits.view(count // CELL, CELL, count // CELL, CELL).amax((1, 3))
    least = normalizer.view(-1, CELL).amin(1)
    bound = (peaks - least[:, None]).exp() + (peaks - least[None, :]).exp()
    bound[row // CELL, positive // CELL] = torch.inf
    threshold = torch.finfo(torch.bfloat16).eps / count
    return {
        "dimensions": width,
        "temperature": temperature,
        "noise": noise,
        "positives_cosine": cosine.mean().item(),
        "largest_pull": pull.max().item(),
        "left_out": (bound < threshold * pull.max()).float().mean().item(),
        "left_out_without_the_pull": (bound < threshold).float().mean().item(),
    }


if __name__ == "__main__":
    main()
