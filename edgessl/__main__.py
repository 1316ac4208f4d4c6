"""``python -m edgessl``: the same as the ``edgessl`` command; ``torchrun -m edgessl`` uses it."""

from __future__ import annotations

import sys

from edgessl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
