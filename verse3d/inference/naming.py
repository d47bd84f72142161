"""Names for the bones of a predicted scan: the stage after the network, where vertebrae are named by their sequence.

prepared image  ->  networks at 4 mm  ->  probabilities of levels around the spine, and where bone is there
                                                          |
parts on the grid of the scan  ->  bones  ->  one reading of the spine  ->  ids, written over the parts
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from verse3d.core.config import GridConfig
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.inference.overview import Overview, overview
from verse3d.inference.scout import scout_megabytes, spine_box
from verse3d.labelling.bones import BoneMap
from verse3d.labelling.evidence import LevelEvidence, level_evidence, without_a_look
from verse3d.labelling.instances import group_bones
from verse3d.labelling.ribs import BONE_HU, STEP_MM, DenseMap, beside_ml
from verse3d.labelling.vertebrae import NamedBones, name_bones
from verse3d.model.scout import CHANNELS, SCOUT_MM, ScoutNetwork

_WINDOW_HU = GridConfig().window_hu
_MAP_BYTES = 4
_LARGEST_NOTED_ML = 5.0


@dataclass(frozen=True, eq=False)
class LevelMaps:
    """What networks that see the whole scan say about levels, around the spine.

    Attributes:
        probabilities: (27, i, j, k) float16: background, then C1 ... L6.
        geometry: the grid of i, j, k, 4 mm.
        scan: where the scan is as dense as bone there; None if nobody looked, or grey values do not tell.
    """

    probabilities: NDArray[np.float16]
    geometry: Geometry
    scan: DenseMap | None = None

    @classmethod
    def of(cls, seen: Overview) -> Self | None:
        """The levels of an overview around the spine; None if there are none, or no spine."""
        box = None if seen.levels is None else spine_box(seen.levels)
        if seen.levels is None or box is None:
            return None
        start, stop = [along.start for along in box], [along.stop for along in box]
        # All of the scan times 27 is held until here only; around the spine it is a few megabytes.
        around = seen.levels.probabilities[(slice(None), *box)].astype(np.float16)
        return cls(around, seen.levels.geometry.cropped(start, stop))


def level_maps(
    seen: Overview, image: NDArray[np.floating], grid: Geometry, window_hu: tuple[float, float]
) -> LevelMaps | None:
    """What is kept of a first look at a scan to name its vertebrae by; None if it shows no spine.

    Args:
        seen: what networks say about it.
        image: prepared, grey values 0 ... 1 (I, J, K).
        grid: of the image.
        window_hu: the HU that 0 and 1 stand for.
    """
    levels = LevelMaps.of(seen)
    if levels is None:
        return None
    low, high = window_hu
    if not low < BONE_HU < high:
        return levels  # all of it would be bone, or nothing
    # The box around the spine, in voxels of the image: 28 mm around it, where ribs leave the vertebrae.
    corners = grid.index_from_world(levels.geometry.corners_mm())
    start = np.clip(np.floor(corners.min(axis=0)), 0, grid.shape).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, grid.shape).astype(int)
    i, j, k = (max(1, int(STEP_MM / mm)) for mm in grid.spacing_mm)
    box = tuple(slice(int(a), int(b), step) for a, b, step in zip(start, stop, (i, j, k), strict=True))
    dense = np.asarray(image[box]) > (BONE_HU - low) / (high - low)
    affine = grid.affine.copy()
    affine[:3, :3] *= (i, j, k)
    affine[:3, 3] = grid.world_from_index(start[None])[0]
    return replace(levels, scan=DenseMap(dense, Geometry(dense.shape, affine)))


@dataclass(frozen=True, eq=False)
class SequenceNaming:
    """How the bones of a scan get their names.

    Attributes:
        networks: that see the whole scan at 4 mm, in evaluation mode; their probabilities are averaged.
        keeps_partial: whether masks show vertebrae that the scan cuts, too.
    """

    networks: Sequence[ScoutNetwork] = ()
    keeps_partial: bool = False

    @property
    def mask_settings(self) -> dict[str, Any]:
        """What of it decides about a mask."""
        return {"partial": "keep" if self.keeps_partial else "drop"}

    def megabytes(self, grid: Geometry) -> float:
        """What the networks take at most while they look at a volume on the network ``grid``."""
        if not self.networks:
            return 0.0
        i, j, k = grid.resampled((SCOUT_MM,) * 3).shape
        # Two at most: the sum so far and the map that is added to it.
        maps = i * j * k * CHANNELS * _MAP_BYTES * min(2, len(self.networks)) / 1e6
        return scout_megabytes(grid) + maps

    def look(
        self, image: NDArray[np.floating], grid: Geometry, window_hu: tuple[float, float] = _WINDOW_HU
    ) -> LevelMaps | None:
        """Show a prepared image (I, J, K) to the networks; None if there are none, or if they see no spine."""
        if not self.networks:
            return None
        return level_maps(overview(self.networks, image, grid, levels=True), image, grid, window_hu)

    def name(self, labels: NDArray[np.uint8], geometry: Geometry, levels: LevelMaps | None) -> NamedBones:
        """Turn parts of vertebrae into VerSe ids, in place.

        Args:
            labels: uint8 (I, J, K) on the grid of the scan: 0 background, 1 vertebra, 2 core; then VerSe ids.
            geometry: that grid.
            levels: what ``look`` gave.
        """
        # parts -> bones -> what is known of each -> names of all at once -> ids, written over the parts
        bones = group_bones(labels, geometry)
        named = self.name_grouped(bones, geometry, levels)
        bones.write(named.ids, labels)
        return named

    def name_grouped(self, bones: BoneMap, geometry: Geometry, levels: LevelMaps | None) -> NamedBones:
        """The names of bones that are grouped already; arguments as of ``name``."""
        named = name_bones(bones, geometry, bone_evidence(bones, geometry, levels))
        if not self.keeps_partial:
            named = without_partial(named)
        if bones.dropped_ml >= _LARGEST_NOTED_ML:
            note = f"{bones.dropped_ml:.0f} ml in pieces too small for a vertebra were left out"
            named = replace(named, notes=(*named.notes, note))
        return named


def bone_evidence(bones: BoneMap, geometry: Geometry, levels: LevelMaps | None) -> LevelEvidence:
    """What a first look at a scan says about each of its bones.

    Args:
        bones: on the grid of the scan.
        geometry: that grid.
        levels: of the same scan; None if nobody has looked, or no spine was seen.
    """
    if levels is None:
        return without_a_look(len(bones.bones))
    evidence = level_evidence(bones, geometry, levels.probabilities, levels.geometry)
    if levels.scan is None:
        return evidence
    return replace(evidence, beside_ml=beside_ml(bones, geometry, levels.scan))


def without_partial(named: NamedBones) -> NamedBones:
    """The same with vertebrae that the scan cuts left out of the mask; they stay in the list."""
    partial = {each.id for each in named.vertebrae if each.is_partial}
    if not partial:
        return named
    vertebrae = tuple(replace(each, in_mask=not each.is_partial) for each in named.vertebrae)
    names = ", ".join(label.name for label in VERTEBRAE if label.id in partial)
    # By its number a bone that is cut gets 0, so it is background; the list keeps it.
    ids = np.where(np.isin(named.ids, list(partial)), 0, named.ids).astype(np.uint8)
    note = f"{names}: cut by the end of the scan, and left out of the mask"
    return replace(named, vertebrae=vertebrae, ids=ids, notes=(*named.notes, note))


def naming_record(named: NamedBones) -> dict[str, Any]:
    """What the list of predictions says about names; plain values."""
    readings = [{"probability": round(probability, 3), "names": list(names)} for probability, names in named.readings]
    missed = {name: [round(value, 1) for value in place] for name, place in named.missed.items()}
    return {
        "vertebrae": tuple(each.to_dict() for each in named.vertebrae),
        "naming": {"ambiguous": named.ambiguous, "readings": readings, "missed": missed},
    }


def centroids_in_mask(named: NamedBones) -> dict[int, NDArray[np.float64]]:
    """The centres of the bodies that the mask shows: VerSe id -> world mm (3,)."""
    return {each.id: np.array(each.centre_mm) for each in named.vertebrae if each.in_mask}


def named_by_truth(bones: BoneMap, truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bones with the name of the true vertebra that they cover most of: what their shapes are worth, names aside.

    Args:
        bones: of a scan.
        truth: uint8 (I, J, K) on its grid, network ids of the levels.

    Returns:
        Network ids, uint8 (I, J, K). A bone that covers nothing is background, and of several bones that cover the same
        vertebra only the one that covers most of it counts, so a parted vertebra is not whole.
    """
    result = np.zeros_like(truth)
    if not bones.bones:
        return result
    # shared[bone, vertebra]: how many voxels they have in common
    shared = np.zeros((256, 256), np.int64)
    for numbers, ids in zip(bones.numbers, truth[bones.box], strict=True):
        # Both in one number, so that a plane is counted in one go.
        pairs, counts = np.unique(numbers.astype(np.uint16) * 256 + ids, return_counts=True)
        shared.reshape(-1)[pairs] += counts
    shared[0] = 0
    shared[:, 0] = 0
    of_bone = shared.argmax(axis=1)
    of_vertebra = shared.argmax(axis=0)
    numbers = np.arange(256)
    # A bone and a vertebra must choose each other.
    both = (shared.max(axis=1) > 0) & (of_vertebra[of_bone] == numbers)
    bones.write(np.where(both, of_bone, 0).astype(np.uint8), result)
    return result
