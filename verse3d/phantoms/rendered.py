"""A CT drawn around real vertebrae: the shapes come from a mask, all else is the phantom's own body, drawn anew.

After SynthSeg (Billot et al., Medical Image Analysis 2023;86:102789): deform the labels, draw image and truth from the
same deformed labels, with tissues and a scanner chosen at random. The phantom's body takes the place of its Gaussian
mixture, so that what is beside a bone looks like what is there in a patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.labels import vertebra as label_of
from verse3d.phantoms.bone_tissue import BoneTissue, draw_density
from verse3d.phantoms.case import PhantomCase, compose_others
from verse3d.phantoms.deformation import Deformation, draw_deformation
from verse3d.phantoms.fitted import fitted_spine
from verse3d.phantoms.grid import WORLD, block_around, slice_refinement
from verse3d.phantoms.mask_shapes import BoneShape, Vector
from verse3d.phantoms.profile import profile_of
from verse3d.phantoms.render import FAR_MM, Bones, Density, Drawn, fused, near_samples
from verse3d.phantoms.scanner import Protocol, scanned
from verse3d.phantoms.shapes import Array, Points
from verse3d.phantoms.soft_variation import fill_canal, make_stouter, vary_tissue
from verse3d.phantoms.spine import Spine
from verse3d.phantoms.tissue import draw_soft_tissue
from verse3d.phantoms.view import grid_around

_STREAM = 17
"""Keeps the draws of these phantoms apart from those of ``make_case``."""
_TOP_DOWN = [label.name for label in VERTEBRAE if label.name not in ("T13", "L6")]
_COPIES = 2
_MOST_VOXELS = 3.0e6
_HEIGHT_IN_RADII = 2.2
"""A body is a little higher than the largest ball in it is wide."""


@dataclass(frozen=True, eq=False)
class _Source:
    """Where a bone comes from: the shape of a vertebra, and for a copy how far (mm) from that one it stands."""

    name: str
    shape: BoneShape
    shift: Vector
    labelled: bool


def make_rendered(shapes: Sequence[BoneShape], seed: int, index: int = 0) -> PhantomCase:
    """A CT around vertebrae of a mask; the same shapes and numbers always give the same voxels.

    Labelled are, as in VerSe, the vertebrae that lie wholly in view. Beyond the mask's ends stand copies of its end
    vertebrae, or the sacrum and the skull; they are as dense as the labelled ones and never labelled.

    Args:
        shapes: vertebrae, head to tail, at least one.
        seed: of the series, >= 0.
        index: of the case, >= 0.
    """
    view_rng, bone_rng, tissue_rng, scan_rng = (np.random.default_rng([seed, index, _STREAM, n]) for n in range(4))
    # mask -> deformation -> view of some of it -> bones and body on the grid of the view -> scanner
    clouds = [shape.cloud_mm() for shape in shapes]
    everything = np.concatenate(clouds)
    deformation = draw_deformation(view_rng, everything.min(axis=0), everything.max(axis=0))
    aimed_at = _levels_in_view(view_rng, len(shapes))
    cloud = deformation.drawn_at(np.concatenate(clouds[aimed_at]))
    shows_sacrum = shapes[aimed_at][-1].name in ("L5", "L6")
    geometry, headers = grid_around(view_rng, cloud, shows_sacrum=shows_sacrum, most_voxels=_MOST_VOXELS)
    sources = _with_neighbours(shapes)
    heights = {source.name: _HEIGHT_IN_RADII * source.shape.radius for source in sources}
    # Where the bones come to stand (world mm).
    found = deformation.drawn_at(np.array([source.shape.centre + source.shift for source in sources]))
    centres = {source.name: centre for source, centre in zip(sources, found, strict=True)}
    # The atlas has no body to fit a spine to.
    bodies = {name: centre for name, centre in centres.items() if name != "C1"} or centres
    spine = fitted_spine(bone_rng, bodies, heights)
    density = draw_density(bone_rng)
    bones = _draw_bones(sources, deformation, spine, geometry, density=density, rng=bone_rng)
    hu = _draw_body(spine, bones, geometry, density, tissue_rng)
    image = scanned(hu, geometry, _protocol(scan_rng), scan_rng)
    kept = tuple(name for name in bones.labelled if (bones.mask == label_of(name).id).any())
    points = geometry.index_from_world([centres[name] for name in kept]).tolist() if kept else []
    centroids = {label_of(name).id: (i, j, k) for name, (i, j, k) in zip(kept, points, strict=True)}
    return PhantomCase(image, bones.mask, geometry, centroids, headers, kept)


def _protocol(rng: np.random.Generator) -> Protocol:
    """From smooth and quiet to the sharp, noisy kernels that bones are looked at with."""
    sharp = float(rng.uniform(0.0, 1.0))
    noise_hu = float(rng.uniform(8.0 + 20.0 * sharp, 20.0 + 100.0 * sharp))
    return Protocol(blur_mm=0.75 - 0.45 * sharp, noise_hu=noise_hu, grain_voxels=float(rng.uniform(0.4, 0.9)))


def _levels_in_view(rng: np.random.Generator, count: int) -> slice:
    """All vertebrae, or some that follow each other."""
    if count < 4 or rng.random() < 0.4:
        return slice(0, count)
    length = int(rng.integers(3, count + 1))
    first = int(rng.integers(count - length + 1))
    return slice(first, first + length)


def _with_neighbours(shapes: Sequence[BoneShape]) -> list[_Source]:
    """The shapes, and copies of the first and last one as the bones beyond, head to tail."""
    own = [_Source(shape.name, shape, np.zeros(3), True) for shape in shapes]
    upper, lower = _beyond(shapes[0], shapes[1:2], up=True), _beyond(shapes[-1], shapes[-2:-1], up=False)
    return [*reversed(upper), *own, *lower]


def _beyond(end: BoneShape, beside: Sequence[BoneShape], *, up: bool) -> list[_Source]:
    """Copies of an end vertebra in the places of up to two that follow; none after a supernumerary one.

    Args:
        end: the first or the last shape.
        beside: its neighbour, if it has one.
        up: whether the copies stand above.
    """
    if end.name not in _TOP_DOWN:
        return []
    # A disc is a fifth as high as a body.
    step = end.centre - beside[0].centre if beside else np.array([0.0, 0.0, 1.2 * _HEIGHT_IN_RADII * end.radius])
    place = _TOP_DOWN.index(end.name)
    names = _TOP_DOWN[max(place - _COPIES, 0) : place][::-1] if up else _TOP_DOWN[place + 1 : place + 1 + _COPIES]
    # The atlas, the axis and the sacrum look like no other vertebra: nothing above is copied into their places.
    names = [name for name in names if not (up and name in ("C1", "C2"))]
    shift = step if beside or up else -step
    return [_Source(name, end, shift * (number + 1), False) for number, name in enumerate(names)]


def _draw_bones(
    sources: Sequence[_Source],
    deformation: Deformation,
    spine: Spine,
    geometry: Geometry,
    *,
    density: Density,
    rng: np.random.Generator,
) -> Bones:
    drawn = [_drawn(source, deformation, spine, geometry) for source in sources]
    tissue = BoneTissue.drawn(rng, density, [source.name for source in sources])

    def hu_of(item: Drawn) -> Array:
        posed = spine.named(item.name)
        return tissue.hu(item, item.block.points(geometry, posed.pose).z / (0.5 * posed.shape.body_height))

    return fused(drawn, geometry, density.joint_mm, hu_of)


def _drawn(source: _Source, deformation: Deformation, spine: Spine, geometry: Geometry) -> Drawn | None:
    """The deformed bone on the samples around it; None if it is out of view."""
    cloud = deformation.drawn_at(source.shape.cloud_mm() + source.shift)
    block = block_around(geometry, cloud, 5.0, slice_refinement(geometry))
    if block.empty:
        return None

    def distance(points: Points) -> Array:
        where = deformation.source(np.stack(np.broadcast_arrays(*points)))
        return source.shape.at(where - source.shift.astype(np.float32).reshape(3, *[1] * (where.ndim - 1)))

    near = near_samples(block, geometry, WORLD, distance)
    bone = np.full(block.shape, FAR_MM, np.float32)
    bone[near] = distance(Points(*(axis[near] for axis in block.points(geometry))))
    # Behind the rear wall of the body, which lies a little further back than its largest ball, begins the arch.
    own = block.points(geometry, spine.named(source.name).pose)
    arch = np.broadcast_to(-(own.y + 1.25 * source.shape.radius), block.shape)
    return Drawn(source.name, block, bone, np.maximum(bone, arch), source.labelled)


def _draw_body(spine: Spine, bones: Bones, geometry: Geometry, density: Density, rng: np.random.Generator) -> Array:
    """Soft tissue, other bones and the vertebrae over them, float32 HU before scanning."""
    profile = profile_of(spine, rng)
    make_stouter(profile, rng)
    hu = draw_soft_tissue(spine, profile, geometry, rng)
    vary_tissue(hu, geometry, rng)
    fill_canal(hu, profile, geometry, rng)
    compose_others(hu, spine, profile, bones, geometry=geometry, density=density)
    share = np.minimum(bones.share, 1.0)
    # Copies may overlap a little: what is more than whole is scaled back.
    hu *= 1.0 - share
    hu += bones.hu * (share / np.maximum(bones.share, 1e-6))
    return hu
