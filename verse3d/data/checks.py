"""Looking for what would spoil a training or a score: unreadable files, wrong labels, masks on other grids ..."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.labels import VERTEBRAE, unknown_ids
from verse3d.core.runtime import Progress, no_progress
from verse3d.core.volume import Volume, read_image, read_labels
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.pairs import SAME_GRID_TOLERANCE_MM, require_same_grid

Severity = Literal["error", "warning", "note"]
_SKEW_TOLERANCE = 1e-4
_FORM_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Finding:
    """Something to know about a case.

    Attributes:
        case: its name.
        severity: "error" (the case cannot be used), "warning" (look at it) or "note".
        code: a short stable name, e.g. "mask-grid".
        message: what was found, and where.
        hint: what to do about it.
    """

    case: str
    severity: Severity
    code: str
    message: str
    hint: str = ""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class CaseFacts:
    """What a case is made of, as text for a table; empty where it could not be read.

    Attributes:
        case: its name.
        shape: voxels along the axes, e.g. "103x180x106".
        spacing_mm: e.g. "1x1x3".
        axes: the directions that the axes grow towards, e.g. "PIR".
        stored: voxel type and sform/qform codes, e.g. "float32 s0 q1".
        levels: the labelled vertebrae, e.g. "T12-L5".
    """

    case: str
    shape: str = ""
    spacing_mm: str = ""
    axes: str = ""
    stored: str = ""
    levels: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The facts of every case and everything that was found."""

    facts: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings."""
        found = {finding.severity for finding in self.findings}
        order: tuple[Severity, ...] = ("error", "warning", "note")
        return next((severity for severity in order if severity in found), None)


def check_cases(index: CaseIndex, progress: Progress = no_progress) -> CheckReport:
    """Read every file of every case and report what is wrong. Nothing is changed, nothing stops it.

    Args:
        index: the cases.
        progress: told about every case.
    """
    facts, findings = [], []
    seen: dict[str, str] = {}
    for number, case in enumerate(index):
        progress("cases", number, len(index))
        image, mask, problems = _read_pair(case)
        facts.append(_facts(case, image, mask))
        findings.extend([*problems, *_examine(case, image, mask, seen)])
    progress("cases", len(index), len(index))
    return CheckReport(tuple(facts), tuple(findings))


def _facts(case: Case, image: Volume | None, mask: Volume | None) -> CaseFacts:
    main = image or mask
    if main is None:
        return CaseFacts(case.case)
    header = main.header
    return CaseFacts(
        case.case,
        shape="x".join(str(size) for size in main.geometry.shape),
        spacing_mm="x".join(f"{size:.4g}" for size in main.geometry.spacing_mm),
        axes="".join(main.geometry.axis_codes),
        stored=f"{header.get_data_dtype()} s{int(header['sform_code'])} q{int(header['qform_code'])}",
        levels="" if mask is None else _levels(mask),
    )


def _levels(mask: Volume) -> str:
    present = set(np.unique(mask.array).tolist())
    names = [label.name for label in VERTEBRAE if label.id in present]
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}" if names else "none"


def _read_pair(case: Case) -> tuple[Volume | None, Volume | None, list[Finding]]:
    image, mask = None, None
    findings: list[Finding] = []
    if case.image is None:
        message = f"there is no CT for the mask {case.mask}"
        findings.append(Finding(case.case, "warning", "mask-without-scan", message))
    else:
        image = _read(case, read_image, case.image, findings)
    if case.mask is None:
        message = "there is no mask: it can be predicted, not trained on"
        findings.append(Finding(case.case, "note", "scan-without-mask", message))
    else:
        mask = _read(case, read_labels, case.mask, findings)
    return image, mask, findings


def _examine(case: Case, image: Volume | None, mask: Volume | None, seen: dict[str, str]) -> Iterator[Finding]:
    if image is not None:
        yield from _check_grid(case, image)
        yield from _check_grey_values(case, image)
        yield from _check_duplicate(case, image, seen)
    if mask is not None:
        yield from _check_labels(case, mask)
    if image is not None and mask is not None:
        yield from _check_pair(case, image, mask)


def _read(case: Case, reader: Callable[[Path], Volume], path: Path, findings: list[Finding]) -> Volume | None:
    what = "scan" if reader is read_image else "mask"
    try:
        return reader(path)
    except DataError as error:
        code = f"{what}-affine" if isinstance(error, GeometryError) else f"{what}-unreadable"
        findings.append(Finding(case.case, "error", code, error.message, error.hint))
    return None


def _check_grid(case: Case, image: Volume) -> Iterator[Finding]:
    header, geometry = image.header, image.geometry
    if geometry.skew > _SKEW_TOLERANCE:
        yield Finding(
            case.case,
            "warning",
            "affine-skewed",
            f"{image.path}: the axes are not perpendicular (cosine {geometry.skew:.2g}); ITK-SNAP may refuse the file",
            "verse3d keeps the affine as it is; convert the scan from DICOM again if other programs refuse it",
        )
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        yield Finding(
            case.case,
            "warning",
            "no-orientation",
            f"{image.path}: sform_code and qform_code are both 0, so left and right are a guess",
            "compare with a scan whose orientation is known",
        )
    if sform and qform:
        apart = _forms_apart_mm(image)
        if not apart <= _FORM_TOLERANCE_MM:
            yield Finding(
                case.case,
                "warning",
                "forms-disagree",
                f"{image.path}: sform and qform place voxels up to {apart:.1f} mm apart"
                if apart < np.inf
                else f"{image.path}: the qform is not a rotation",
                "verse3d (like nibabel) uses the sform; some viewers use the qform",
            )


def _forms_apart_mm(image: Volume) -> float:
    """How far sform and qform place the same corner apart; NaN if the qform makes no sense."""
    shape = np.array(image.geometry.shape) - 1
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    try:
        difference = image.header.get_sform() - image.header.get_qform()
    except (ValueError, HeaderDataError):  # the quaternion is longer than 1
        return float("nan")
    return float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())


def _check_grey_values(case: Case, image: Volume) -> Iterator[Finding]:
    # Every fourth voxel per axis is enough to know the range of the scale.
    sample = image.array[::4, ::4, ::4] if min(image.array.shape) > 8 else image.array
    low, high = (float(value) for value in np.percentile(sample, [0.1, 99.9]))
    place = f"{image.path}: 99.8 % of the voxels lie between {low:.0f} and {high:.0f}"
    hint = "Hounsfield units have air at -1000, water at 0 and dense bone above 700"
    if low == high:
        yield Finding(case.case, "warning", "hu-range", f"{image.path}: all voxels have the value {low:.0f}", hint)
    elif low >= 0 and high <= 255:
        yield Finding(case.case, "warning", "hu-range", f"{place}: this looks like an 8-bit picture", hint)
    elif low >= 0:
        yield Finding(case.case, "warning", "hu-range", f"{place}: this looks like HU + 1024", hint)
    elif high < 200 or high > 20_000 or low < -10_000:
        yield Finding(case.case, "warning", "hu-range", f"{place}: this does not look like a CT with bone", hint)


def _check_duplicate(case: Case, image: Volume, seen: dict[str, str]) -> Iterator[Finding]:
    digest = fingerprint(image)
    if digest in seen:
        yield Finding(
            case.case,
            "warning",
            "duplicate",
            f"{image.path} holds the same voxels as case {seen[digest]}",
            "keep one of them, or make sure that both are in the same split",
        )
    seen.setdefault(digest, case.case)


def fingerprint(volume: Volume) -> str:
    """Identifies the voxel values and the shape of a volume, whatever its header, dtype or compression."""
    digest = hashlib.blake2b(repr(volume.geometry.shape).encode(), digest_size=16)
    for plane in np.moveaxis(volume.array, -1, 0):
        digest.update(np.asfortranarray(np.rint(plane).astype(np.int32)).tobytes(order="F"))
    return digest.hexdigest()


def _check_labels(case: Case, mask: Volume) -> Iterator[Finding]:
    ids = np.unique(mask.array)
    if mask.header.get_data_dtype().kind == "f":
        yield Finding(
            case.case,
            "note",
            "mask-float",
            f"{mask.path}: labels are stored as {mask.header.get_data_dtype()}, all are whole numbers: accepted",
        )
    if unknown := unknown_ids(ids):
        yield Finding(
            case.case,
            "error",
            "mask-labels",
            f"{mask.path}: label ids {unknown} are unknown ({_where(mask.array, unknown[0])}); VerSe uses 1-25 and 28",
            "set those voxels to 0 or to the right vertebra",
        )
    if not ids.any():
        yield Finding(case.case, "warning", "mask-empty", f"{mask.path}: no voxel is labelled")


def _where(array: NDArray[Any], label: int) -> str:
    voxels = np.nonzero(array == label)
    first = tuple(int(axis[0]) for axis in voxels)
    return f"{voxels[0].size} voxels of {label}, the first at index {first}"


def _check_pair(case: Case, image: Volume, mask: Volume) -> Iterator[Finding]:
    try:
        require_same_grid(image, mask)
    except GeometryError as error:
        code = "mask-shape" if image.geometry.shape != mask.geometry.shape else "mask-affine"
        yield Finding(case.case, "error", code, error.message, error.hint)
        return
    codes = [(int(volume.header["sform_code"]), int(volume.header["qform_code"])) for volume in (image, mask)]
    if codes[0] != codes[1]:
        yield Finding(
            case.case,
            "note",
            "mask-codes",
            f"{mask.path}: sform/qform codes {codes[1]} differ from the scan's {codes[0]}, the affines agree: accepted",
        )
    distance = image.geometry.distance_mm(mask.geometry)
    if distance > SAME_GRID_TOLERANCE_MM / 100:
        yield Finding(case.case, "note", "mask-affine", f"{mask.path} lies {distance:.3f} mm from its scan: accepted")
