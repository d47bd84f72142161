"""The job about names of vertebrae that were predicted."""

from pathlib import Path

from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText
from verse3d.inference.relabelling import Relabelled, relabel_mask


def relabel(out: PathOrText, *, case: str, shift: int = 0, undo: bool = False) -> Relabelled:
    """Move all names of a predicted mask along the spine: a shift that was found by eye.

    Mask, centroids and ``predictions.json`` change together, and the correction is written down.

    Args:
        out: the folder that ``predict`` filled.
        case: whose mask.
        shift: so many places towards the feet, or towards the head if negative: 1 makes L1 of T12.
        undo: take back the latest correction instead.

    Raises:
        ConfigError: neither or both of ``shift`` and ``undo`` are given, or the shift is longer than any spine.
        DataError: there is no such case, its mask is not what its record says, a name would leave the spine, or there
            is nothing to undo.
        OutputError: something cannot be written.
    """
    if undo == bool(shift):
        raise ConfigError(
            "give `shift` or `undo`, and not both",
            hint="`shift=1` makes L1 of T12, `shift=-1` T12 of L1",
            option="shift",
        )
    return relabel_mask(Path(out), case, shift)
