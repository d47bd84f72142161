"""Names moved along the spine: what "all one too low" means for a mask."""

from collections.abc import Collection

from verse3d.core.errors import ConfigError, DataError
from verse3d.core.labels import VERTEBRAE, vertebra

MOST_PLACES = 24
_ID = {label.name: label.id for label in VERTEBRAE}


def shifted_ids(present: Collection[int], shift: int) -> dict[int, int]:
    """The new VerSe id of each one, all moved by so many places towards the feet.

    The places are those of the patient: T13 is one only if it is there, T12 is none if L1 follows T11 without it. L6 is
    always the last one, so L5 can become L6.

    Args:
        present: the ids of one spine.
        shift: places down, or up if negative.

    Raises:
        ConfigError: ``shift`` is 0, or longer than any spine.
        DataError: an id is no vertebra, there is none, or a name would leave the spine.

    Example:
        >>> shifted_ids([19, 20], 1)  # T12, L1
        {19: 20, 20: 21}
    """
    if not 1 <= abs(shift) <= MOST_PLACES:
        raise ConfigError(f"`shift` must be 1 to {MOST_PLACES} places, or as many up, got {shift}", option="shift")
    if not present:
        raise DataError("there is no vertebra whose name could be moved")
    # present T11 L1, shift 1:   places ... T10 T11 L1 L2 ...     T11 -> L1, L1 -> L2, as this patient has no T12
    places = _places({vertebra(label).id for label in present})
    moved = {}
    for label in sorted(present, key=places.index):
        target = places.index(label) + shift
        if not 0 <= target < len(places):
            way = "below" if shift > 0 else "above"
            raise DataError(
                f"{vertebra(label).name} moved by {abs(shift)} would lie {way} the spine, which has C1 ... L6",
                hint="move by fewer places, or the other way",
            )
        moved[label] = places[target]
    return moved


def _places(present: set[int]) -> list[int]:
    # As in ``readings._places``, but L6 stays: a name may move down to it.
    lacking = {_ID["T13"]} - present
    if {_ID["T11"], _ID["L1"]} <= present and _ID["T12"] not in present:
        lacking.add(_ID["T12"])
    return [label.id for label in VERTEBRAE if label.id not in lacking]
