"""A benchmark's result in the formats that CI services read."""

from edgessl.benchmarking.exports.bencher import write_bencher
from edgessl.benchmarking.exports.github_benchmark import write_github_benchmark
from edgessl.benchmarking.exports.junit import write_junit
from edgessl.benchmarking.exports.schema import write_result_schema
from edgessl.benchmarking.exports.step_summary import append_step_summary

__all__ = [
    "append_step_summary",
    "write_bencher",
    "write_github_benchmark",
    "write_junit",
    "write_result_schema",
]
