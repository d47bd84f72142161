"""Spines of blocks on a grid, and what a network that sees all of it could say: quick to make, true by construction."""

from dataclasses import dataclass

import numpy as np
import torch

from tests.labelling.spines import NEXT_MM, centres_of
from verse3d.core.geometry import Geometry
from verse3d.core.labels import BONES, VERTEBRAE, vertebra
from verse3d.labelling.bones import BoneMap
from verse3d.labelling.evidence import level_evidence, without_a_look
from verse3d.labelling.instances import group_bones
from verse3d.labelling.vertebrae import NamedBones, name_bones
from verse3d.model.parts import parts_of

SPACING_MM = (2.0, 2.5, 2.0)
MARGIN_MM = np.array([30.0, 30.0, 20.0])
NETWORK_ID = {label.id: number for number, label in enumerate(BONES.labels, start=1)}


@dataclass(frozen=True, eq=False)
class Scan:
    """A mask of VerSe ids, its grid, and which names lie where."""

    ids: np.ndarray
    geometry: Geometry
    centres: dict[str, np.ndarray]

    def parts(self) -> np.ndarray:
        network = np.array([NETWORK_ID.get(label, 0) for label in range(256)], np.uint8)[self.ids]
        return parts_of(torch.from_numpy(network)[None, None], self.geometry.spacing_mm)[0, 0].numpy()

    def bones(self) -> BoneMap:
        return group_bones(self.parts(), self.geometry)

    def maps(self, shift=0, sure=0.9, seen=None) -> tuple[np.ndarray, Geometry]:
        """Probabilities (27, I, J, K) at 4 mm: ``sure`` for the level ``shift`` places below, the rest beside it."""
        coarse = self.geometry.resampled((4.0, 4.0, 4.0))
        world = coarse.world_from_index(np.argwhere(np.ones(coarse.shape, bool)))
        index = np.rint(self.geometry.index_from_world(world)).astype(int)
        inside = ((index >= 0) & (index < self.ids.shape)).all(axis=1)
        ids = np.zeros(len(world), int)
        ids[inside] = self.ids[tuple(index[inside].T)]
        maps = np.zeros((27, len(world)), np.float32)
        maps[0] = ids == 0
        names = [label.name for label in VERTEBRAE]
        for label in np.unique(ids[ids > 0]):
            here = ids == label
            level = names.index(vertebra(int(label)).name) + shift
            if seen is not None and vertebra(int(label)).name not in seen:
                maps[0, here] = 1.0
                continue
            maps[1:, here] = (1 - sure) / 25
            maps[1 + min(max(level, 0), 25), here] = sure
        return maps.reshape(27, *coarse.shape), coarse


def scan_of(names, *, bend=10.0, sideways=0.0, affine=None, doubled_mm=0.0, scale=1.0) -> Scan:
    """A scan of these vertebrae, head up; ``doubled_mm`` to the right the same once more (another patient)."""
    points = centres_of(names, scale=scale, bend=bend, sideways=sideways)
    return scan_at(dict(zip(names, points, strict=True)), affine=affine, doubled_mm=doubled_mm)


def scan_at(points, *, affine=None, doubled_mm=0.0) -> Scan:
    places = np.array(list(points.values()))
    low, high = places.min(axis=0) - MARGIN_MM, places.max(axis=0) + MARGIN_MM + (doubled_mm, 0, 0)
    shape = tuple(int(n) for n in np.ceil((high - low) / SPACING_MM).astype(int) + 1)
    made = np.diag([*SPACING_MM, 1.0])
    made[:3, 3] = low
    geometry = Geometry(shape, made)
    ids = np.zeros(shape, np.uint8)
    for name, centre in points.items():
        half = np.array([14.0, 14.0, 0.36 * NEXT_MM.get(name, 34.0)])
        for shift in {0.0, doubled_mm}:
            here = np.asarray(centre) + np.array([shift, 0.0, 0.0])
            first, last = (np.rint(geometry.index_from_world([here + sign * half])[0]).astype(int) for sign in (-1, 1))
            ids[tuple(slice(max(0, a), b + 1) for a, b in zip(first, last, strict=True))] = vertebra(name).id
    stated = geometry if affine is None else Geometry(shape, affine @ made)
    return Scan(ids, stated, {name: np.asarray(centre) for name, centre in points.items()})


def named(scan: Scan, **seen) -> NamedBones:
    """Group and name a scan; ``seen`` goes to ``Scan.maps``, ``seen=None`` means that no network has looked."""
    bones = scan.bones()
    if seen.get("seen", ()) is None:
        return name_bones(bones, scan.geometry, without_a_look(len(bones.bones)))
    maps, coarse = scan.maps(**seen)
    return name_bones(bones, scan.geometry, level_evidence(bones, scan.geometry, maps, coarse))
