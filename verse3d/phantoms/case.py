"""One phantom case in memory: a person, a scan of that person, and the truth about it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import vertebra as label_of
from verse3d.phantoms.grid import Block, slice_refinement
from verse3d.phantoms.levels import Anomaly
from verse3d.phantoms.profile import Profile, profile_of
from verse3d.phantoms.render import Bones, Density, draw_vertebrae
from verse3d.phantoms.scanner import Protocol, add_screws, scanned
from verse3d.phantoms.shapes import Array, coverage
from verse3d.phantoms.skeleton import draw_distractors
from verse3d.phantoms.spine import Spine, build_spine
from verse3d.phantoms.tissue import draw_soft_tissue
from verse3d.phantoms.view import Headers, choose_view, levels_in_view

Centroid = tuple[float, float, float]
_BODY_STAGE, _VIEW_STAGE, _TISSUE_STAGE, _SCAN_STAGE = range(4)


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """A synthetic CT and its truth.

    Attributes:
        image_hu: int16 (I, J, K), Hounsfield units.
        mask: uint8 (I, J, K), VerSe ids of the fully visible vertebrae, 0 elsewhere.
        geometry: the grid of both.
        centroids: VerSe id to voxel index (i, j, k), fractional, inside the vertebra; head to tail.
        headers: how a NIfTI header shall state the affine.
        levels: names of the labelled vertebrae, head to tail.
        anomaly: what is unusual about this person, or None.
    """

    image_hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    geometry: Geometry
    centroids: dict[int, Centroid]
    headers: Headers
    levels: tuple[str, ...]
    anomaly: Anomaly | None = None


def make_case(seed: int, index: int = 0, *, anomaly: Anomaly | None = None) -> PhantomCase:
    """Make case number ``index`` of a series; the same numbers always give the same voxels.

    The part of the spine in view takes turns with ``index``: lumbar, cervicothoracic, thoracolumbar, thoracic; an
    anomaly picks the part that shows it. Peak memory is about 100 bytes per voxel.

    Args:
        seed: of the whole series, >= 0.
        index: number of the case in the series, >= 0.
        anomaly: "l6" (a sixth lumbar vertebra), "t13" (a thirteenth thoracic one), "t12-missing" (L1 follows T11),
            "l5-missing" (four lumbar ones), "collapsed" (one or two flattened bodies in view), "screw" (metal in the
            pedicles of two vertebrae).

    Raises:
        DataError: ``seed`` or ``index`` is negative.
    """
    if seed < 0 or index < 0:
        raise DataError(f"seed and index must not be negative, got seed {seed} and index {index}")
    # person -> view -> body on the grid of the view -> scanner; each stage draws from a generator of its own, so
    # a change in one leaves the draws of the others as they were
    spine, aimed_at, chosen = _person(seed, index, anomaly)
    view = choose_view(_rng(seed, index, _VIEW_STAGE), spine, aimed_at)
    hu, bones = _drawn(seed, index, spine, view.geometry, chosen if anomaly == "screw" else ())
    scan_rng = _rng(seed, index, _SCAN_STAGE)
    image = scanned(hu, view.geometry, Protocol.drawn(scan_rng), scan_rng)
    centroids = _centroids(spine, bones, view.geometry)
    return PhantomCase(image, bones.mask, view.geometry, centroids, view.headers, bones.labelled, anomaly)


def _rng(seed: int, index: int, stage: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, stage])


def _person(seed: int, index: int, anomaly: Anomaly | None) -> tuple[Spine, tuple[str, ...], tuple[str, ...]]:
    """The spine, the names that the scan aims at, and the names that the anomaly strikes."""
    rng = _rng(seed, index, _BODY_STAGE)
    # Built twice from the same draws: its names are needed to choose what collapses.
    names = build_spine(_rng(seed, index, _BODY_STAGE), anomaly).names()
    aimed_at = levels_in_view(rng, index, names, anomaly)
    struck = [name for name in aimed_at[1:-1] if name not in ("C1", "C2")]
    first = int(rng.integers(len(struck) - 1))
    chosen = tuple(struck[first : first + 2])
    collapsed = chosen[: int(rng.integers(1, 3))] if anomaly == "collapsed" else ()
    return build_spine(_rng(seed, index, _BODY_STAGE), anomaly, collapsed), aimed_at, chosen


def _drawn(seed: int, index: int, spine: Spine, geometry: Geometry, screwed: tuple[str, ...]) -> tuple[Array, Bones]:
    """The body on the grid before scanning (float32 HU), and its vertebrae."""
    rng = _rng(seed, index, _TISSUE_STAGE)
    density = Density(
        core_hu=float(rng.uniform(120, 240)),
        shell_hu=float(rng.uniform(680, 900)),
        shell_mm=float(rng.uniform(0.9, 1.3)),
        joint_mm=float(rng.uniform(1.2, 1.8)),
    )
    profile = profile_of(spine, rng)
    hu = draw_soft_tissue(spine, profile, geometry, rng)
    bones = draw_vertebrae(spine, geometry, density)
    compose_others(hu, spine, profile, bones, geometry=geometry, density=density)
    # Mixed by share: a voxel that is half bone is half as dense as bone, as in a scanner.
    hu *= 1.0 - bones.share
    hu += bones.hu
    add_screws(hu, geometry, [spine.named(name) for name in screwed])
    return hu, bones


def compose_others(
    hu: Array, spine: Spine, profile: Profile, bones: Bones, *, geometry: Geometry, density: Density
) -> None:
    """Put the other bones in (in place), a joint space away from every vertebra; thick slices are sampled finely."""
    fine = Block(np.zeros(3, np.int64), np.array(geometry.shape), slice_refinement(geometry))
    # In thick slices thin ribs would come and go, so these bones are drawn on finer samples and averaged.
    distance = bones.distance
    for axis, factor in enumerate(fine.refine.tolist()):
        distance = np.repeat(distance, factor, axis) if factor > 1 else distance
    fine_geometry = fine.geometry(geometry)
    sdf = np.maximum(draw_distractors(spine, profile, fine_geometry), density.joint_mm + 0.3 - distance)
    share = coverage(sdf, 0.9 * float(np.mean(fine_geometry.spacing_mm)))
    core = density.core_hu * 0.8
    shell = np.clip(0.5 + sdf + density.shell_mm, 0.0, 1.0)
    value = fine.averaged(share * (core + shell * 0.75 * (density.shell_hu - core)))
    hu *= 1.0 - fine.averaged(share)
    hu += value


def _centroids(spine: Spine, bones: Bones, geometry: Geometry) -> dict[int, Centroid]:
    found: dict[int, Centroid] = {}
    for name in bones.labelled:
        posed = spine.named(name)
        # At the shape's own anchor, which lies inside of the bone; a centre of mass may lie in the canal.
        i, j, k = geometry.index_from_world(posed.pose.with_centre(posed.shape.anchor).centre[None])[0].tolist()
        found[label_of(name).id] = (i, j, k)
    return found
