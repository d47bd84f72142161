"""The patient's axes and the planes across them, defined once: right, anterior, superior, as on every network grid."""

from typing import Literal

PlaneName = Literal["sagittal", "coronal", "axial"]
PLANES: tuple[PlaneName, ...] = ("sagittal", "coronal", "axial")
"""In the order of the axes that run across their slices: to the right, to the front, to the head."""
AXIS_OF_PLANE: dict[str, int] = {plane: axis for axis, plane in enumerate(PLANES)}
"""The axis that runs across the slices of a plane."""
LEFT_RIGHT = AXIS_OF_PLANE["sagittal"]
"""The axis along which a mirror exchanges the patient's sides."""
