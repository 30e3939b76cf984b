"""What is handed over of a point of the front: files, each measured, written, run and compared before."""

from evo_mpq.results.export.exporting import Exported, Origin, export_all, export_point, verification_path
from evo_mpq.results.export.files import write_file
from evo_mpq.results.export.formats import FORMATS, ExportOptions, Format, format_of
from evo_mpq.results.export.remeasuring import runs_here

__all__ = [
    "FORMATS",
    "ExportOptions",
    "Exported",
    "Format",
    "Origin",
    "export_all",
    "export_point",
    "format_of",
    "runs_here",
    "verification_path",
    "write_file",
]
