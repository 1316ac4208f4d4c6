"""INT8 for OpenVINO by NNCF.

Source: https://docs.openvino.ai, "Basic Quantization Flow".
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from edgessl.compiler.quantizers import QuantizationJob
from edgessl.optional import require

__all__ = ["Nncf"]


class Nncf:
    """Symmetric activations (preset performance) for CNNs, mixed for transformers.

    NNCF always scales weights per output channel.
    """

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; gives an ``.xml``."""
        # NNCF reports usage to a server unless this is set before it is imported.
        os.environ.setdefault("NNCF_CI", "1")
        openvino = require("openvino", extra="openvino")
        nncf = require("nncf", extra="compile")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        attention = job.graph.attention
        presets, fixes = nncf.QuantizationPreset, nncf.OverflowFix
        quantized = nncf.quantize(
            openvino.Core().read_model(job.graph.path),
            nncf.Dataset(range(job.samples.calls), job.samples.feeds),
            preset=presets.MIXED if attention else presets.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
            subset_size=job.samples.calls,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fixes.ENABLE if job.reduce_range else fixes.DISABLE
            ),
        )
        out = job.folder / "quantized.xml"
        openvino.save_model(quantized, out, compress_to_fp16=False)
        return out, {"nncf": str(nncf.__version__)}
