"""Names for the bones of a scan: from single bones to vertebrae with names, and how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.geometry import Geometry
from verse3d.core.labels import vertebra
from verse3d.labelling.bones import Bone, BoneMap, CoarseGrid
from verse3d.labelling.detections import detections
from verse3d.labelling.evidence import LevelEvidence, doubting_small_bones
from verse3d.labelling.naming import NamedSpine, name_spines
from verse3d.labelling.upright import notes_on_the_header

_LARGEST_PIECE = 0.4
"""Of the bone that it came off; what is larger may be a vertebra that the sequence has no place for."""
_GROWTH_BOUNDS = (0.8, 1.25)
"""Of the volume from one vertebra to the next."""
_SHOWN_CHANCE = 0.005
_MOST_OF_C2 = 2.0
"""Of the volume of C3: phantoms' C2 has 1.4 to 1.7 of it, and with C1 in one bone 2.2 to 2.7."""
_LEAST_REAL = 0.15
"""Probability of being a vertebra that a bone needs to be asked about its name."""


@dataclass(frozen=True)
class NamedVertebra:
    """One vertebra and how sure its name is.

    Attributes:
        name, id: e.g. "L1" and its VerSe id.
        centre_mm: of its body, world RAS+ mm.
        volume_ml: of what is in view.
        confidence: probability of the name over all readings of the spine.
        visible_share: how much of it is in view: 1 unless the scan cuts it; then by the size of its neighbours, and
            None if it has none.
        is_partial: the scan cuts it.
        alternatives: other names and their probabilities, likeliest first; "" means that it is no vertebra.
        in_mask: whether the mask shows it.
    """

    name: str
    id: int
    centre_mm: tuple[float, float, float]
    volume_ml: float
    confidence: float
    visible_share: float | None
    is_partial: bool
    alternatives: Mapping[str, float]
    in_mask: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the list of predictions."""
        return {
            "name": self.name,
            "id": self.id,
            "centre_mm": [round(value, 1) for value in self.centre_mm],
            "volume_ml": round(self.volume_ml, 2),
            "confidence": round(self.confidence, 3),
            "visible_share": None if self.visible_share is None else round(self.visible_share, 2),
            "partial": self.is_partial,
            "in_mask": self.in_mask,
            "alternatives": {name: round(chance, 3) for name, chance in self.alternatives.items()},
        }


@dataclass(frozen=True, eq=False)
class NamedBones:
    """What the bones of a scan are called.

    Attributes:
        vertebrae: of the longest spine, from head to feet.
        ids: the VerSe id of each bone by its number, uint8 (256,), with those of partial vertebrae; 0 for none.
        ambiguous: whether the names could well be others: look at ``readings``.
        readings: (probability, names from head to feet), the best first.
        missed: names that the best reading lacks between its first and its last vertebra, and where they should lie.
        notes: sentences for the user.
    """

    vertebrae: tuple[NamedVertebra, ...]
    ids: NDArray[np.uint8]
    ambiguous: bool = False
    readings: tuple[tuple[float, tuple[str, ...]], ...] = ()
    missed: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def name_bones(bones: BoneMap, geometry: Geometry, levels: LevelEvidence) -> NamedBones:
    """Name the bones of a scan; its longest spine, if it shows two.

    Args:
        bones: of the scan.
        geometry: its grid.
        levels: what is known about each of ``bones.bones``, in that order.
    """
    if not bones.bones:
        return NamedBones((), np.zeros(256, np.uint8))
    widths = np.array([bone.width_mm for bone in bones.bones])
    levels = replace(doubting_small_bones(levels, bones.bones), widths_mm=widths, grid=geometry)
    # Crumbs of bone are left out first: of many in a row the search could not pass over all.
    rows = np.flatnonzero(levels.real >= min(_LEAST_REAL, float(levels.real.max())))
    candidates, levels = [bones.bones[row] for row in rows], levels.of(rows)
    # A row of the detections is one of the candidates, so rows lead back to numbers in the map.
    centres = [bone.centre_mm for bone in candidates]
    spine, *others = name_spines(detections(centres, levels.regions), levels=levels)
    named = [candidates[row] for row in spine.names]
    ids = np.zeros(256, np.uint8)
    for row, name in spine.names.items():
        ids[candidates[row].number] = vertebra(name).id
    # After the names, which must not depend on pieces: a joined piece changes the mask alone.
    joined = _join_pieces(bones, ids, geometry)
    vertebrae = [
        _vertebra(candidates[row], name, spine.chances(row), share)
        for (row, name), share in zip(spine.names.items(), visible_shares(named), strict=True)
    ]
    left_out = [bone for bone in bones.bones if not ids[bone.number]]
    readings = tuple((reading.probability, tuple(reading.names.values())) for reading in spine.readings)
    notes = _notes(spine, levels, left_out, joined=joined, other_spines=len(others))
    # However sure the reading is: it takes each bone for one vertebra, and the header for right.
    doubts = (*_notes_on_c1(vertebrae), *notes_on_the_header(named, tuple(spine.names.values())))
    ambiguous = spine.ambiguous or bool(doubts)
    return NamedBones(tuple(vertebrae), ids, ambiguous, readings, spine.missed, (*notes, *doubts))


def _notes_on_c1(vertebrae: Sequence[NamedVertebra]) -> tuple[str, ...]:
    """If the only bone above C3 may be C1 and C2 in one: then one name is not enough, however sure the row is."""
    volumes = {each.name: each.volume_ml for each in vertebrae if not each.is_partial}
    upper = [name for name in ("C1", "C2") if name in volumes]
    if len(upper) != 1 or "C3" not in volumes or volumes[upper[0]] <= _MOST_OF_C2 * volumes["C3"]:
        return ()
    other = "C2" if upper == ["C1"] else "C1"
    return (f"{upper[0]} is so large that {other} may hang together with it",)


def _vertebra(bone: Bone, name: str, chances: Mapping[str, float], share: float | None) -> NamedVertebra:
    others = {other: chance for other, chance in chances.items() if other != name and chance >= _SHOWN_CHANCE}
    return NamedVertebra(
        name, vertebra(name).id, bone.centre_mm, bone.volume_ml, chances[name], share, bone.is_cut, others
    )


def visible_shares(bones: Sequence[Bone]) -> list[float | None]:
    """How much of each bone is in view, for bones in order along the spine: 1 unless it is cut.

    A whole bone is taken to differ from its neighbour as that one does from the next.
    """
    whole = [number for number, bone in enumerate(bones) if not bone.is_cut]
    shares: list[float | None] = []
    for number, bone in enumerate(bones):
        #   cut   near   far        expected / near = near / far
        beside = sorted(whole, key=lambda other: abs(other - number))[:2]
        if number in whole:
            shares.append(1.0)
        elif not beside:
            shares.append(None)
        else:
            near, far = bones[beside[0]].volume_ml, bones[beside[-1]].volume_ml
            growth = float(np.clip(near / far, *_GROWTH_BOUNDS))
            shares.append(min(1.0, bone.volume_ml / (near * growth)))
    return shares


def _join_pieces(bones: BoneMap, ids: NDArray[np.uint8], geometry: Geometry) -> int:
    """Give small bones without a name the id of the named one they touch most, in place; how many.

    An arch that came off its body is a bone of its own to the grouping, and none to the sequence.
    """
    volume_of = {bone.number: bone.volume_ml for bone in bones.bones}
    unnamed = [bone for bone in bones.bones if not ids[bone.number] and not bone.is_cut]
    if not unnamed:
        return 0
    sampled = CoarseGrid.of(geometry).taken(bones.numbers)
    boxes = ndimage.find_objects(sampled)
    joined = 0
    for bone in unnamed:
        contacts = _contacts(bone.number, sampled, boxes)
        # Two pieces beside each other do not help each other to a name.
        contacts[ids == 0] = 0
        most = int(contacts.argmax())
        if contacts[most] and bone.volume_ml <= _LARGEST_PIECE * volume_of[most]:
            ids[bone.number] = ids[most]
            joined += 1
    return joined


def _contacts(number: int, sampled: NDArray[np.uint8], boxes: Sequence[tuple[slice, ...] | None]) -> NDArray[np.int64]:
    """How many voxels of each other bone lie beside one bone on the coarse grid, (256,)."""
    box = boxes[number - 1] if number <= len(boxes) else None
    if box is None:
        return np.zeros(256, np.int64)
    # One voxel more on all sides, as far as there are any: find_objects gives tight boxes.
    wider = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    inside = sampled[wider]
    beside = ndimage.binary_dilation(inside == number, np.ones((3, 3, 3))) & (inside != number)
    counts: NDArray[np.int64] = np.bincount(inside[beside], minlength=256)
    counts[0] = 0
    return counts


def _notes(
    spine: NamedSpine, levels: LevelEvidence, left_out: Sequence[Bone], *, joined: int, other_spines: int
) -> tuple[str, ...]:
    notes = []
    if not levels.seen:
        notes.append("no network has seen the whole scan: names follow from distances alone")
    notes += _doubts(spine)
    if other_spines:
        notes.append(f"the scan shows {1 + other_spines} spines; only the longest is in the mask")
    if left_out:
        few = len(left_out) == 1
        words = "has no place in the spine and is left out" if few else "have no place in the spine and are left out"
        volume = sum(bone.volume_ml for bone in left_out)
        notes.append(f"{len(left_out)} bone{'' if few else 's'} ({volume:.1f} ml) {words}")
    if joined:
        words = (
            "bone was joined to the vertebra that it touches"
            if joined == 1
            else "bones were joined to the vertebrae that they touch"
        )
        notes.append(f"{joined} small {words}")
    return tuple(notes)


def _doubts(spine: NamedSpine) -> Iterator[str]:
    """What makes the names of a spine doubtful."""
    if spine.ambiguous:
        spans = []
        for reading in spine.readings[:2]:
            names = tuple(reading.names.values()) or ("no vertebra",)
            spans.append(names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}")
        yield "the names are ambiguous" + (f": {' or '.join(spans)}" if len(spans) > 1 else "")
    if spine.upside_down:
        yield "the head lies lower than the feet: the header may be wrong"
    if spine.missed:
        yield f"{', '.join(spine.missed)} should lie between the others and was not found"
