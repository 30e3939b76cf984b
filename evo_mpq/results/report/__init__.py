"""The report of a run: numbers prepared by plain functions, drawn by one self-contained page."""

from evo_mpq.results.report.page import report_data, write_report

__all__ = ["report_data", "write_report"]
