"""Measure latency so that the figures can be trusted."""

from edgessl.benchmarking.arm import Arm, ArmFacts, ArmSpec
from edgessl.benchmarking.benchmark import Measurement, benchmark, measure
from edgessl.benchmarking.options import BenchmarkOptions, GateOptions, ScenarioOptions
from edgessl.benchmarking.result import ArmResult, BenchmarkResult, Comparison

__all__ = [
    "Arm",
    "ArmFacts",
    "ArmResult",
    "ArmSpec",
    "BenchmarkOptions",
    "BenchmarkResult",
    "Comparison",
    "GateOptions",
    "Measurement",
    "ScenarioOptions",
    "benchmark",
    "measure",
]
