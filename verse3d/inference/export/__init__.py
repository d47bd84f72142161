"""Models for other programs: checked, described, and written whole or not at all."""

from verse3d.inference.export.formats import FORMATS, FormatName
from verse3d.inference.export.job import ExportResult, export_model

__all__ = ["FORMATS", "ExportResult", "FormatName", "export_model"]
