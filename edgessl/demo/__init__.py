"""The whole way on real data that ships with scikit-learn: `run_demo()`."""

from edgessl.demo.demo import DemoReport, run_demo

__all__ = ["DemoReport", "run_demo"]
