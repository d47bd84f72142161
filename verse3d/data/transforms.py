"""From CT files to the network grid, as MONAI transforms.

The network grid has its axes towards right, anterior and superior (RAS), a fixed spacing and grey values 0 ... 1.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from monai.transforms import (
    Compose,
    MapTransform,
    ScaleIntensityRanged,
)
from numpy.typing import NDArray

from verse3d.core.config import Config, GridConfig
from verse3d.core.errors import Verse3dError
from verse3d.core.geometry import Geometry, Shape
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.core.resample import Finish, resample_finished, resample_linear, resample_vote
from verse3d.core.volume import Volume, read_image, read_labels
from verse3d.data.cases import Case
from verse3d.data.pairs import relabelled, require_same_grid

_MAX_CENTRES = 100_000

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

    def read(self, start: Shape, size: Shape) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """See ``PatchSource``."""
        shape = self.geometry.shape
        first = [max(0, a) for a in start]
        last = [max(low, min(n, a + length)) for low, n, a, length in zip(first, shape, start, size, strict=True)]
        inside = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        place = tuple(slice(low - a, high - a) for low, high, a in zip(first, last, start, strict=True))
        image, label = np.zeros(size, np.float16), np.zeros(size, np.uint8)
        if all(low < high for low, high in zip(first, last, strict=True)):
            image[place], label[place] = self.image[0][inside], self.label[0][inside]
        return image, label

    def draw_centre(self, foreground_fraction: float, random: np.random.RandomState) -> NDArray[np.int_]:
        """See ``PatchSource``."""
        return draw_centre(self, foreground_fraction, random)

    @property
    def megabytes(self) -> float:
        """Memory that the arrays take."""
        arrays = (self.image, self.label, self.foreground, self.elsewhere)
        return float(sum(array.nbytes for array in arrays)) / 1e6


def network_geometry(source: Geometry, grid: GridConfig) -> Geometry:
    """The network grid of a scan: RAS axes (as near as its own allow), ``grid.spacing_mm``, the same first voxel."""
    return source.reoriented("RAS").resampled(grid.spacing_mm)


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
    return resample_finished(volume.array, volume.geometry, target, np.float32, _windowing(grid)), target


def prepare_image_float16(volume: Volume, grid: GridConfig) -> tuple[NDArray[np.float16], Geometry]:
    """The image of ``prepare_image`` rounded to float16, as in training; no float32 volume is held meanwhile."""
    target = network_geometry(volume.geometry, grid)
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
        if isinstance(error.__cause__, Verse3dError):
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
