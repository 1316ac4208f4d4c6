"""Calibration input: open it, split it, check it, store it."""

from edgessl.compiler.calibration.arrays import (
    ArrayCalibration,
    Calibration,
    FileCalibration,
    Fingerprinted,
)
from edgessl.compiler.calibration.inputs import describe_inputs, parse_constants, preprocessing_for
from edgessl.compiler.calibration.opening import CalibrationInput, OpenData, open_calibration
from edgessl.compiler.calibration.storing import MIN_SAMPLES, split_indices, store

__all__ = [
    "MIN_SAMPLES",
    "ArrayCalibration",
    "Calibration",
    "CalibrationInput",
    "FileCalibration",
    "Fingerprinted",
    "OpenData",
    "describe_inputs",
    "open_calibration",
    "parse_constants",
    "preprocessing_for",
    "split_indices",
    "store",
]
