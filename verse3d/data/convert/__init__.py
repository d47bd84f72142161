"""An index written in a layout that other programs read: as nnU-Net v2 raw data, or as VerSe's subject-based tree."""

from verse3d.data.convert.job import convert_cases
from verse3d.data.convert.nnunet import nnunet_format
from verse3d.data.convert.records import CaseRecord, Conversion, FileRecord, Layout
from verse3d.data.convert.verse import verse_format

__all__ = ["CaseRecord", "Conversion", "FileRecord", "Layout", "convert_cases", "nnunet_format", "verse_format"]
