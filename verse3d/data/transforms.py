"""From CT files to the network grid, and from there to random training patches. All are MONAI transforms.

The network grid has its axes towards right, anterior and superior (RAS), a fixed spacing and grey values 0 ... 1.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

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

from verse3d.core.config import AugmentConfig, Config, GridConfig, SamplingConfig
from verse3d.core.errors import Verse3dError
from verse3d.core.geometry import Geometry, Shape
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.core.resample import resample_finished, resample_linear, resample_vote
from verse3d.core.volume import Volume, read_image, read_labels
from verse3d.data.cases import Case
from verse3d.data.pairs import relabelled, require_same_grid
from verse3d.data.samples.blocks import CentreDraw, LabelBlocks
from verse3d.data.samples.grid import network_geometry, windowing

_LEFT_RIGHT = 0  # the first spatial axis of the network grid


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the network grid, in memory, ready to be cut into patches; a ``PatchSource``.

    Attributes:
        case: its name.
        image: (1, I, J, K) float16 grey values 0 ... 1.
        label: (1, I, J, K) uint8 network ids.
        geometry: the network grid.
        centres: draws voxels to cut around.
        source: the grid of the file it was read from.
    """

    case: str
    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    geometry: Geometry
    centres: CentreDraw
    source: Geometry

    @classmethod
    def of(
        cls, case: str, image: NDArray[np.float16], label: NDArray[np.uint8], geometry: Geometry, source: Geometry
    ) -> Self:
        """Look up where the labels are."""
        centres = CentreDraw(LabelBlocks.of(label[0]), np.arange(256) > 0)
        return cls(case, image, label, geometry, centres, source)

    @property
    def megabytes(self) -> float:
        """Memory that the arrays take."""
        return float(self.image.nbytes + self.label.nbytes) / 1e6

    def read(self, start: Shape, size: Shape) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """The voxels ``start`` ... ``start + size``: grey values and network ids; outside air and background."""
        return _cut(self.image[0], start, size), _cut(self.label[0], start, size)

    def draw_centre(self, foreground_fraction: float, random: np.random.RandomState) -> NDArray[np.int_]:
        """A voxel (i, j, k): with that probability any labelled one, else any unlabelled one."""
        draws = random.random_sample(3).tolist()
        return self.centres.centre(foreground_fraction, draws, lambda start, size: _cut(self.label[0], start, size))


_Voxel = TypeVar("_Voxel", bound=np.generic)


def _cut(volume: NDArray[_Voxel], start: Shape, size: Shape) -> NDArray[_Voxel]:
    """A copy of a box that may reach beyond the volume, where it is 0."""
    result = np.zeros(size, volume.dtype)
    first = [max(0, -a) for a in start]
    inside = volume[tuple(slice(max(0, a), max(0, a + length)) for a, length in zip(start, size, strict=True))]
    result[tuple(slice(a, a + length) for a, length in zip(first, inside.shape, strict=True))] = inside
    return result


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
        target = network_geometry(image.geometry, self.grid)
        result["geometry"], result["source"] = target, image.geometry
        result["image"] = resample_linear(image.array, image.geometry, target)[None]
        if data.get("label") is not None:
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
    target = network_geometry(volume.geometry, grid)
    return resample_finished(volume.array, volume.geometry, target, np.float32, windowing(grid)), target


def prepare_image_float16(volume: Volume, grid: GridConfig) -> tuple[NDArray[np.float16], Geometry]:
    """The image of ``prepare_image`` rounded to float16, as in training; no float32 volume is held meanwhile."""
    target = network_geometry(volume.geometry, grid)
    return resample_finished(volume.array, volume.geometry, target, np.float16, windowing(grid)), target


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
        if isinstance(error.__cause__, Verse3dError):
            raise error.__cause__ from None
        raise
    return ready


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
        self.centre = data.draw_centre(self.foreground_fraction, self.R)

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
