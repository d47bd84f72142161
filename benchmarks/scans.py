"""Used by the benchmarks of prediction: synthetic CT scans of the sizes that hospitals make, kept in a folder.

A whole person (spine, ribs, hips, organs, table; seed 5) is drawn at 2 mm over 500 mm of height, carried to the wanted
grid by linear interpolation, and every voxel, air included, gets its own noise of 20 HU, so that gzip has as much work
as with a real scan. Taller scans go on with the same person upside down, again and again. int16, axes LAS, level 1 of
gzip as nibabel writes it.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from verse3d.core.files import whole_file
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_linear
from verse3d.phantoms.profile import profile_of
from verse3d.phantoms.render import Density, draw_vertebrae
from verse3d.phantoms.shapes import coverage
from verse3d.phantoms.skeleton import draw_distractors
from verse3d.phantoms.spine import Spine, build_spine
from verse3d.phantoms.tissue import draw_soft_tissue

SPACINGS_MM = {
    "128x128x128": (1.5, 1.5, 1.5),
    "256x256x200": (1.5, 1.5, 2.0),
    "512x512x500": (0.8, 0.8, 1.0),
    "512x512x1500": (0.8, 0.8, 1.0),
}
"""So that a whole body fits into the field of view: 41 and 38 cm wide. The smallest is a cut around a spine, 19 cm."""
LARGE = tuple(SPACINGS_MM)[1:]
"""The sizes of whole bodies."""
OTHER_SPACING_MM = (3.0, 3.0, 4.0)
"""Of any other size: a small scan, to see whether everything works, still holds a good part of a person."""
SEED, NOISE_HU, DRAWN_MM, TALLEST_MM = 5, 20.0, 2.0, 500.0
SLICES_AT_ONCE = 20


def make_scan(folder: Path, size: str) -> Path:
    """The scan of that size, e.g. "512x512x500"; made if it is not in the folder yet."""
    path = folder / f"scan-{size}.nii.gz"
    if not path.is_file():
        print(f"making {path} ...", flush=True)
        target = _geometry(size)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            nib.save(nib.Nifti1Image(_scanned(target), target.affine, dtype=np.int16), part)
    return path


def _geometry(size: str) -> Geometry:
    """The grid of that size: the bottom lies below the sacrum, the spine a little behind the middle."""
    i, j, k = (int(number) for number in size.split("x"))
    spacing_mm = SPACINGS_MM.get(size, OTHER_SPACING_MM)
    spine = _spine()
    width_mm, depth_mm = i * spacing_mm[0], j * spacing_mm[1]
    affine = np.diag([-spacing_mm[0], spacing_mm[1], spacing_mm[2], 1.0])
    height_mm = min(k * spacing_mm[2], TALLEST_MM)
    bottom_mm = float(spine.sacrum.centre[2]) - 0.08 * height_mm
    affine[:3, 3] = (width_mm / 2, -0.45 * depth_mm, bottom_mm)
    affine[1, 3] += float(np.mean([vertebra.pose.centre[1] for vertebra in spine.vertebrae]))
    return Geometry((i, j, k), affine)


def _spine() -> Spine:
    return build_spine(np.random.default_rng(SEED), None)


def _scanned(target: Geometry) -> NDArray[np.int16]:
    slices_of_person = min(target.shape[2], round(TALLEST_MM / target.spacing_mm[2]))
    drawn = Geometry((*target.shape[:2], slices_of_person), target.affine).resampled((DRAWN_MM,) * 3)
    person = _person(drawn)
    image = np.empty(target.shape, np.int16, order="F")
    for start in range(0, target.shape[2], SLICES_AT_ONCE):
        slices = np.arange(start, min(start + SLICES_AT_ONCE, target.shape[2]))
        image[:, :, slices] = _noisy(_interpolated(person, drawn, target, slices, slices_of_person), start)
    return image


def _interpolated(
    person: NDArray[np.float32], drawn: Geometry, target: Geometry, slices: NDArray[np.int_], period: int
) -> NDArray[np.float32]:
    """These slices of the scan in HU, without noise; beyond the person it goes on upside down."""
    turn, place = np.divmod(slices, period)
    place = np.where(turn % 2, period - 1 - place, place)
    first = int(place.min())
    block = target.cropped((0, 0, first), (*target.shape[:2], int(place.max()) + 1))
    return resample_linear(person, drawn, block)[:, :, place - first]


def _noisy(hu: NDArray[np.float32], number: int) -> NDArray[np.int16]:
    noise = np.random.default_rng([SEED, number]).standard_normal(hu.shape, dtype=np.float32)
    return np.clip(np.rint(hu + NOISE_HU * noise), -1024, 3071).astype(np.int16)


def _person(geometry: Geometry) -> NDArray[np.float32]:
    """The body in HU: soft tissue, then the other bones, then the vertebrae over them."""
    random = np.random.default_rng(SEED)
    spine, density = _spine(), Density(core_hu=180.0, shell_hu=780.0, shell_mm=1.1, joint_mm=1.5)
    profile = profile_of(spine, random)
    hu = draw_soft_tissue(spine, profile, geometry, random)
    others = coverage(draw_distractors(spine, profile, geometry), DRAWN_MM)
    hu += others * (400.0 - hu)
    bones = draw_vertebrae(spine, geometry, density)
    return np.asarray(hu * (1.0 - bones.share) + bones.hu, dtype=np.float32)
