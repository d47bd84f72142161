"""What is drawn for one training sample. Plain numbers from a random state: the same for every device and worker."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from verse3d.core.augmenting import AugmentConfig
from verse3d.core.axes import LEFT_RIGHT
from verse3d.data.samples.matrices import rotation, shear

_COEFFICIENTS_OF_SHEAR = {2: 2, 3: 6}


@dataclass(frozen=True, eq=False)
class Warp:
    """Where the voxels of a patch come from: ``x`` (from the middle of the patch) comes from ``matrix (x + u(x))``.

    Attributes:
        matrix: (d, d) rotation, shear, scale and mirror.
        shifts: (d, n, ...) voxels that a coarse lattice over the patch is moved by, or None. Between its points
            ``u`` is interpolated linearly; the lattice reaches from the first voxel to the last.
    """

    matrix: NDArray[np.float64]
    shifts: NDArray[np.float32] | None = None

    def reach(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """How far (voxels) from the middle a patch of ``size`` is read along each axis."""
        half = (np.array(size) - 1) / 2
        # The corner that lies farthest along an axis of the scan: |m0| h0 + |m1| h1 + |m2| h2.
        if self.shifts is not None:
            half = half + np.abs(self.shifts).reshape(len(size), -1).max(axis=1)
        return np.asarray(np.abs(self.matrix) @ half)


@dataclass(frozen=True, eq=False)
class Changes:
    """What happens to a sample. None, or an empty tuple, is no change.

    Attributes:
        mirror: left and right change places. Also part of ``warp.matrix`` if there is one.
        warp: rotation, scale, shear and elastic deformation.
        gamma: exponent of the grey values between the darkest and the brightest.
        gain: factor of the distance from the mean grey value.
        blur_voxels: standard deviation of a Gaussian along each axis.
        thickness_voxels: along each axis, the thickness of the slices that a scanner would have averaged over.
        phase: where the first of these slices begins, as a share of the thickness.
        noise_std: of white noise on grey values 0 ... 1 ...
        noise_seed: ... and its seed.
    """

    mirror: bool = False
    warp: Warp | None = None
    gamma: float | None = None
    gain: float | None = None
    blur_voxels: tuple[float, ...] = ()
    thickness_voxels: tuple[float, ...] = ()
    phase: float = 0.0
    noise_std: float = 0.0
    noise_seed: int = 0


UNCHANGED = Changes()


@dataclass(frozen=True)
class ChangeDraws:
    """Draws ``Changes`` for samples of ``dims`` axes with the given spacing.

    Attributes:
        augment: how often and how much.
        spacing_mm: of the sample's axes; its length is the number of axes.
        mirrors: whether the first axis is left-right. Whoever cuts slices mirrors them: which axis it is depends on
            the plane.
    """

    augment: AugmentConfig
    spacing_mm: tuple[float, ...]
    mirrors: bool = field(default=True)

    def draw(self, random: np.random.RandomState) -> Changes:
        """One sample's changes."""
        augment = self.augment
        mirror = self.mirrors and _happens(augment.mirror_left_right, random)
        blur = _uniform(random, augment.blur_voxels, self.dims) if _happens(augment.blur, random) else ()
        noisy = _happens(augment.noise, random)
        return Changes(
            mirror=mirror,
            warp=self._warp(mirror, random),
            gamma=_uniform(random, augment.gamma)[0] if _happens(augment.contrast, random) else None,
            gain=_uniform(random, augment.gain_range)[0] if _happens(augment.gain, random) else None,
            blur_voxels=blur,
            thickness_voxels=self._thickness(random),
            # Drawn whether it is needed or not, so that one setting changes no other draw.
            phase=float(random.random_sample()),
            noise_std=float(random.uniform(0, augment.noise_std)) if noisy else 0.0,
            noise_seed=int(random.randint(0, 2**63 - 1, dtype=np.int64)) if noisy else 0,
        )

    @property
    def dims(self) -> int:
        """Axes of a sample."""
        return len(self.spacing_mm)

    def _warp(self, mirror: bool, random: np.random.RandomState) -> Warp | None:
        # Both are asked for before anything is drawn for either, so that an elastic setting turns no patch differently.
        turned = _happens(self.augment.affine, random)
        bent = _happens(self.augment.elastic, random)
        if not turned and not bent:
            return None
        matrix = self._affine(random) if turned else np.eye(self.dims)
        if mirror:  # the mirrored patch is what is turned, so the mirror comes last on the way to the scan
            matrix[LEFT_RIGHT] *= -1
        if not bent:
            return Warp(matrix, None)
        largest = np.array([self.augment.elastic_mm / spacing for spacing in self.spacing_mm])
        # Even draws, not Gaussian ones: their bound is the margin that has to be read around the patch.
        lattice = random.uniform(-1, 1, (self.dims, *(self.augment.elastic_points,) * self.dims))
        return Warp(matrix, np.asarray(lattice * largest.reshape(-1, *(1,) * self.dims), dtype=np.float32))

    def _affine(self, random: np.random.RandomState) -> NDArray[np.float64]:
        """(d, d): scale, then shear, then rotation, as MONAI's ``RandAffined`` puts them together."""
        augment, dims = self.augment, self.dims
        turn = np.deg2rad(augment.rotate_degrees)
        angles = random.uniform(-turn, turn, 3 if dims == 3 else 1)
        shears = random.uniform(-augment.shear, augment.shear, _COEFFICIENTS_OF_SHEAR[dims])
        scales = 1 + random.uniform(-augment.scale_fraction, augment.scale_fraction, dims)
        return rotation(angles) @ shear(dims, shears) @ np.diag(scales)

    def _thickness(self, random: np.random.RandomState) -> tuple[float, ...]:
        """Of low resolution (all axes alike) and of thick slices (one axis) the coarser."""
        thickness = np.ones(self.dims)  # voxels; 1 is what was stored
        if _happens(self.augment.low_resolution, random):
            thickness *= random.uniform(1, self.augment.low_resolution_factor)
        if _happens(self.augment.thick_slices, random):
            axis = int(random.randint(self.dims))
            spacing = self.spacing_mm[axis]
            voxels = random.uniform(spacing, max(spacing, self.augment.thick_slices_mm)) / spacing
            thickness[axis] = max(thickness[axis], voxels)
        return tuple(thickness.tolist()) if (thickness > 1).any() else ()


def _happens(probability: float, random: np.random.RandomState) -> bool:
    return bool(random.random_sample() < probability)


def _uniform(random: np.random.RandomState, bounds: tuple[float, float], count: int = 1) -> tuple[float, ...]:
    return tuple(random.uniform(*bounds, count).tolist())
