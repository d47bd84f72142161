"""What one reading of a case tells: numbers for statistics and findings for the check."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from verse3d.core.labels import VERTEBRAE
from verse3d.data.findings import Finding

SURVEY_VERSION = 2
"""Counts up whenever a check or a measurement changes, so that what was kept before is measured again."""
HU_BINS = 64
HU_BIN_WIDTH = 50
HU_LOWEST = -1200
"""Bin n of a histogram counts the voxels from HU_LOWEST + n * HU_BIN_WIDTH on; the first and the last are open."""


@dataclass(frozen=True)
class CaseSurvey:
    """Everything that is measured of a case in one reading. Fields are empty where nothing could be read.

    Scan and mask must share a grid for the histograms to know inside from outside; otherwise every voxel counts as
    outside, which is also so without a mask.

    Attributes:
        case: its name.
        shape: voxels along the axes of the scan (of the mask if there is no scan), or None.
        spacing_mm: along the same axes, or None.
        axis_codes: the directions that the axes grow towards, e.g. "PIR", or "".
        oblique_degrees: the largest angle between an axis and the anatomical direction nearest to it.
        stored: voxel type and form codes, e.g. ("int16", 1, 0) for dtype, sform_code and qform_code.
        extent_mm: field of view along R-L, A-P and S-I: voxels times spacing of the axis nearest to each, or None.
        has_mask: whether there is a mask that could be read.
        label_voxels: VerSe id -> voxels, of the ids that occur, from head to tail, ``relabel`` applied.
        label_ml: VerSe id -> millilitres.
        binary_voxels: voxels of a binary mask, in which no id is known: the two mappings above are empty.
        binary_ml: the same in millilitres.
        is_binary: whether the mask is one (see ``schemes``).
        hu_inside: 64 counts of scan voxels inside of any label, 50 HU wide from -1200 HU on.
        hu_outside: the same for all other voxels.
        hu_range: the lowest and the highest voxel, or None.
        fingerprint: identifies voxels and shape of the scan, whatever its header, type or compression; "" if unread.
        findings: what is wrong with the case on its own.
    """

    case: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    axis_codes: str = ""
    oblique_degrees: float = 0.0
    stored: tuple[str, int, int] | None = None
    extent_mm: tuple[float, float, float] | None = None
    has_mask: bool = False
    label_voxels: dict[int, int] = field(default_factory=dict)
    label_ml: dict[int, float] = field(default_factory=dict)
    binary_voxels: int = 0
    binary_ml: float = 0.0
    is_binary: bool = False
    hu_inside: tuple[int, ...] = ()
    hu_outside: tuple[int, ...] = ()
    hu_range: tuple[float, float] | None = None
    fingerprint: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the labelled vertebrae from head to tail."""
        return tuple(label.name for label in VERTEBRAE if label.id in self.label_voxels)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CaseSurvey":
        """Undo of ``to_dict``, also after a journey through JSON (lists for tuples, texts for the ids).

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is not what ``to_dict`` gives.
        """
        plain = {each.name: _tuple(values[each.name]) for each in fields(cls)}
        plain["label_voxels"] = {int(label): int(count) for label, count in values["label_voxels"].items()}
        plain["label_ml"] = {int(label): float(volume) for label, volume in values["label_ml"].items()}
        plain["findings"] = tuple(Finding.from_dict(finding) for finding in values["findings"])
        return cls(**plain)


def _tuple(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    return tuple(value) if isinstance(value, list) else value
