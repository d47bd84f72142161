"""The labelled vertebrae as a spine: whole or cut, one bone per label, one label per bone, in order, none missing."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from verse3d.core.labels import VERTEBRAE
from verse3d.data.quality.contacts import Contact
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.vertebrae import MeasuredVertebra

_CUT_SHARE = 0.1
"""Scans cropped tightly around their mask touch its tips (up to 0.06 in VerSe); a cut bone shows 0.13 and more."""
_PIECE_SHARE, _PIECE_ML = 0.1, 0.5
"""Smaller pieces are chips or slips of the brush."""
_APART_MM = 10.0
"""Two pieces this far apart along the spine are two vertebrae; body and arch lie behind each other."""
_SHARED_SHARE = 0.07
"""Contact of neighbours in the expert masks of VerSe: at most 0.048 of the smaller surface; of a bone cut across
into two labels: 0.115 and more, cut lengthwise: mostly 0.09 and more."""
_SIDE_BY_SIDE_SHARE = 0.03
_SIDE_BY_SIDE_STEP = 0.35
"""Of the usual step between neighbours: labels that touch and lie beside each other are parts of one bone."""
_MISORDERED_MM = 3.0
_GAP_STEPS = 1.5
"""In steps between neighbours: a wider gap has room for a vertebra that is not labelled."""

_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "top", "I": "bottom"}
_ORDER = {row.id: position for position, row in enumerate(VERTEBRAE)}
_T11, _T13, _L1 = 18, 28, 20
_RELABEL = "correct the labels with an override (relabel), or leave the case out"
_GAP_MEANS = {
    True: ("a vertebra is not labelled", "label it, or leave the case out"),
    False: ("they are neighbours, so the numbers skip a level", _RELABEL),
    None: ("a vertebra is not labelled, or the numbers skip a level", _RELABEL),
}


def check_spine(
    case: str, where: object, vertebrae: Sequence[MeasuredVertebra], contacts: Sequence[Contact]
) -> Iterator[Finding]:
    """Everything about the spine as a whole.

    Args:
        case: its name.
        where: the path of the mask.
        vertebrae: from head to tail.
        contacts: of their labels.
    """
    steps = _Steps(vertebrae)
    yield from _check_cut(case, where, vertebrae)
    yield from _check_split(case, where, vertebrae, steps)
    yield from _check_shared(case, where, vertebrae, contacts, steps)
    yield from _check_order(case, where, vertebrae)
    yield from _check_missing(case, where, vertebrae, steps)


class _Steps:
    """Where the spine goes: its direction, and how far it is from one vertebra to the next."""

    def __init__(self, vertebrae: Sequence[MeasuredVertebra]) -> None:
        self._points = {each.id: np.array(each.world_mm) for each in vertebrae}
        self._ids = list(self._points)

    def direction(self, *without: int) -> NDArray[np.float64]:
        """Unit vector along the spine near some vertebrae, drawn by the others; upwards where there are too few."""
        rest = [label for label in self._ids if label not in without]
        # Without the vertebrae in question, which may be what is wrong:
        #
        #     T12 o
        #            o L1  <- in question        the line through T11, T12, L3, L4 says where the spine goes
        #      L2 o        <- in question
        #      L3 o
        near = sorted(rest, key=lambda label: abs(_ORDER[label] - _ORDER[without[0]]))[:4]
        line = sorted(near, key=_ORDER.__getitem__)
        drawn = self._points[line[0]] - self._points[line[-1]] if line else np.zeros(3)
        length = float(np.linalg.norm(drawn))
        return drawn / length if length > 0 else np.array([0.0, 0.0, 1.0])

    def distance_mm(self, one: int, two: int) -> float:
        """Between two centroids."""
        return float(np.linalg.norm(self._points[one] - self._points[two]))

    def along_mm(self, one: int, two: int) -> float:
        """The same along the spine alone."""
        return abs(float((self._points[one] - self._points[two]) @ self.direction(one, two)))

    def usual_mm(self, one: int, two: int) -> float | None:
        """The step between neighbours near by (vertebrae grow downwards), or None if there are no other neighbours."""
        place = (_ORDER[one] + _ORDER[two]) / 2
        # Known steps with the middle of each, by how far that is from here: those near by say what is usual.
        steps = [
            (abs((_ORDER[upper] + _ORDER[lower]) / 2 - place), self.distance_mm(upper, lower))
            for upper, lower in pairwise(self._ids)
            if _ORDER[lower] - _ORDER[upper] == 1 and (upper, lower) != (one, two)
        ]
        return median(step for _, step in sorted(steps)[:3]) if steps else None


def is_cut(vertebra: MeasuredVertebra) -> bool:
    """Whether the field of view ends inside the vertebra."""
    return any(border.share > _CUT_SHARE for border in vertebra.borders)


def _check_cut(case: str, where: object, vertebrae: Sequence[MeasuredVertebra]) -> Iterator[Finding]:
    cut = [
        f"{each.name} at the {_SIDES[border.side]} ({border.side}, {border.share:.0%} of its largest slice)"
        for each in vertebrae
        for border in each.borders
        if border.share > _CUT_SHARE
    ]
    if cut:
        yield Finding(
            case,
            "note",
            "vertebra-cut",
            f"{where}: the field of view ends inside {', '.join(cut)}",
            "VerSe labels whole vertebrae only; scores of cut ones say little: leave them out or unlabel them",
        )


def _check_split(case: str, where: object, vertebrae: Sequence[MeasuredVertebra], steps: _Steps) -> Iterator[Finding]:
    for each in vertebrae:
        largest, *others = each.pieces
        second = others[0] if others else None
        if second is None or second.ml < max(_PIECE_ML, _PIECE_SHARE * largest.ml):
            continue
        #     along the spine            level with each other
        #         [1]
        #                                    [1] [2]           a broken arch, or pedicles left out
        #         [2]   two bones
        offset = np.array(second.world_mm) - np.array(largest.world_mm)
        along = abs(float(offset @ steps.direction(each.id)))
        place = f"of {largest.ml:.1f} ml at index {largest.index} and {second.ml:.1f} ml at index {second.index}"
        if along > _APART_MM:
            yield Finding(
                case,
                "warning",
                "label-split",
                f"{where}: {each.name} is two pieces {place}, {along:.0f} mm apart along the spine: "
                "two bones, one label?",
                "give one of the pieces its own label, or set it to 0",
            )
        else:
            yield Finding(
                case,
                "note",
                "label-split",
                f"{where}: {each.name} is two pieces {place}, level with each other",
                "look whether the bone is broken, or its pedicles were not labelled",
            )


def _check_shared(
    case: str, where: object, vertebrae: Sequence[MeasuredVertebra], contacts: Sequence[Contact], steps: _Steps
) -> Iterator[Finding]:
    by_id = {each.id: each for each in vertebrae}
    for contact in contacts:
        one, two = (by_id[label] for label in contact.ids)
        # What is left of a cut bone has hardly any surface, and most of it may touch.
        if is_cut(one) or is_cut(two):
            continue
        usual = steps.usual_mm(one.id, two.id) or 0.0
        # Neighbours lie a step apart; two labels on one level that touch are halves of one bone.
        beside = steps.along_mm(one.id, two.id) < _SIDE_BY_SIDE_STEP * usual
        if contact.share > (_SIDE_BY_SIDE_SHARE if beside else _SHARED_SHARE):
            yield Finding(
                case,
                "warning",
                "bone-shared",
                f"{where}: {one.name} and {two.name} touch over {contact.area_mm2:.0f} mm2, {contact.share:.0%} of the "
                f"smaller one's surface, e.g. at index {contact.index}: one bone, two labels?",
                "look at the border between the two; it should follow the disc and the joints",
            )


def _check_order(case: str, where: object, vertebrae: Sequence[MeasuredVertebra]) -> Iterator[Finding]:
    # Heights in the world: each vertebra, told from the head, should lie below the one before.
    heights = [(each, each.world_mm[2]) for each in vertebrae]
    wrong = [
        (upper, lower, below - above)
        for (upper, above), (lower, below) in pairwise(heights)
        if below - above > _MISORDERED_MM
    ]
    if not wrong:
        return
    reversed_ = len(wrong) == len(heights) - 1 and len(wrong) > 1
    places = [
        f"{lower.name} (index {lower.index}) is {higher:.0f} mm above {upper.name} (index {upper.index})"
        for upper, lower, higher in wrong
    ]
    yield Finding(
        case,
        "warning",
        "label-order",
        f"{where}: "
        + ("the whole spine is labelled from tail to head: " if reversed_ else "")
        + "; ".join(places[:3])
        + (f"; and {len(places) - 3} more" if len(places) > 3 else ""),
        "mask or header is upside down: compare with the scan" if reversed_ else _RELABEL,
    )


def _check_missing(case: str, where: object, vertebrae: Sequence[MeasuredVertebra], steps: _Steps) -> Iterator[Finding]:
    for upper, lower in pairwise(vertebrae):
        # Nobody misses T13: few people have one.
        missing = [row for row in VERTEBRAE[_ORDER[upper.id] + 1 : _ORDER[lower.id]] if row.id != _T13]
        if not missing:
            continue
        place = f"{where}: between {upper.name} and {lower.name} there is no {', '.join(row.name for row in missing)}"
        distance, usual = steps.distance_mm(upper.id, lower.id), steps.usual_mm(upper.id, lower.id)
        wide = usual is not None and distance > _GAP_STEPS * usual
        apart = f"{distance:.0f} mm apart" + ("" if usual is None else f", {distance / usual:.1f} times the usual step")
        # No gap where T12 would be: this patient has none.
        if (upper.id, lower.id) == (_T11, _L1) and not wide:
            message = f"{place} ({apart}): a spine with eleven thoracic vertebrae"
            yield Finding(case, "note", "label-missing", message, "nothing, if the ribs agree")
            continue
        what, hint = _GAP_MEANS[None if usual is None else wide]
        yield Finding(case, "warning", "label-missing", f"{place} ({apart}): {what}", hint)
