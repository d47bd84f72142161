"""What the numbers of a config are: shares, counts, sizes along axes, each with its bounds."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from verse3d.core.axes import PlaneName

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
VoxelCount = Annotated[int, Field(ge=1, le=1024)]
"""Along an axis of what a network sees at once; also the most samples in a batch."""
ChannelCount = Annotated[int, Field(ge=1, le=4096)]
SpacingMm = Annotated[float, Field(ge=0.05, le=50.0)]
"""Finer than 0.05 mm a spine takes terabytes, coarser than 50 mm no vertebra is left."""
_MOST_PATCH_VOXELS = 2**28
"""One patch of them, in float32, takes a gigabyte before any network has seen it."""


def _repeated(times: int) -> BeforeValidator:
    """One number stands for so many equal ones."""

    def repeat(value: Any) -> Any:  # noqa: ANN401 - not checked yet
        # To Python ``true`` is a number, too; it is left to the check of the type, which refuses it.
        return (value,) * times if isinstance(value, int | float) and not isinstance(value, bool) else value

    return BeforeValidator(repeat)


def _of_bearable_size(patch: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(patch) > _MOST_PATCH_VOXELS:
        raise ValueError(f"must have at most {_MOST_PATCH_VOXELS:,} voxels, got {list(patch)}")
    return patch


Spacing = Annotated[tuple[SpacingMm, SpacingMm, SpacingMm], _repeated(3)]
Patch = Annotated[tuple[VoxelCount, VoxelCount, VoxelCount], _repeated(3), AfterValidator(_of_bearable_size)]


_PixelCount = Annotated[int, Field(ge=1, le=8192)]
Picture = Annotated[tuple[_PixelCount, _PixelCount], _repeated(2)]
SlicePlane = Literal[PlaneName, "as-stored"]

_NotNegative = Annotated[int, Field(ge=0, le=1024)]
Margin = Annotated[tuple[_NotNegative, _NotNegative, _NotNegative], _repeated(3)]
