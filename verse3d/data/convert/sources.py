"""Reading a case before anything of it is written: what cannot be trusted raises here."""

from verse3d.core.errors import DataError
from verse3d.core.labels import present_ids, unknown_ids
from verse3d.core.volume import Volume
from verse3d.data.cases import Case
from verse3d.data.pairs import read_mask, require_same_grid
from verse3d.data.schemes import require_levels


def trusted_mask(case: Case, image: Volume | None, *, levels: str = "") -> Volume:
    """The mask of a case, corrected, with VerSe ids only, on the grid of its scan (if there is one).

    Args:
        case: of the mask.
        image: its scan.
        levels: what needs to know the vertebrae, in words; "" takes a binary mask too.

    Raises:
        DataError: it is missing, damaged, no label map, holds ids that VerSe does not define, or is binary where
            levels are needed.
        GeometryError: it lies on another grid than its scan.
    """
    mask = read_mask(case)
    if image is not None:
        require_same_grid(image, mask)
    if unknown := unknown_ids(present_ids(mask.array)):
        raise DataError(
            f"{mask.path}: label ids {unknown} are unknown; VerSe uses 1-25 and 28",
            hint="set those voxels to 0 or to the right vertebra",
        )
    if levels:
        require_levels(mask, levels)
    return mask
