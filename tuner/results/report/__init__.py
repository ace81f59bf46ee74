"""``tuner report``: one self-contained HTML page about a sweep."""

from tuner.results.report.page import write_report

__all__ = ["write_report"]
