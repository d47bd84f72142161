"""Reading a case once and telling everything about it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.volume import Volume, read_geometry, read_image
from verse3d.data.cases import Case
from verse3d.data.pairs import carried_over, placement, read_mask
from verse3d.data.quality.contacts import measure_contacts
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.header import check_header
from verse3d.data.quality.mask import check_labels, check_pair, count_labels, vertebrae_of
from verse3d.data.quality.points import check_centroids
from verse3d.data.quality.record import CaseSurvey
from verse3d.data.quality.spine import check_spine
from verse3d.data.quality.vertebrae import MeasuredVertebra, label_boxes, measure_vertebrae
from verse3d.data.quality.voxels import check_grey_values, measure_voxels
from verse3d.data.schemes import MaskScheme, scheme_of

_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def survey_case(case: Case) -> CaseSurvey:
    """Read scan, mask and centroids of a case, each once. Nothing is changed, and a bad file is a finding.

    Holds the voxels of scan and mask as they are stored; everything else is done in pieces of them.
    """
    image, mask, problems = _read_pair(case)
    main = image or mask
    if main is None:
        return CaseSurvey(case.case, findings=tuple(problems))
    # Each file is read once, and everything that is measured of it is made of these arrays.
    counts = {} if mask is None else count_labels(mask.array)
    scheme = None if mask is None else scheme_of(mask)
    findings = [*problems, *_examine(case, image, mask, counts, scheme)]
    return CaseSurvey(
        case.case,
        **_grid_facts(main),
        **_voxel_facts(image, mask),
        **_label_facts(mask, counts, scheme),
        findings=tuple(findings),
    )


def _examine(
    case: Case, image: Volume | None, mask: Volume | None, counts: dict[int, int], scheme: MaskScheme | None
) -> Iterator[Finding]:
    if image is not None:
        yield from check_header(case.case, image)
        yield from check_grey_values(case.case, image)
    vertebrae: tuple[MeasuredVertebra, ...] = ()
    if mask is not None:
        yield from check_labels(case.case, mask, counts, scheme)
    # A binary mask has no levels, so it makes no spine.
    if mask is not None and not (scheme and scheme.is_binary):
        boxes = label_boxes(mask)
        vertebrae = measure_vertebrae(mask, boxes)
        yield from check_spine(case.case, mask.path, vertebrae, measure_contacts(mask, boxes))
    if image is not None and mask is not None:
        yield from check_pair(case.case, image, mask)
    if (main := image or mask) is not None:
        with_levels = None if scheme and scheme.is_binary else mask
        yield from check_centroids(case, main.geometry, with_levels, vertebrae)


def _read_pair(case: Case) -> tuple[Volume | None, Volume | None, list[Finding]]:
    image, mask = None, None
    findings: list[Finding] = []
    if case.image is None:
        message = f"there is no CT for the mask {case.mask}"
        findings.append(Finding(case.case, "warning", "mask-without-scan", message))
    else:
        path = case.image
        image = _read(case.case, "scan", lambda: read_image(path), findings)
    if case.mask is None:
        message = "there is no mask: it can be predicted, not trained on"
        findings.append(Finding(case.case, "note", "scan-without-mask", message))
    else:
        mask = _read(case.case, "mask", lambda: read_mask(case), findings)
    return image, mask, findings


def _read(case: str, what: str, reader: Callable[[], Volume], findings: list[Finding]) -> Volume | None:
    try:
        return reader()
    except DataError as error:
        code = f"{what}-affine" if isinstance(error, GeometryError) else f"{what}-unreadable"
        findings.append(Finding(case, "error", code, error.message, error.hint))
    except CASE_ERRORS as error:
        findings.append(Finding(case, "error", f"{what}-unreadable", reason_of(error)))
    return None


def _grid_facts(main: Volume) -> dict[str, Any]:
    geometry, header = main.geometry, main.header
    # For each axis the cosine with the world axis that it is nearest to: 1 if the scan is straight. The largest angle
    # between the two is what is told.
    cosines = np.abs(geometry.affine[:3, :3] / np.array(geometry.spacing_mm)).max(axis=0)
    # Field of view along R-L, A-P and S-I, the edges of the outermost voxels included
    along = {_WORLD_AXIS[code]: axis for axis, code in enumerate(geometry.axis_codes)}
    x, y, z = (round(geometry.shape[along[world]] * geometry.spacing_mm[along[world]], 3) for world in range(3))
    return {
        "shape": geometry.shape,
        "spacing_mm": geometry.spacing_mm,
        "axis_codes": "".join(geometry.axis_codes),
        "oblique_degrees": round(float(np.rad2deg(np.arccos(np.clip(cosines.min(), 0, 1)))), 3),
        "stored": (str(header.get_data_dtype()), int(header["sform_code"]), int(header["qform_code"])),
        "extent_mm": (x, y, z),
    }


def _voxel_facts(image: Volume | None, mask: Volume | None) -> dict[str, Any]:
    if image is None:
        return {}
    labels = None
    if mask is not None:
        how = placement(mask.geometry, image.geometry)
        if how == "same":
            labels = mask.array
        elif how == "turned":
            labels = carried_over(mask, image.geometry)
    facts = measure_voxels(image, labels)
    return {
        "hu_inside": facts.inside,
        "hu_outside": facts.outside,
        "hu_range": facts.hu_range,
        "fingerprint": facts.fingerprint,
    }


def _label_facts(mask: Volume | None, counts: dict[int, int], scheme: MaskScheme | None) -> dict[str, Any]:
    if mask is None:
        return {}
    if scheme and scheme.is_binary:
        voxels_inside = sum(counts.values())
        volume = round(voxels_inside * mask.geometry.voxel_ml, 3)
        return {"has_mask": True, "is_binary": True, "binary_voxels": voxels_inside, "binary_ml": volume}
    voxels = vertebrae_of(counts)
    volumes = {label: round(count * mask.geometry.voxel_ml, 3) for label, count in voxels.items()}
    return {"has_mask": True, "label_voxels": voxels, "label_ml": volumes}


def predicted_bytes(case: Case) -> int:
    """Memory that ``survey_case`` will need, by the headers alone; 0 for files that cannot be read."""
    needed = 0
    for path in filter(None, (case.image, case.mask)):
        try:
            geometry, header = read_geometry(path)
        except CASE_ERRORS:
            continue
        dtype, (slope, inter) = header.get_data_dtype(), header.get_slope_inter()
        scaled = (slope, inter) not in ((None, None), (1.0, 0.0))
        stored = int(dtype.itemsize)
        # Bytes for each voxel at the two moments that take most: when it is unpacked, and when it is converted.
        unpacking = stored * (2 if path.suffix.lower() == ".gz" else 1)
        converting = stored + (12 if scaled or stored > 4 else 1)
        needed += math.prod(geometry.shape) * max(unpacking, converting)
    return needed
