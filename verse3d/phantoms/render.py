"""Vertebrae onto a voxel grid: how much of each voxel is bone, how dense it is, and whose it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from verse3d.core.geometry import Geometry
from verse3d.core.labels import vertebra as label_of
from verse3d.phantoms.grid import Block, block_around, refinement
from verse3d.phantoms.shapes import Array, Points, coverage
from verse3d.phantoms.spine import Pose, PosedVertebra, Spine
from verse3d.phantoms.vertebra import Distances, vertebra_sdf

FAR_MM = 9.0
_CELL_MM = 4.0
_TOUCHES = 0.02


@dataclass(frozen=True)
class Density:
    """How dense one person's bone is (HU) and how thick its shell (mm)."""

    core_hu: float
    shell_hu: float
    shell_mm: float
    joint_mm: float


@dataclass
class Bones:
    """What the vertebrae leave on a grid; all arrays have the grid's shape.

    Attributes:
        share: part (0-1) of each voxel that is bone, float32.
        hu: HU of that bone times its share, float32.
        mask: VerSe ids, uint8; 0 where no fully visible vertebra fills half of the voxel.
        distance: mm to the nearest vertebra (at most ``FAR_MM``), float32.
        labelled: names of the vertebrae that lie wholly in the grid.
    """

    share: Array
    hu: Array
    mask: NDArray[np.uint8]
    distance: Array
    labelled: tuple[str, ...] = ()


@dataclass
class Drawn:
    """A bone on the samples of a block.

    Attributes:
        name: of the vertebra.
        block: where its samples lie.
        bone: mm to its surface, negative inside, float32.
        body: mm to the surface of its body alone.
        labelled: whether the mask shall hold it if it lies wholly in the grid.
    """

    name: str
    block: Block
    bone: Array
    body: Array
    labelled: bool = True


def draw_vertebrae(spine: Spine, geometry: Geometry, density: Density) -> Bones:
    """Draw every vertebra that reaches into the grid; neighbours are kept ``density.joint_mm`` apart."""
    drawn: list[Drawn | None] = []
    for vertebra in spine.vertebrae:
        block = block_around(geometry, vertebra.cloud_mm(), 4.0, refinement(geometry))
        if block.empty:
            drawn.append(None)
        else:
            drawn.append(Drawn(vertebra.name, block, *_evaluate(vertebra, geometry, block)))
    return fused(drawn, geometry, density.joint_mm, lambda item: _bone_hu(spine, item, geometry, density))


def fused(drawn: Sequence[Drawn | None], geometry: Geometry, joint_mm: float, hu_of: Callable[[Drawn], Array]) -> Bones:
    """Bones put together on the grid, head to tail; None stands for one that is out of view.

    Args:
        drawn: the bones; where two neighbours come closer than ``joint_mm`` both are carved (in place).
        geometry: the grid.
        joint_mm: width of a joint.
        hu_of: HU of each sample of a bone.
    """
    for upper, lower in pairwise(drawn):
        if upper is not None and lower is not None:
            _open_joint(upper, lower, joint_mm)
    zeros = np.zeros(geometry.shape, np.float32)
    far = np.full(geometry.shape, FAR_MM, np.float32)
    bones = Bones(zeros, zeros.copy(), np.zeros(geometry.shape, np.uint8), far)
    best = np.zeros(geometry.shape, np.float32)
    for item in drawn:
        if item is not None:
            _add(bones, best, item, geometry, hu_of(item))
    return bones


def _evaluate(vertebra: PosedVertebra, geometry: Geometry, block: Block) -> Distances:
    """Distances on all samples of the block: exact near and in the bone, ``FAR_MM`` elsewhere."""
    points = block.points(geometry, vertebra.pose)
    near = near_samples(block, geometry, vertebra.pose, lambda lattice: vertebra_sdf(vertebra.shape, lattice).bone)
    found = vertebra_sdf(vertebra.shape, Points(*(axis[near] for axis in points)))
    bone, body = (np.full(block.shape, FAR_MM, np.float32) for _ in range(2))
    bone[near], body[near] = np.minimum(found.bone, FAR_MM), np.minimum(found.body, FAR_MM)
    return Distances(bone, body)


def near_samples(
    block: Block, geometry: Geometry, pose: Pose, distance: Callable[[Points], Array]
) -> NDArray[np.bool_]:
    """Which samples may lie close to a bone, found on a lattice of about 4 mm.

    Most of a block is far from its bone: there it only has to be known that it is far.

    Args:
        block: the samples.
        geometry: the grid that the block belongs to.
        pose: the frame that ``distance`` takes points in.
        distance: mm to the bone's surface.
    """
    sample_mm = float(np.mean(np.array(geometry.spacing_mm) / block.refine))
    every = max(round(_CELL_MM / sample_mm), 1)
    coarse = distance(block.points(geometry, pose, every)) < 2.2 * _CELL_MM
    for axis in range(3):
        # Samples beyond the last lattice point take that point's answer.
        index = np.minimum(np.arange(block.shape[axis]) // every, coarse.shape[axis] - 1)
        coarse = np.take(coarse, index, axis=axis)
    return np.asarray(coarse)


def _open_joint(a: Drawn, b: Drawn, gap_mm: float) -> None:
    """Carve both bones along the surface halfway between them."""
    start, stop = np.maximum(a.block.start, b.block.start), np.minimum(a.block.stop, b.block.stop)
    if np.any(stop <= start):
        return
    windows = []
    for item in (a, b):
        # The common block in the samples of each, which are finer than voxels.
        low, high = (start - item.block.start) * item.block.refine, (stop - item.block.start) * item.block.refine
        windows.append(item.bone[tuple(slice(int(i), int(j)) for i, j in zip(low, high, strict=True))])
    first, second = windows
    # first - second is 0 half-way between both bones; within gap / 2 of that surface there is none:
    #
    #      first  ###|   |###  second
    half = (first - second) * 0.5
    np.maximum(first, half + 0.5 * gap_mm, out=first)
    np.maximum(second, 0.5 * gap_mm - half, out=second)


def _add(bones: Bones, best: Array, item: Drawn, geometry: Geometry, dense: Array) -> None:
    where = item.block.slices
    width = 0.9 * float(np.mean(np.array(geometry.spacing_mm) / item.block.refine))
    filled = coverage(item.bone, width)
    share, hu = item.block.averaged(filled), item.block.averaged(filled * dense)
    wholly = item.labelled and bool((share >= 0.5).any()) and not _touches_border(share, item.block, geometry)
    if wholly:
        # What a carved joint may have cut off: all voxels that do not hang together with the largest part. Without
        # ``sizes[0] = 0`` the background would be the largest.
        inside = share >= 0.5
        parts, _ = label(inside)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        crumbs = inside & (parts != sizes.argmax())
        share[crumbs] = hu[crumbs] = 0.0
        bones.labelled += (item.name,)
    bones.share[where] += share
    bones.hu[where] += hu
    np.minimum(bones.distance[where], item.block.averaged(item.bone), out=bones.distance[where])
    # Where two bones meet in a voxel it belongs to the one that fills more of it.
    mine = (share >= 0.5) & (share > best[where])
    best[where] = np.maximum(best[where], share)
    bones.mask[where][mine] = label_of(item.name).id if wholly else 0


def _touches_border(share: Array, block: Block, geometry: Geometry) -> bool:
    """Whether bone reaches a face of the grid, so that the vertebra may go on outside."""
    for axis in range(3):
        first, last = np.take(share, 0, axis), np.take(share, -1, axis)
        at_start = block.start[axis] == 0 and first.max() > _TOUCHES
        at_stop = block.stop[axis] == geometry.shape[axis] and last.max() > _TOUCHES
        if at_start or at_stop:
            return True
    return False


def _bone_hu(spine: Spine, item: Drawn, geometry: Geometry, density: Density) -> Array:
    """Dense shell around a spongy core; the processes have a thicker shell and a denser core than the body."""
    # 0 in the body, 1 from about 3 mm outside of it
    vertebra = spine.named(item.name)
    process = np.clip(item.body * 0.3, 0.0, 1.0)
    # Slow waves (about +-15 %) of the core's density, in the vertebra's own frame
    p = item.block.points(geometry, vertebra.pose)
    a, b, c = vertebra.shape.phases
    waves = np.sin(p.x * 0.55 + p.y * 0.2 + a) + np.sin(p.y * 0.6 - p.z * 0.25 + b) + np.sin(p.z * 0.5 + p.x * 0.3 + c)
    core = density.core_hu * (1.0 + np.asarray(0.05 * waves)) + process * 90.0
    shell = np.clip(0.5 + (item.bone + density.shell_mm * (1.0 + 0.5 * process)) * 1.25, 0.0, 1.0)
    return np.asarray(core + shell * (density.shell_hu - core))
