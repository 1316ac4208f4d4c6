"""Compile and quantize an ONNX model for a target: `compile_model`."""

from edgessl.compiler.calibration import ArrayCalibration, Calibration, FileCalibration
from edgessl.compiler.compilation import CompileOptions, compile_model
from edgessl.compiler.layer_losses import SensitivityReport
from edgessl.compiler.layer_report import SensitivityOptions, sensitivity_report
from edgessl.compiler.report import CompileReport, FidelityGateError

__all__ = [
    "ArrayCalibration",
    "Calibration",
    "CompileOptions",
    "CompileReport",
    "FidelityGateError",
    "FileCalibration",
    "SensitivityOptions",
    "SensitivityReport",
    "compile_model",
    "sensitivity_report",
]
