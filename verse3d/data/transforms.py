"""From CT files to the network grid, and from there to random training patches. All are MONAI transforms.

The network grid has its axes towards right, anterior and superior (RAS), a fixed spacing and grey values 0 ... 1.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from monai.transforms import (
    CastToTyped,
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    ScaleIntensityRanged,
    Transform,
)
from numpy.typing import NDArray

from verse3d.core.caseerrors import CASE_ERRORS
from verse3d.core.config import AugmentConfig, Config, GridConfig, SamplingConfig
from verse3d.core.geometry import Geometry
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.core.limits import require_countable, require_ct_grid, voxel_count
from verse3d.core.memory import require_memory
from verse3d.core.resample import Finish, resample_finished, resample_linear, resample_vote
from verse3d.core.volume import Volume, read_image, read_labels
from verse3d.data.cases import Case
from verse3d.data.pairs import relabelled, require_same_grid
from verse3d.data.schemes import require_levels

_MAX_CENTRES = 100_000
_LEFT_RIGHT = 0  # the first spatial axis of the network grid


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the network grid, ready to be cut into patches.

    Attributes:
        case: its name.
        image: (1, I, J, K) float16 grey values 0 ... 1.
        label: (1, I, J, K) uint8 network ids.
        geometry: the network grid.
        foreground: flat indices of (at most 100,000) labelled voxels, evenly drawn.
        elsewhere: likewise of unlabelled voxels.
        source: the grid of the file it was read from.
    """

    case: str
    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    geometry: Geometry
    foreground: NDArray[np.int64]
    elsewhere: NDArray[np.int64]
    source: Geometry

    @classmethod
    def of(
        cls, case: str, image: NDArray[np.float16], label: NDArray[np.uint8], geometry: Geometry, source: Geometry
    ) -> Self:
        """Look up where the label is and where it is not."""
        draw = np.random.default_rng(0)
        labelled = label.ravel() > 0
        places = _some(labelled, draw), _some(np.logical_not(labelled), draw)
        return cls(case, image, label, geometry, *places, source)

    @property
    def megabytes(self) -> float:
        """Memory that the arrays take."""
        arrays = (self.image, self.label, self.foreground, self.elsewhere)
        return float(sum(array.nbytes for array in arrays)) / 1e6


def network_geometry(source: Geometry, grid: GridConfig) -> Geometry:
    """The network grid of a scan: RAS axes (as near as its own allow), ``grid.spacing_mm``, the same first voxel.

    Raises:
        GeometryError: the scan's spacing is impossible, or the network grid would be larger than any memory.
    """
    require_ct_grid(source)
    target = source.reoriented("RAS").resampled(grid.spacing_mm)
    require_countable(target.shape, "on the network grid the scan")
    return target


def _fitting_geometry(source: Geometry, grid: GridConfig, bytes_each: int) -> Geometry:
    """The network grid, if so many bytes for each of its voxels are free. Raises ``MemoryLimitError`` if not."""
    target = network_geometry(source, grid)
    size = " x ".join(map(str, target.shape))
    require_memory(voxel_count(target.shape) * bytes_each, f"the scan on the network grid ({size} voxels)")
    return target


class ReadCased(MapTransform):
    """Replace the paths under ``image`` and ``label`` by ``Volume`` values, and check that they share a grid.

    The pairs under ``relabel``, if there are any, correct the ids of the mask.
    """

    def __init__(self) -> None:
        super().__init__(keys=("image", "label"), allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paths in, volumes out. Raises ``DataError`` for an unreadable file, ``GeometryError`` for another grid."""
        result = dict(data)
        result["image"] = read_image(data["image"])
        if data.get("label") is not None:
            result["label"] = relabelled(read_labels(data["label"]), data.get("relabel", ()))
            require_same_grid(result["image"], result["label"])
        return result


class ToNetworkGridd(MapTransform):
    """Carry the volumes to the network grid; adds ``geometry`` and ``source``. Arrays come out as (1, I, J, K)."""

    def __init__(self, grid: GridConfig, scheme: LabelScheme) -> None:
        super().__init__(keys=("image", "label"), allow_missing_keys=True)
        self.grid = grid
        self.scheme = scheme

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Volumes in; float32 HU and uint8 network ids out. Raises ``DataError`` for unknown label ids."""
        result = dict(data)
        image: Volume = data["image"]
        target = _fitting_geometry(image.geometry, self.grid, bytes_each=4 + 1)
        result["geometry"], result["source"] = target, image.geometry
        result["image"] = resample_linear(image.array, image.geometry, target)[None]
        if data.get("label") is not None:
            if self.scheme.name != "binary":
                require_levels(data["label"], f"labels.scheme {self.scheme.name}")
            ids = self.scheme.network_from_verse(data["label"].array)
            result["label"] = resample_vote(ids, image.geometry, target)[None]
        return result


def preparation(config: Config) -> Compose:
    """The chain from ``{"image": path, "label": path}`` to arrays on the network grid (image 0 ... 1)."""
    low, high = config.grid.window_hu
    return Compose(
        [
            ReadCased(),
            ToNetworkGridd(config.grid, label_scheme(config.labels.scheme)),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]
    )


def prepare_image(volume: Volume, grid: GridConfig) -> tuple[NDArray[np.float32], Geometry]:
    """A scan for inference: (I, J, K) float32 0 ... 1 on the network grid, and that grid."""
    target = _fitting_geometry(volume.geometry, grid, bytes_each=4)
    return resample_finished(volume.array, volume.geometry, target, np.float32, _windowing(grid)), target


def prepare_image_float16(volume: Volume, grid: GridConfig) -> tuple[NDArray[np.float16], Geometry]:
    """The image of ``prepare_image`` rounded to float16, as in training; no float32 volume is held meanwhile."""
    target = _fitting_geometry(volume.geometry, grid, bytes_each=2)
    return resample_finished(volume.array, volume.geometry, target, np.float16, _windowing(grid)), target


def _windowing(grid: GridConfig) -> Finish:
    """Changes HU to 0 ... 1 in place."""
    low, high = grid.window_hu

    def windowed(hu: NDArray[np.float32]) -> NDArray[np.float32]:
        hu -= low
        hu *= 1.0 / (high - low)
        return np.clip(hu, 0.0, 1.0, out=hu)

    return windowed


def prepare_case(case: Case, config: Config) -> PreparedCase:
    """Read a case and carry it to the network grid.

    Raises:
        DataError: a file is missing, damaged or holds unknown labels; or scan and mask lie on different grids.
    """
    ready = _prepared({"image": case.image_path(), "label": case.mask_path(), "relabel": case.relabel}, config)
    image, label = np.asarray(ready["image"]).astype(np.float16), np.asarray(ready["label"])
    return PreparedCase.of(case.case, image, label, ready["geometry"], ready["source"])


def _prepared(files: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    try:
        ready: Mapping[str, Any] = preparation(config)(files)
    except RuntimeError as error:  # MONAI wraps what a transform raises
        if isinstance(error.__cause__, CASE_ERRORS):
            raise error.__cause__ from None
        raise
    return ready


def _some(mask: NDArray[np.bool_], draw: np.random.Generator) -> NDArray[np.int64]:
    indices = np.flatnonzero(mask)
    return np.sort(draw.choice(indices, _MAX_CENTRES, replace=False)) if indices.size > _MAX_CENTRES else indices


def draw_centre(case: PreparedCase, foreground_fraction: float, random: np.random.RandomState) -> NDArray[np.int_]:
    """A voxel (i, j, k): a share of them labelled, the others not."""
    on_foreground = random.random_sample() < foreground_fraction
    wanted, other = (case.foreground, case.elsewhere)[:: 1 if on_foreground else -1]
    candidates = wanted if wanted.size else other
    flat = candidates[int(random.random_sample() * candidates.size)]
    return np.array(np.unravel_index(flat, case.geometry.shape))


class RandPatch(Randomizable, Transform):
    """Cut a random patch out of a ``PreparedCase``.

    A share of the patches is centred on a labelled voxel, the others on an unlabelled one. A patch may reach beyond the
    volume by ``margin_voxels``, or evenly on both sides if it is larger than that; there it is 0 (air, background).
    """

    def __init__(self, sampling: SamplingConfig) -> None:
        self.patch = np.array(sampling.patch_voxels)
        self.margin = np.array(sampling.margin_voxels)
        self.foreground_fraction = sampling.foreground_fraction
        self.centre = np.zeros(3, dtype=int)

    def randomize(self, data: PreparedCase) -> None:
        """Draw the centre."""
        self.centre = draw_centre(data, self.foreground_fraction, self.R)

    def __call__(self, data: PreparedCase) -> dict[str, torch.Tensor]:
        """``{"image": (1, *patch) float32, "label": (1, *patch) uint8}``."""
        self.randomize(data)
        shape = np.array(data.geometry.shape)
        first, last = -self.margin, shape + self.margin - self.patch
        free = np.clip(self.centre - self.patch // 2, first, np.maximum(first, last))
        corner = np.where(first <= last, free, -((self.patch - shape) // 2))
        start, stop = np.maximum(corner, 0), np.minimum(corner + self.patch, shape)
        inside = (slice(None), *(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)))
        before = start - corner
        return {
            "image": self._padded(data.image[inside].astype(np.float32), before),
            "label": self._padded(data.label[inside], before),
        }

    def _padded(self, part: NDArray[Any], before: NDArray[np.int_]) -> torch.Tensor:
        result = np.zeros((1, *self.patch), dtype=part.dtype)
        place = tuple(slice(int(a), int(a) + size) for a, size in zip(before, part.shape[1:], strict=True))
        result[(slice(None), *place)] = part
        return torch.from_numpy(result)


def augmentation(augment: AugmentConfig, *, spatial_dims: int = 3) -> Compose:
    """Random changes to ``{"image", "label"}``: rotate and scale, contrast, blur, noise; in 3D also mirror left-right.

    Where left and right are depends on the plane of a slice, so whoever cuts slices mirrors them.
    """
    rotate = np.deg2rad(augment.rotate_degrees)
    both = ("image", "label")
    mirror = RandFlipd(keys=both, prob=augment.mirror_left_right, spatial_axis=_LEFT_RIGHT)
    return Compose(
        [
            *([mirror] if spatial_dims == 3 else []),
            RandAffined(
                keys=both,
                prob=augment.affine,
                rotate_range=(rotate,) * (3 if spatial_dims == 3 else 1),
                scale_range=(augment.scale_fraction,) * spatial_dims,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd(keys="image", prob=augment.contrast, gamma=(0.75, 1.35)),
            RandGaussianSmoothd(
                keys="image", prob=augment.blur, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), sigma_z=(0.3, 1.0)
            ),
            RandGaussianNoised(keys="image", prob=augment.noise, std=0.03),
            CastToTyped(keys="label", dtype=torch.uint8),  # RandAffined returns float32, with whole numbers
        ]
    )


def patch_sampler(config: Config) -> Compose:
    """``PreparedCase`` -> augmented patch ``{"image": (1, *patch) float32, "label": (1, *patch) uint8}``."""
    return Compose([RandPatch(config.sampling), augmentation(config.augment)])
