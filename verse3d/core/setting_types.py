"""What the numbers of a config are: shares, counts, sizes along axes, each with its bounds."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
VoxelCount = Annotated[int, Field(ge=1, le=1024)]
"""Along an axis of what a network sees at once; also the most samples in a batch."""
ChannelCount = Annotated[int, Field(ge=1, le=4096)]
_SpacingMm = Annotated[float, Field(ge=0.05, le=50.0)]
"""Finer than 0.05 mm a spine takes terabytes, coarser than 50 mm no vertebra is left."""
_MOST_PATCH_VOXELS = 2**28
"""One patch of them, in float32, takes a gigabyte before any network has seen it."""


def _same_for_all_axes(value: Any) -> Any:  # noqa: ANN401 - not checked yet
    """One number stands for three equal ones."""
    return (value,) * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _of_bearable_size(patch: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(patch) > _MOST_PATCH_VOXELS:
        raise ValueError(f"must have at most {_MOST_PATCH_VOXELS:,} voxels, got {list(patch)}")
    return patch


Spacing = Annotated[tuple[_SpacingMm, _SpacingMm, _SpacingMm], BeforeValidator(_same_for_all_axes)]
Patch = Annotated[
    tuple[VoxelCount, VoxelCount, VoxelCount], BeforeValidator(_same_for_all_axes), AfterValidator(_of_bearable_size)
]


def _square(value: Any) -> Any:  # noqa: ANN401 - not checked yet
    """One number stands for two equal ones."""
    return (value,) * 2 if isinstance(value, int | float) and not isinstance(value, bool) else value


_PixelCount = Annotated[int, Field(ge=1, le=8192)]
Picture = Annotated[tuple[_PixelCount, _PixelCount], BeforeValidator(_square)]
PlaneName = Literal["sagittal", "coronal", "axial", "as-stored"]

_NotNegative = Annotated[int, Field(ge=0, le=1024)]
Margin = Annotated[tuple[_NotNegative, _NotNegative, _NotNegative], BeforeValidator(_same_for_all_axes)]
