"""Settings of the random changes to training samples."""

from typing import Annotated

from pydantic import AfterValidator, Field

from verse3d.core.section import Section


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"must be [least, largest], got {list(bounds)}")
    return bounds


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
_Positive = Annotated[float, Field(gt=0.0)]
Bounds = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]


class AugmentConfig(Section):
    """Random changes to training patches. There is no up-down mirror: it would turn L5 into C1."""

    mirror_left_right: Probability = 0.5
    affine: Probability = 0.3
    """How often a patch is turned, scaled and sheared."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=90.0)] = 15.0
    scale_fraction: Annotated[float, Field(ge=0.0, lt=0.9)] = 0.15
    shear: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest coefficient of each shear."""
    elastic: Probability = 0.0
    """How often a patch is bent ..."""
    elastic_mm: Annotated[float, Field(gt=0.0, le=30.0)] = 8.0
    """... by at most so much along each axis ..."""
    elastic_points: Annotated[int, Field(ge=2, le=32)] = 5
    """... at so many points along each axis of the patch; between them the shifts are interpolated."""
    noise: Probability = 0.2
    noise_std: Annotated[float, Field(gt=0.0, le=1.0)] = 0.03
    """Largest standard deviation, in grey values 0 ... 1."""
    blur: Probability = 0.15
    blur_voxels: Bounds = (0.3, 1.0)
    """Least and largest standard deviation along each axis."""
    contrast: Probability = 0.3
    """How often grey values are raised to a power ..."""
    gamma: Bounds = (0.75, 1.35)
    """... between these."""
    gain: Probability = 0.0
    """How often grey values are spread about their mean ..."""
    gain_range: Bounds = (0.75, 1.25)
    """... by a factor between these."""
    low_resolution: Probability = 0.0
    """How often a patch looks as if scanned with larger voxels ..."""
    low_resolution_factor: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    """... at most so many times as large along every axis."""
    thick_slices: Probability = 0.0
    """How often a patch looks as if scanned in thick slices along one of its axes ..."""
    thick_slices_mm: Annotated[float, Field(gt=0.0, le=20.0)] = 5.0
    """... of at most this thickness."""


_PROBABILITIES = (
    "mirror_left_right",
    "affine",
    "elastic",
    "noise",
    "blur",
    "contrast",
    "gain",
    "low_resolution",
    "thick_slices",
)
NO_AUGMENTATION = AugmentConfig.model_validate(dict.fromkeys(_PROBABILITIES, 0.0))
"""Samples as they are cut."""
