"""What SimpleITK (on which many viewers stand) and Convert3D see when they open a mask and its scan."""

import io

import numpy as np
import pytest
import SimpleITK as sitk
from picsl_c3d import Convert3D

from tests.core.grids import AXIS_ORDERS, SHAPE, TILT_DEGREES, affine, hounsfield, save_scan
from verse3d.core.volume import read_image, write_labels

PLAIN = (0.0, 0.0, 0.0)
MARKER = (4, 1, 5)  # near one corner, at another distance from each side
RAS_FROM_LPS = np.array([-1.0, -1.0, 1.0])


def with_simpleitk(path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def with_convert3d(path) -> sitk.Image:
    silent = io.StringIO()
    convert = Convert3D(silent, silent)
    convert.execute(f"{path} -info")
    return convert.pop()


def marker_world_mm(image: sitk.Image, value: float) -> np.ndarray:
    """Where the only voxel of that value lies, RAS+ mm."""
    (place,) = np.argwhere(sitk.GetArrayViewFromImage(image) == value)  # k, j, i
    return np.array(image.TransformIndexToPhysicalPoint(place[::-1].tolist())) * RAS_FROM_LPS


# Each form alone, plain and oblique; both together oblique; neither only plain: what is oblique would be lost.
@pytest.mark.parametrize(
    ("qform", "sform", "degrees"),
    [(0, 1, PLAIN), (0, 1, TILT_DEGREES), (1, 0, PLAIN), (1, 0, TILT_DEGREES), (1, 1, TILT_DEGREES), (0, 0, PLAIN)],
    ids=["sform", "sform oblique", "qform", "qform oblique", "both oblique", "neither"],
)
@pytest.mark.parametrize("codes", AXIS_ORDERS)
def test_simpleitk_and_convert3d_see_the_mask_where_they_see_the_scan(tmp_path, codes, degrees, qform, sform):
    image = hounsfield()
    image[MARKER] = 3000
    scan = save_scan(tmp_path / "ct.nii", image, affine(codes, degrees=degrees), qform=qform, sform=sform)
    source = read_image(scan)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[MARKER] = 28
    write_labels(tmp_path / "mask.nii.gz", labels, like=source.header)

    for look in (with_simpleitk, with_convert3d):
        theirs, ours = look(scan), look(tmp_path / "mask.nii.gz")
        assert ours.GetSize() == theirs.GetSize() == SHAPE
        assert ours.GetSpacing() == theirs.GetSpacing()
        assert ours.GetOrigin() == theirs.GetOrigin()
        np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(marker_world_mm(ours, 28), marker_world_mm(theirs, 3000))
        if qform or sform:  # without a form each reader invents a place of its own
            here = source.geometry.world_from_index([MARKER])[0]
            np.testing.assert_allclose(marker_world_mm(ours, 28), here, atol=1e-3)


def test_simpleitk_reads_the_labels_as_whole_numbers(tmp_path):
    source = read_image(save_scan(tmp_path / "ct.nii", hounsfield(), affine("PIR", degrees=TILT_DEGREES)))
    labels = np.random.default_rng(0).choice(np.array([0, 1, 28], dtype=np.uint8), SHAPE)
    write_labels(tmp_path / "mask.nii.gz", labels, like=source.header)
    mask = with_simpleitk(tmp_path / "mask.nii.gz")
    assert mask.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask).T, labels)
