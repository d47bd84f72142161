"""From CT files to the network grid, as MONAI transforms.

The network grid has its axes towards right, anterior and superior (RAS), a fixed spacing and grey values 0 ... 1.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from monai.transforms import (
    Compose,
    MapTransform,
    ScaleIntensityRanged,
)
from numpy.typing import NDArray

from verse3d.core.caseerrors import CASE_ERRORS
from verse3d.core.config import Config, GridConfig
from verse3d.core.geometry import Geometry, Shape
from verse3d.core.labels import LabelScheme, training_scheme
from verse3d.core.resample import resample_linear, resample_vote
from verse3d.core.volume import Volume, read_image, read_labels
from verse3d.data.cases import Case
from verse3d.data.pairs import relabelled, require_same_grid
from verse3d.data.samples.blocks import CentreDraw, LabelBlocks
from verse3d.data.samples.grid import fitting_geometry
from verse3d.data.schemes import require_levels


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

    def read_into(self, start: Shape, image: NDArray[np.float16], label: NDArray[np.uint8]) -> None:
        """``read`` into arrays that are there already."""
        i, j, k = image.shape
        image[...], label[...] = self.read(start, (i, j, k))

    def draw_centre(self, foreground_fraction: float, random: np.random.RandomState) -> NDArray[np.int_]:
        """A voxel (i, j, k): with that probability any labelled one, else any unlabelled one."""
        draws = random.random_sample(3).tolist()
        return self.centres.centre(foreground_fraction, draws, lambda start, size: _cut(self.label[0], start, size))


_Voxel = TypeVar("_Voxel", bound=np.generic)


def _cut(volume: NDArray[_Voxel], start: Shape, size: Shape) -> NDArray[_Voxel]:
    """A copy of a box that may reach beyond the volume, where it is 0."""
    result = np.zeros(size, volume.dtype)
    box = tuple(slice(max(0, a), max(0, a + length)) for a, length in zip(start, size, strict=True))
    inside = volume[box]
    # Where the box begins before the volume, that many voxels stay empty.
    first = [max(0, -a) for a in start]
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
        target = fitting_geometry(image.geometry, self.grid, bytes_each=4 + 1)
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
            ToNetworkGridd(config.grid, training_scheme(config.labels.trained_on)),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]
    )


def prepare_case(case: Case, config: Config) -> PreparedCase:
    """Read a case and carry it to the network grid.

    Raises:
        DataError: a file is missing, damaged or holds unknown labels; or scan and mask lie on different grids.
    """
    files: Mapping[str, Any] = {"image": case.image_path(), "label": case.mask_path(), "relabel": case.relabel}
    try:
        ready: Mapping[str, Any] = preparation(config)(files)
    except RuntimeError as error:  # MONAI wraps what a transform raises
        if isinstance(error.__cause__, CASE_ERRORS):
            raise error.__cause__ from None
        raise
    image, label = np.asarray(ready["image"]).astype(np.float16), np.asarray(ready["label"])
    return PreparedCase.of(case.case, image, label, ready["geometry"], ready["source"])
