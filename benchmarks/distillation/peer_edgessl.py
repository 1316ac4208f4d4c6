"""One distillation by edgessl, in a process of its own; run by `peers.py`."""

import json
import sys
import time
from pathlib import Path

from edgessl import __version__
from edgessl.distillation import distill

request = json.loads(sys.argv[1])
started = time.monotonic()
distill(
    request["teacher"],
    request["student"],
    request["data"],
    out=Path(request["out"]),
    overrides=request["overrides"],
)
print(json.dumps({"train_s": time.monotonic() - started, "versions": {"edgessl": __version__}}))
