"""Where a header says that the voxels lie, and whether that can be believed."""

from collections.abc import Iterator

import numpy as np
from nibabel.spatialimages import HeaderDataError

from verse3d.core.limits import spacing_problem
from verse3d.core.volume import Volume
from verse3d.data.quality.findings import Finding

_SKEW_TOLERANCE = 1e-4
_FORM_TOLERANCE_MM = 0.1


def check_header(case: str, image: Volume) -> Iterator[Finding]:
    """Impossible spacing, sheared axes, missing codes, forms that contradict each other."""
    header, geometry = image.header, image.geometry
    if problem := spacing_problem(geometry):
        yield Finding(
            case,
            "error",
            "spacing",
            f"{image.path}: {problem}",
            "repair the header's spacing, or export the scan from its DICOM series again; predict and train refuse it",
        )
    if geometry.skew > _SKEW_TOLERANCE:
        yield Finding(
            case,
            "warning",
            "affine-skewed",
            f"{image.path}: the axes are not perpendicular (cosine {geometry.skew:.2g}); ITK-SNAP may refuse the file",
            "verse3d keeps the affine as it is; convert the scan from DICOM again if other programs refuse it",
        )
    # sform   qform   nibabel takes        other programs
    #   0       0     a guess              another guess
    #   1       0     the sform            the sform
    #   0       1     the qform            the qform
    #   1       1     the sform            some of them the qform
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        yield Finding(
            case,
            "warning",
            "no-orientation",
            f"{image.path}: sform_code and qform_code are both 0, so left and right are a guess",
            "compare with a scan whose orientation is known",
        )
    if sform and qform:
        yield from _check_forms(case, image)


def _check_forms(case: str, image: Volume) -> Iterator[Finding]:
    apart = _forms_apart_mm(image)
    if apart <= _FORM_TOLERANCE_MM:
        return
    yield Finding(
        case,
        "warning",
        "forms-disagree",
        f"{image.path}: sform and qform place voxels up to {apart:.1f} mm apart"
        if apart < np.inf
        else f"{image.path}: the qform is not a rotation",
        "verse3d (like nibabel) uses the sform; some viewers use the qform",
    )
    forms = (image.header.get_sform, image.header.get_qform)
    if np.isfinite(apart) and len({float(np.linalg.det(form()[:3, :3])) < 0 for form in forms}) > 1:  # one is mirrored
        yield Finding(
            case,
            "warning",
            "left-right",
            f"{image.path}: sform and qform are mirror images of each other, so programs that use one or the other "
            "show left and right exchanged",
            "find out which one is right (the liver lies right) and make both the same",
        )


def _forms_apart_mm(image: Volume) -> float:
    """How far sform and qform place the same corner apart; NaN if the qform makes no sense."""
    shape = np.array(image.geometry.shape) - 1
    # Both forms are affine, so they lie farthest apart at a corner.
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    try:
        difference = image.header.get_sform() - image.header.get_qform()
    except (ValueError, HeaderDataError):  # the quaternion is longer than 1
        return float("nan")
    return float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())
