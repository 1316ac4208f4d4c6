"""Benchmarks on another machine, over SSH."""

from edgessl.benchmarking.remote.benchmark import benchmark_on

__all__ = ["benchmark_on"]
