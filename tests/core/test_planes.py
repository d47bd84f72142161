import nibabel as nib
import numpy as np
import pytest

from verse3d.core.axes import PLANES
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.planes import plane_slice

SHAPE_RAS = (11, 7, 5)
SPACING_RAS = (0.7, 1.5, 3.0)
MARKER_RAS = (9, 5, 4)  # at the patient's right, front and head
CODES = ["RAS", "LPS", "LAS", "PIR", "ASL", "IPL", "SRA", "AIL"]


def marked(codes: str) -> tuple[np.ndarray, Geometry]:
    """One voxel marked near the patient's right anterior superior corner, stored in the given axis order."""
    affine = np.diag([*SPACING_RAS, 1.0])
    affine[:3, 3] = -3, 20, -400
    array = np.zeros(SHAPE_RAS, dtype=np.uint8)
    array[MARKER_RAS] = 1
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    image = nib.Nifti1Image(array, affine).as_reoriented(change)
    return np.asarray(image.dataobj), Geometry(image.shape, image.affine)


def marker_mm() -> np.ndarray:
    return np.array([-3, 20, -400]) + np.array(MARKER_RAS) * SPACING_RAS


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("plane", PLANES)
def test_the_marker_lies_where_the_convention_says(codes, plane):
    shape, pixel_mm, marker, letters = {
        "sagittal": ((5, 7), (3.0, 1.5), (0, 1), "APSI"),
        "coronal": ((5, 11), (3.0, 0.7), (0, 1), "RLSI"),
        "axial": ((7, 11), (1.5, 0.7), (1, 1), "RLAP"),
    }[plane]
    array, grid = marked(codes)
    assert "".join(grid.axis_codes) == codes
    shown = plane_slice(array, grid, plane, marker_mm())
    assert shown.pixels.shape == shape
    assert np.argwhere(shown.pixels).tolist() == [list(marker)]  # counted from the upper left
    assert shown.pixel_mm == pytest.approx(pixel_mm)
    assert shown.left + shown.right + shown.top + shown.bottom == letters
    assert shown.position_mm == pytest.approx(marker_mm()[PLANES.index(plane)])
    assert shown.size_mm == pytest.approx((shape[0] * pixel_mm[0], shape[1] * pixel_mm[1]))


@pytest.mark.parametrize("order", ["C", "F"])
def test_slices_are_views_of_the_volume(order):
    array, grid = marked("PIR")
    array = np.asarray(array, order=order)
    for plane in PLANES:
        assert np.shares_memory(plane_slice(array, grid, plane, (0, 0, 0)).pixels, array)


def test_the_nearest_slice_is_taken_and_the_border_is_the_last():
    array, grid = marked("LPS")
    for offset in (1.4, -1.4):
        assert plane_slice(array, grid, "axial", marker_mm() + np.array([0, 0, offset])).pixels.any()
    far = plane_slice(array, grid, "axial", (0, 0, 1e6))
    assert far.position_mm == pytest.approx(-400 + 4 * 3.0)
    assert plane_slice(array, grid, "axial", (0, 0, -1e6)).position_mm == pytest.approx(-400)


def test_on_an_oblique_scan_the_nearest_planes_are_shown():
    array, grid = marked("PIR")
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Geometry(grid.shape, turn @ grid.affine)
    centre = turn[:3, :3] @ marker_mm()
    for plane in PLANES:
        straight = plane_slice(array, grid, plane, marker_mm()).pixels
        np.testing.assert_array_equal(plane_slice(array, oblique, plane, centre).pixels, straight)


def test_arrays_off_the_grid_are_refused():
    array, grid = marked("ASL")
    with pytest.raises(GeometryError, match="does not lie on a grid"):
        plane_slice(array[1:], grid, "axial", (0, 0, 0))
