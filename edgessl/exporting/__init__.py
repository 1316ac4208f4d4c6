"""Turn a run's encoder into one ONNX file that other stages and other tools can use."""

from edgessl.exporting.export import ExportOptions, ExportReport, export

__all__ = ["ExportOptions", "ExportReport", "export"]
