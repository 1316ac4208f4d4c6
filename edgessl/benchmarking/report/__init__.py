"""A benchmark as one page for people, which opens in a browser without a network."""

from edgessl.benchmarking.report.page import render_page, write_report

__all__ = ["render_page", "write_report"]
