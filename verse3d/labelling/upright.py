"""Does a spine lie in the world as its header says? Its bones tell; a network names what it believes to see.

::

    from the side      head                         head
                       ##-.   arches behind         .-##    front and back are exchanged: the header is wrong
                       ##-'                         '-##
                       ###--.                       ####--.
                       ###--'                       ####--'
                       ####--.  larger downwards    ##-.    up and down are exchanged
                       ####--'                      ##-'
                       feet                         feet

What is left and what is right, no bone can tell.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from verse3d.labelling.bones import Bone

_CLEAR_MM = 2.0
"""The middle of a whole vertebra lies 1.5 to 15 mm behind that of its body, in nine masks and four phantoms (168
vertebrae)."""
_CLEAR_GROWTH = -0.2
"""Log of the last volume beside the first. From C3 down it is -0.02 or more for any four or more neighbours in these
masks; upside down it is less than this for 81 of 122 rows of four, 96 of 98 of six and all of eight."""
_FEWEST_THAT_GROW = 4
"""Of three a single one whose mask lacks a part would decide."""
_UPPERMOST = ("C1", "C2")
"""They are larger than C3."""
_FLAT = 0.3
"""Of the way from each vertebra to the next: so much at least goes down. A spine may lean by 73 degrees."""


def has_arches_in_front(bones: Sequence[Bone]) -> bool:
    """Whether the arches of vertebrae lie in front of their bodies, if the header is right."""
    known = [bone for bone in bones if np.isfinite(bone.arch_mm)]
    if not known:
        return False
    # By volume: crumbs of other bones may be many, and have no arch.
    arches_mm, volumes = [bone.arch_mm for bone in known], [bone.volume_ml for bone in known]
    return float(np.average(arches_mm, weights=volumes)) < -_CLEAR_MM


def notes_on_the_header(bones: Sequence[Bone], names: Sequence[str]) -> tuple[str, ...]:
    """Why the header may be wrong, a sentence each; usually nothing.

    Args:
        bones: that have a name, from head to feet.
        names: their names.
    """
    notes = []
    if _lies_flat(bones):
        notes.append("the vertebrae do not lie below one another: the header may be wrong, or these are parts of one")
    if has_arches_in_front(bones):
        notes.append("the arches of the vertebrae lie in front of their bodies: the header may be wrong")
    if _grows_upwards(bones, names):
        notes.append("the vertebrae grow larger towards the head: the header or the mask may be wrong")
    return tuple(notes)


def _lies_flat(bones: Sequence[Bone]) -> bool:
    places = np.array([bone.centre_mm for bone in bones]).reshape(-1, 3)
    way_mm = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
    return way_mm > 0 and abs(float(places[0, 2] - places[-1, 2])) < _FLAT * way_mm


def _grows_upwards(bones: Sequence[Bone], names: Sequence[str]) -> bool:
    pairs = zip(bones, names, strict=True)
    volumes = [np.log(bone.volume_ml) for bone, name in pairs if name not in _UPPERMOST and not bone.is_cut]
    if len(volumes) < _FEWEST_THAT_GROW:
        return False
    # The median of all pairs (Theil and Sen): a collapsed vertebra, or two in one, change it little.
    steps = [(low - up) / (j - i) for (i, up), (j, low) in combinations(enumerate(volumes), 2)]
    return float(np.median(steps)) * (len(volumes) - 1) < _CLEAR_GROWTH
