"""Measure latency so that the figures can be trusted."""

from edgessl.benchmarking.arm import Arm, ArmFacts, ArmSpec
from edgessl.benchmarking.benchmark import BenchmarkOptions, benchmark, measure
from edgessl.benchmarking.result import ArmResult, BenchmarkResult, Comparison

__all__ = [
    "Arm",
    "ArmFacts",
    "ArmResult",
    "ArmSpec",
    "BenchmarkOptions",
    "BenchmarkResult",
    "Comparison",
    "benchmark",
    "measure",
]
