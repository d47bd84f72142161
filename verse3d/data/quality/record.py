"""What one reading of a case tells: numbers for statistics and findings for the check."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict

from verse3d.core.labels import VERTEBRAE
from verse3d.core.readers import RECORD_CONFIG
from verse3d.data.quality.findings import Finding

SURVEY_VERSION = 3
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

    Raises:
        ValueError: what belongs together differs: the number of bins, the axes, the labels, the case of a finding.
    """

    __pydantic_config__: ClassVar[ConfigDict] = RECORD_CONFIG

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

    def __post_init__(self) -> None:
        if not {len(self.hu_inside), len(self.hu_outside)} <= {0, HU_BINS}:
            raise ValueError(f"the histograms must have {HU_BINS} counts, or none")
        if len(self.axis_codes) != (3 if self.shape else 0) or not set(self.axis_codes) <= set("LRPAIS"):
            raise ValueError("the axes do not fit the shape")
        if len({self.shape is None, self.spacing_mm is None, self.extent_mm is None}) > 1:
            raise ValueError("shape, spacing and extent are known together or not at all")
        if not self.label_ml.keys() <= self.label_voxels.keys() <= {label.id for label in VERTEBRAE}:
            raise ValueError("the labels must be those of VerSe, and those with millilitres must have voxels")
        if any(finding.case != self.case for finding in self.findings):
            raise ValueError("a finding is about another case")

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the labelled vertebrae from head to tail."""
        return tuple(label.name for label in VERTEBRAE if label.id in self.label_voxels)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)
