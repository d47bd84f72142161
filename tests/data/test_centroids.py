"""Centroids of both formats come out where the vertebrae are, on any grid, and nonsense is refused or reported."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from tests.core.grids import affine, save_scan
from tests.data.spines import spine_labels
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.volume import read_labels
from verse3d.data.cases import Case
from verse3d.data.centroids import (
    labels_at,
    parse_centroids,
    read_centroids,
    world_from_miccai,
    world_from_voxels,
)
from verse3d.data.quality.examine import survey_case

IDS = (18, 19, 28, 20)
ROOMY = (29, 23, 41)
GRIDS = ["RAS", "PIR", "LPS", "ASR", "IPL", "SLA"]
LOPSIDED = (13, 21, 17)


def lopsided(axes, spacing_mm=(1.3, 0.8, 2.1), degrees=(6, -4, 11)):
    """A spine far from the middle of an odd grid, so that no flip goes unnoticed."""
    image = nib.Nifti1Image(np.zeros(ROOMY, np.uint8), affine("RAS", spacing_mm, degrees))
    mask = np.asarray(image.dataobj)
    for number, label in enumerate(IDS):
        top = 38 - number * 7
        mask[3:10, 12:21, top - 5 : top] = label
    return reoriented(nib.Nifti1Image(mask, image.affine), axes)


def reoriented(image, axes):
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes)))
    return image.as_reoriented(turn)


def centres(image) -> np.ndarray:
    """Index of the centre of every label, by scipy."""
    return np.array([center_of_mass(np.asarray(image.dataobj) == label) for label in IDS])


def centres_mm(image) -> np.ndarray:
    return nib.affines.apply_affine(image.affine, centres(image))


def rows(points, labels=IDS):
    return [
        {"label": label, **dict(zip("XYZ", map(float, point), strict=True))}
        for label, point in zip(labels, points, strict=True)
    ]


def store(path, content):
    path.write_text(json.dumps(content))
    return path


def geometry(image) -> Geometry:
    return Geometry(image.shape, image.affine)


def volume(image, tmp_path):
    nib.save(image, tmp_path / "mask.nii.gz")
    return read_labels(tmp_path / "mask.nii.gz")


# --- reading


@pytest.mark.parametrize("axes", GRIDS)
@pytest.mark.parametrize("direction", ["PIR", "LAS", "SRP"])
def test_voxel_indices_along_named_axes_become_world_positions(tmp_path, axes, direction):
    image = lopsided(axes)
    path = store(tmp_path / "a.json", [{"direction": list(direction)}, *rows(centres(reoriented(image, direction)))])
    found = read_centroids(path, geometry(image))
    assert (found.format, found.labels) == ("voxel", IDS)
    assert found.turned_from == ("" if direction == axes else direction)
    np.testing.assert_allclose(found.world_mm, centres_mm(image), atol=1e-6)


@pytest.mark.parametrize("axes", GRIDS)
@pytest.mark.parametrize(("convention", "frame"), [("miccai20", "PIR"), ("miccai19", "IPL")])
def test_miccai_positions_on_a_scan_of_1_mm_are_exact(tmp_path, axes, convention, frame):
    image = lopsided(axes, spacing_mm=(1.0, 1.0, 1.0))
    path = store(tmp_path / "a_ctd.json", rows(centres(reoriented(image, frame))))
    found = read_centroids(path, geometry(image), volume(image, tmp_path))
    assert found.format == convention
    np.testing.assert_allclose(found.world_mm, centres_mm(image), atol=1e-6)


@pytest.mark.parametrize("axes", GRIDS)
@pytest.mark.parametrize("convention", ["miccai20", "miccai19"])
@pytest.mark.parametrize("name", ["a_ctd.json", "a_iso-ctd.json"])
def test_miccai_positions_on_other_spacings_follow_the_published_conversion(tmp_path, axes, convention, name):
    """In the scan turned to ITK's RAI (which grows to L, P, S): '20 (Lx - Z, X, Lz - Y), '19 (Z, Y, Lz - X) in mm."""
    image = lopsided(axes)
    turned = reoriented(image, "LPS")
    spacing = np.array(nib.affines.voxel_sizes(turned.affine))
    x, y, z = ((centres(turned) + 0.5) * spacing).T
    length_x, _, length_z = turned.shape * spacing
    stored = {"miccai20": (y, length_z - z, length_x - x), "miccai19": (length_z - z, y, x)}[convention]
    path = store(tmp_path / name, rows(np.array(stored).T))
    found = read_centroids(path, geometry(image), volume(image, tmp_path))
    assert found.format == convention, "the mask decides, not the name"
    distance = np.linalg.norm(found.world_mm - centres_mm(image), axis=1)
    assert distance.max() < 0.9  # half a voxel of 1 mm along each axis


@pytest.mark.parametrize(("name", "convention"), [("a_iso-ctd.json", "miccai20"), ("a_ctd.json", "miccai19")])
def test_without_a_mask_the_volume_decides_and_then_the_name(tmp_path, name, convention):
    cube = Geometry((60, 60, 60), affine("RAS", (1.0, 1.0, 1.0)))
    path = store(tmp_path / name, rows([(30, 30, 30)], (20,)))
    assert read_centroids(path, cube).format == convention
    tall = Geometry((20, 30, 90), affine("RAS", (1.0, 1.0, 1.0)))
    assert read_centroids(store(path, rows([(12, 80, 4)], (20,))), tall).format == "miccai20"  # 80 mm fit along I only
    assert read_centroids(store(path, rows([(80, 12, 4)], (20,))), tall).format == "miccai19"


def test_entries_that_are_no_numbers_are_left_out_and_named(tmp_path):
    text = '[{"label": 20, "X": NaN, "Y": 1, "Z": 2}, {"label": 21, "X": 1, "Y": 2, "Z": 3}]'
    (tmp_path / "a.json").write_text(text)
    stored = parse_centroids(tmp_path / "a.json")
    assert (stored.labels, stored.points, stored.skipped) == ((21,), ((1.0, 2.0, 3.0),), (20,))


def test_a_file_without_any_centroid_is_fine(tmp_path):
    path = store(tmp_path / "a.json", [])
    assert read_centroids(path, Geometry((3, 4, 5), np.eye(4))).world_mm == ()
    store(path, [{"direction": ["P", "I", "R"]}])
    assert read_centroids(path, Geometry((3, 4, 5), np.eye(4))).labels == ()


NONSENSE = [
    {"label": 20},
    "text",
    5,
    None,
    ["text"],
    [[1, 2, 3]],
    [{"label": 20, "X": 1, "Y": 2}],
    [{"label": "L1", "X": 1, "Y": 2, "Z": 3}],
    [{"label": None, "X": 1, "Y": 2, "Z": 3}],
    [{"label": 20, "X": [1], "Y": 2, "Z": 3}],
    [{"direction": ["P", "I"]}],
    [{"direction": ["P", "A", "R"]}],
    [{"direction": 7}],
    [{"direction": [["P"], "I", "R"]}],
]


@pytest.mark.parametrize("content", NONSENSE, ids=repr)
def test_nonsense_is_refused_with_the_name_of_the_file(tmp_path, content):
    path = store(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=r"a\.json"):
        parse_centroids(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1e999999"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        parse_centroids(tmp_path / "a.json")


def test_axes_that_make_no_sense_are_refused():
    with pytest.raises(GeometryError, match="PIP"):
        world_from_voxels([(1, 2, 3)], "PIP", Geometry((3, 4, 5), np.eye(4)))


def test_the_label_at_a_point_is_that_of_the_nearest_voxel_and_none_outside(tmp_path):
    image = lopsided("PIR")
    mask = volume(image, tmp_path)
    index = np.array([[0.4, 0.4, 0.4], *centres(image)[:1], [-0.6, 0, 0], [0, 0, image.shape[2] - 0.4]])
    assert labels_at(mask.geometry.world_from_index(index), mask) == [0, 18, None, None]


def test_one_convention_is_not_the_other():
    grid = Geometry((40, 50, 60), affine("PIR", (1.0, 1.0, 1.0)))
    first, second = (world_from_miccai([(3, 4, 5)], each, grid) for each in ("miccai19", "miccai20"))
    assert np.linalg.norm(first - second) > 10


# --- what is found


@pytest.fixture
def findings(tmp_path):
    """What is found of a mask with centroids, apart from the missing scan."""

    def find(content, image=None, **changes):
        image = lopsided("PIR") if image is None else image
        nib.save(image, tmp_path / "m.nii.gz")
        path = tmp_path / "a_seg-subreg_ctd.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        case = replace(Case("a", "a", None, tmp_path / "m.nii.gz", path), **changes)
        return [finding for finding in survey_case(case).findings if finding.code != "mask-without-scan"]

    return find


def voxel_file(image, direction="PIR", *, moved=None, labels=IDS):
    points = centres(reoriented(image, direction))
    for number, offset in (moved or {}).items():
        points[number] += offset
    return [{"direction": list(direction)}, *rows(points, labels)]


def test_centroids_in_their_labels_give_no_finding(findings):
    assert findings(voxel_file(lopsided("PIR"))) == []


@pytest.mark.parametrize("axes", GRIDS)
def test_a_centroid_outside_of_its_label_is_a_warning_with_level_index_and_distance(findings, axes):
    image = lopsided(axes)
    k = next(axis for axis, code in enumerate(axes) if code in "SI")
    offset = np.eye(3)[k] * (5 if axes[k] == "S" else -5)  # above T11, whose upper half is two voxels
    (finding,) = findings(voxel_file(image, axes, moved={0: offset}), image)
    assert (finding.severity, finding.code) == ("warning", "centroid-outside")
    index = tuple(round(value) for value in centres(image)[0] + offset)
    assert f"the centroid of T11 at index {index}" in finding.message
    assert f"lies {3 * 2.1:.1f} mm outside" in finding.message


def test_a_centroid_outside_of_the_volume_is_a_warning(findings):
    (finding,) = findings(voxel_file(lopsided("PIR"), moved={3: (0, 0, 400)}))
    assert finding.code == "centroid-outside" and "L1" in finding.message


def test_centroids_of_another_scan_are_one_warning(findings):
    moved = dict.fromkeys(range(4), (20, 0, 0))
    (finding,) = findings(voxel_file(lopsided("PIR"), moved=moved))
    assert finding.code == "centroid-outside"
    assert "4 of 4 centroids" in finding.message and "another scan" in finding.hint


def test_axes_other_than_the_scans_are_a_note_and_are_followed(findings):
    (finding,) = findings(voxel_file(lopsided("PIR"), "LAS"))
    assert (finding.severity, finding.code) == ("note", "centroid-direction")
    assert "LAS" in finding.message and "PIR" in finding.message


def test_centroids_without_label_and_labels_without_centroid_are_notes(findings):
    found = findings(voxel_file(lopsided("PIR"), labels=(17, 19, 28, 20)))
    assert [(finding.severity, finding.code) for finding in found] == [
        ("note", "centroid-absent"),
        ("note", "centroid-missing"),
    ]
    assert "T10" in found[0].message and "T11" in found[1].message


def test_a_centroid_that_is_no_number_is_a_note_and_counts_as_listed(findings):
    content = json.dumps(voxel_file(lopsided("PIR"), moved={1: (np.nan, 0, 0)}))
    (finding,) = findings(content)
    assert (finding.severity, finding.code) == ("note", "centroid-nan")
    assert "T12" in finding.message


@pytest.mark.parametrize("content", ["", "[", "{}", '[{"label": 20}]', '[{"direction": "PPP"}]'])
def test_a_damaged_centroid_file_is_a_warning_and_no_more(findings, content):
    (finding,) = findings(content)
    assert (finding.severity, finding.code) == ("warning", "centroid-unreadable")
    assert finding.hint


def test_a_centroid_file_that_is_gone_is_a_warning(findings, tmp_path):
    (finding,) = findings([], centroids=tmp_path / "gone.json")
    assert (finding.severity, finding.code) == ("warning", "centroid-unreadable")


def test_corrections_of_labels_hold_for_centroids_too(findings):
    relabel = ((18, 17), (19, 18), (28, 19))
    assert findings(voxel_file(lopsided("PIR")), relabel=relabel) == []


def test_centroids_of_a_scan_without_mask_are_read_but_not_compared(tmp_path):
    shape, matrix = (9, 11, 14), affine("PIR")
    scan = save_scan(tmp_path / "a.nii", np.random.default_rng(0).integers(-1000, 2000, shape).astype(np.int16), matrix)
    good = store(tmp_path / "good.json", [{"direction": ["P", "I", "R"]}, *rows([(1, 2, 3)], (20,))])
    bad = store(tmp_path / "bad.json", {})
    assert [f.code for f in survey_case(Case("a", "a", scan, None, good)).findings] == ["scan-without-mask"]
    assert [f.code for f in survey_case(Case("a", "a", scan, None, bad)).findings] == [
        "scan-without-mask",
        "centroid-unreadable",
    ]


def test_a_mask_with_turned_axes_is_compared_in_the_world(tmp_path):
    shape, matrix = (9, 11, 14), affine("PIR")
    mask = nib.Nifti1Image(spine_labels(shape, matrix), matrix)
    scan = save_scan(tmp_path / "a.nii", np.random.default_rng(0).integers(-1000, 2000, shape).astype(np.int16), matrix)
    points = [center_of_mass(np.asarray(mask.dataobj) == label) for label in (19, 28, 20)]
    path = store(tmp_path / "c.json", [{"direction": ["P", "I", "R"]}, *rows(points, (19, 28, 20))])
    nib.save(reoriented(mask, "LAS"), tmp_path / "m.nii")
    found = survey_case(Case("a", "a", scan, tmp_path / "m.nii", path)).findings
    assert not [finding for finding in found if finding.code.startswith("centroid")]
