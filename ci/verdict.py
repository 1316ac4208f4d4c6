"""Print the verdict of a result and the ratio of its first comparison's p50: ``FAIL 1.31``."""

from __future__ import annotations

import sys
from pathlib import Path

from edgessl.benchmarking.stored import load_result

__all__: list[str] = []


def main() -> None:
    result = load_result(Path(sys.argv[1]))
    if result.failure is not None:
        # INVALID as well, but a bundle that crashes must not pass as a noisy machine does.
        sys.exit(f"the run ended early: {result.failure}")
    ratio = result.comparisons[0].metric("p50").ratio
    print(result.verdict or "none", "" if ratio is None else ratio)


if __name__ == "__main__":
    main()
