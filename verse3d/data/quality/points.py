"""Centroids beside the mask: each should lie in its own label, and each label should have one."""

from collections.abc import Iterator

import numpy as np

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.volume import Volume
from verse3d.data.cases import Case
from verse3d.data.centroids import Centroids, labels_at, read_centroids
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.vertebrae import MeasuredVertebra

_NAMES = {row.id: row.name for row in VERTEBRAE}
_MANY_OUTSIDE = 0.5


def check_centroids(
    case: Case, geometry: Geometry, mask: Volume | None, vertebrae: tuple[MeasuredVertebra, ...]
) -> Iterator[Finding]:
    """Everything about the centroid file of a case; nothing if it has none.

    Args:
        case: whose ``relabel`` corrects the centroids as it corrects the mask.
        geometry: of its scan.
        mask: its label map, on any grid, or None.
        vertebrae: what the mask holds.
    """
    if case.centroids is None:
        return
    try:
        centroids = read_centroids(case.centroids, geometry, mask)
    except CASE_ERRORS as error:
        hint = getattr(error, "hint", "") or "download it again, or leave it out: masks do not need it"
        message = error.message if isinstance(error, DataError) else f"{case.centroids}: {reason_of(error)}"
        yield Finding(case.case, "warning", "centroid-unreadable", message, hint)
        return
    yield from _check_file(case, centroids, geometry)
    if mask is not None:
        yield from _check_outside(case, centroids, mask, vertebrae)
        yield from _check_partners(case, centroids, vertebrae)


def _check_file(case: Case, centroids: Centroids, geometry: Geometry) -> Iterator[Finding]:
    if centroids.turned_from:
        own = "".join(geometry.axis_codes)
        message = f"{case.centroids}: counts along {centroids.turned_from}, the scan's axes are {own}: turned to fit"
        yield Finding(case.case, "note", "centroid-direction", message)
    if centroids.skipped:
        names = ", ".join(_name(label) for label in centroids.skipped)
        message = f"{case.centroids}: the centroids of {names} are not numbers: left out"
        yield Finding(case.case, "note", "centroid-nan", message)


def _check_outside(
    case: Case, centroids: Centroids, mask: Volume, vertebrae: tuple[MeasuredVertebra, ...]
) -> Iterator[Finding]:
    present = {each.id for each in vertebrae}
    relabel = dict(case.relabel)
    points = [
        (relabel.get(label, label), point)
        for label, point in zip(centroids.labels, centroids.world_mm, strict=True)
        if relabel.get(label, label) in present
    ]
    found = labels_at(np.reshape([point for _, point in points], (-1, 3)), mask)
    outside = [(label, point) for (label, point), at in zip(points, found, strict=True) if at != label]
    # One finding for all of them: what is wrong is the file, not each point.
    if len(outside) > max(2, _MANY_OUTSIDE * len(points)):
        message = f"{case.centroids}: {len(outside)} of {len(points)} centroids lie outside of their labels"
        hint = "the file belongs to another scan or grid, or its labels are shifted against the mask's"
        yield Finding(case.case, "warning", "centroid-outside", message, hint)
        return
    for label, point in outside:
        index = tuple(round(value) for value in mask.geometry.index_from_world(point).tolist())
        # To the nearest voxel centre of its label. Few points lie outside, so few labels are walked like this.
        voxels = np.argwhere(mask.array == label)
        away_mm = float(np.linalg.norm(mask.geometry.world_from_index(voxels) - point, axis=1).min())
        message = (
            f"{case.centroids}: the centroid of {_name(label)} at index {index} of the mask lies "
            f"{away_mm:.1f} mm outside of its label"
        )
        yield Finding(
            case.case, "warning", "centroid-outside", message, "compare mask and centroid; verse3d needs the mask only"
        )


def _check_partners(case: Case, centroids: Centroids, vertebrae: tuple[MeasuredVertebra, ...]) -> Iterator[Finding]:
    relabel = dict(case.relabel)
    # A centroid that is no number names its vertebra all the same.
    listed = {relabel.get(label, label) for label in (*centroids.labels, *centroids.skipped)}
    labelled = {each.id for each in vertebrae}
    for code, rest, words in (
        ("centroid-absent", listed - labelled, "has centroids of vertebrae that the mask does not label"),
        ("centroid-missing", labelled - listed, "has no centroid of these labelled vertebrae"),
    ):
        if rest:
            names = ", ".join(_name(label) for label in sorted(rest))
            yield Finding(case.case, "note", code, f"{case.centroids} {words}: {names}")


def _name(label: int) -> str:
    return _NAMES.get(label, f"label {label}")
