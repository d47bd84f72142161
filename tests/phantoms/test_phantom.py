"""The phantom: laid out like VerSe, true to its own mask, the same for the same seed, and a spine to the eye."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from verse3d.core.errors import DataError, OutputError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERSE_IDS, VERTEBRAE, vertebra
from verse3d.core.worker_pool import CannotStartError, Failure
from verse3d.data.index.discover import load_cases
from verse3d.data.quality.examine import survey_case
from verse3d.phantoms import PhantomCase, make_case, write_phantom, writer
from verse3d.phantoms.shapes import Plate, Points, coverage, ellipsoid, union
from verse3d.phantoms.spine import build_spine
from verse3d.phantoms.vertebra import vertebra_sdf
from verse3d.phantoms.view import choose_view
from verse3d.phantoms.writer import splits

SEED, CASES = 3, 3
TOP_DOWN = [label.id for label in VERTEBRAE]
STEM = re.compile(r"sub-verse(\d{3})_(ct|seg-vert_msk|seg-subreg_ctd)\.(nii\.gz|json)")


class Written(NamedTuple):
    """A folder with phantom cases, what ``on_case`` heard, and the cases in memory; read only."""

    out: Path
    images: list[Path]
    heard: list[str]
    drawn: list[PhantomCase]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out, heard, drawn = tmp_path_factory.mktemp("phantom") / "new", [], []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer, "make_case", lambda *which, **how: drawn.append(make_case(*which, **how)) or drawn[-1])
        images = write_phantom(out, cases=CASES, seed=SEED, on_case=heard.append)
    return Written(out, images, heard, drawn)


def mask_path(image):
    return Path(str(image).replace("rawdata", "derivatives").replace("_ct.nii.gz", "_seg-vert_msk.nii.gz"))


def centroid_path(image):
    return Path(str(image).replace("rawdata", "derivatives").replace("_ct.nii.gz", "_seg-subreg_ctd.json"))


def opened(image):
    """HU, mask and geometry of a written case."""
    ct, mask = nib.load(image), nib.load(mask_path(image))
    return np.asarray(ct.dataobj), np.asarray(mask.dataobj), Geometry(ct.shape, ct.affine)


@pytest.fixture(scope="module")
def cases(written):
    return [opened(image) for image in written.images]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def world_centres(mask, geometry):
    """Label id to the centre of its voxels in world mm."""
    ids = np.unique(mask)[1:]
    return dict(zip(ids.tolist(), geometry.world_from_index(ndimage.center_of_mass(mask > 0, mask, ids)), strict=True))


@pytest.mark.slow  # it draws a phantom anew
def test_the_same_seed_writes_the_same_bytes_into_any_folder(written, tmp_path):
    write_phantom(tmp_path / "elsewhere", cases=1, seed=SEED)
    again = contents(tmp_path / "elsewhere")
    assert len(again) == 4
    assert again == {name: data for name, data in contents(written.out).items() if name in again}


def test_another_seed_or_another_case_is_another_scan(cases):
    other = make_case(8, 1)
    assert all(other.image_hu.shape != hu.shape or np.any(other.image_hu != hu) for hu, _, _ in cases)
    shapes = {hu.shape for hu, _, _ in cases}
    assert len(shapes) == CASES


def test_a_case_with_its_centroids_gives_no_finding(written):
    cases = load_cases(written.out)
    assert len(cases) == CASES
    for case in cases:
        survey = survey_case(case)
        assert case.centroids is not None and survey.findings == () and len(survey.levels) > 2


def test_files_are_named_and_placed_like_verse(written):
    out, images = written.out, written.images
    folders = {"ct": "rawdata", "seg-vert_msk": "derivatives", "seg-subreg_ctd": "derivatives"}
    for name in contents(out):
        dataset, kind, subject, file = Path(name).parts
        found = STEM.fullmatch(file)
        assert found, name
        assert dataset in ("dataset-01training", "dataset-02validation", "dataset-03test")
        assert (kind, subject) == (folders[found[2]], f"sub-verse{found[1]}")
    assert [image.name for image in images] == [f"sub-verse{900 + n}_ct.nii.gz" for n in range(CASES)]
    assert [image.parts[-4] for image in images] == splits(CASES)


def test_on_case_hears_of_every_case_in_order(written):
    assert written.heard == ["sub-verse900", "sub-verse901", "sub-verse902"]


@pytest.mark.parametrize(
    ("cases", "counts"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (6, (3, 1, 2)), (20, (11, 3, 6))]
)
def test_splits_keep_a_share_for_validation_and_test(cases, counts):
    found = splits(cases)
    assert tuple(found.count(f"dataset-0{name}") for name in ("1training", "2validation", "3test")) == counts


def test_voxel_types_are_what_viewers_expect_and_mask_and_image_share_the_header(written):
    for image in written.images:
        ct, mask = nib.load(image), nib.load(mask_path(image))
        assert (ct.get_data_dtype(), mask.get_data_dtype()) == (np.int16, np.uint8)
        assert ct.header.get_xyzt_units()[0] == "mm"
        assert np.array_equal(ct.affine, mask.affine)
        assert ct.shape == mask.shape
        assert ct.header["sform_code"] + ct.header["qform_code"] > 0


def test_the_written_affine_is_the_affine_of_the_case_in_memory(written):
    for case, image in zip(written.drawn, written.images, strict=True):
        assert case.geometry.distance_mm(opened(image)[2]) < 0.01


def test_affines_are_orthonormal_and_their_axis_orders_and_tilts_vary():
    views = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        spine = build_spine(rng, None)
        views.append(choose_view(rng, spine, ("L2", "L3")))
    assert max(view.geometry.skew for view in views) < 1e-6
    assert len({view.geometry.axis_codes for view in views}) >= 4
    assert {("P", "I", "R"), ("L", "A", "S")} <= {view.geometry.axis_codes for view in views}
    tilted = [np.sum(np.abs(view.geometry.affine[:3, :3]) > 1e-6) > 3 for view in views]
    assert 0.2 < np.mean(tilted) < 0.8
    assert {view.headers.sform_code == 0 for view in views} == {True, False}
    assert {view.headers.qform_code == 0 for view in views} == {True, False}


def test_hounsfield_units_reach_from_air_to_cortical_bone(cases):
    for hu, _, _ in cases:
        assert -1024 <= hu.min() < -60
        assert 450 < hu.max() <= 3071
    assert min(hu.min() for hu, _, _ in cases) < -900


def test_masks_hold_a_run_of_neighbouring_vertebrae_from_head_to_foot(cases):
    for _, mask, geometry in cases:
        centres = world_centres(mask, geometry)
        assert set(centres) <= VERSE_IDS
        assert 4 <= len(centres) <= 12
        ordered = [label for label in TOP_DOWN if label in centres]
        assert np.all(np.diff([centres[label][2] for label in ordered]) < 0)
        ranks = [[label for label in TOP_DOWN if label != 28].index(label) for label in ordered]
        assert np.all(np.diff(ranks) == 1)


def test_every_label_is_one_piece(cases):
    for _, mask, _ in cases:
        for label in np.unique(mask)[1:]:
            assert ndimage.label(mask == label)[1] == 1, label


def test_only_vertebrae_that_are_wholly_in_view_are_labelled(cases):
    for hu, mask, geometry in cases:
        faces = [np.take(mask, index, axis) for axis in range(3) for index in (0, -1)]
        assert not any(face.any() for face in faces)
        up = [code in "SI" for code in geometry.axis_codes].index(True)
        ends = np.stack([np.take(hu, index, up) for index in (1, -2)])
        assert (ends > 250).any()  # a neighbour that is cut off still shows


def test_centroids_are_voxel_indices_inside_their_vertebra(written, cases):
    for image, (_, mask, geometry) in zip(written.images, cases, strict=True):
        first, *points = json.loads(centroid_path(image).read_text())
        assert first == {"direction": list(geometry.axis_codes)}
        assert {point["label"] for point in points} == set(np.unique(mask)[1:].tolist())
        for point in points:
            values = [point[axis] for axis in "XYZ"]
            assert [round(value, 1) for value in values] == values
            i, j, k = np.round(values).astype(int)
            assert (mask[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] == point["label"]).any()


def test_labelled_bone_is_denser_than_what_lies_around_it(cases):
    for hu, mask, _ in cases:
        inside = mask > 0
        around = ndimage.binary_dilation(inside, iterations=4) & ~ndimage.binary_dilation(inside, iterations=2)
        assert np.median(hu[inside]) > np.median(hu[around]) + 100


def test_a_body_has_a_dense_shell_around_a_spongy_core(cases):
    for hu, mask, geometry in cases:
        depth = ndimage.distance_transform_edt(mask > 0, sampling=geometry.spacing_mm)
        core, shell = hu[depth > 5.0], hu[(depth > 0) & (depth < 2.0)]
        assert 80 < np.median(core) < 300
        assert np.percentile(shell, 75) > np.median(core) + 80


def test_the_canal_stays_open_at_every_level():
    for item in build_spine(np.random.default_rng(1), None).vertebrae:
        z = np.linspace(-40, 40, 41, dtype=np.float32)
        middle = Points(np.zeros_like(z), np.full_like(z, item.shape.canal_y), z)
        assert vertebra_sdf(item.shape, middle).bone.min() > 4.0, item.name


def test_lumbar_bodies_are_larger_than_cervical_ones():
    rng = np.random.default_rng(0)
    sizes = {item.name: item.shape.size for item in build_spine(rng, None).vertebrae}
    assert sizes["L5"].width > 1.4 * sizes["T6"].width > 1.4 * sizes["C4"].width
    assert sizes["T6"].spinous_angle_deg > 40 > sizes["L3"].spinous_angle_deg
    assert list(sizes) == [label.name for label in VERTEBRAE if label.name not in ("T13", "L6")]


def test_the_spine_curves_forward_backward_forward():
    spine = build_spine(np.random.default_rng(5), None)
    y = {item.name: item.pose.centre[1] for item in spine.vertebrae}
    assert y["L3"] > y["T8"] < y["C5"]
    assert y["L3"] > spine.sacrum.centre[1]


@pytest.mark.parametrize(("anomaly", "in_turn"), [("l6", ("L5", "L6")), ("t13", ("T12", "T13", "L1"))])
def test_a_supernumerary_vertebra_stands_in_its_place(anomaly, in_turn):
    bones = build_spine(np.random.default_rng(SEED), anomaly).vertebrae
    first = [bone.name for bone in bones].index(in_turn[0])
    assert tuple(bone.name for bone in bones[first : first + len(in_turn)]) == in_turn
    heights = [bone.pose.centre[2] for bone in bones]
    assert heights == sorted(heights, reverse=True)


def test_the_last_of_four_lumbar_vertebrae_stands_on_the_sacrum_and_is_as_large_as_l5():
    usual, four = (build_spine(np.random.default_rng(SEED), anomaly) for anomaly in (None, "l5-missing"))
    assert four.names() == [name for name in usual.names() if name != "L5"]
    above = [spine.vertebrae[-1].pose.centre[2] - spine.sacrum.centre[2] for spine in (usual, four)]
    assert above == pytest.approx([above[0]] * 2, abs=4.0)
    assert four.named("L4").shape.size.width == pytest.approx(usual.named("L5").shape.size.width, rel=0.15)
    heights = [bone.pose.centre[2] for bone in four.vertebrae]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.slow  # seconds, and what is like it runs quickly
@pytest.mark.parametrize("index", range(3))
def test_a_scan_of_four_lumbar_vertebrae_shows_no_fifth(index):
    case = make_case(SEED, index, anomaly="l5-missing")
    assert case.anomaly == "l5-missing" and not np.isin(case.mask, (24, 25)).any()


@pytest.mark.slow  # seconds, and what is like it runs quickly
@pytest.mark.parametrize(("anomaly", "in_turn"), [("l6", (24, 25)), ("t13", (19, 28, 20))])
def test_a_supernumerary_vertebra_is_labelled_in_its_place(anomaly, in_turn):
    case = make_case(SEED, ("l6", "t13").index(anomaly), anomaly=anomaly)
    centres = world_centres(case.mask, case.geometry)
    heights = [centres[number][2] for number in in_turn]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_without_t12_the_first_lumbar_vertebra_follows_t11():
    case = make_case(SEED, 1, anomaly="t12-missing")
    centres = world_centres(case.mask, case.geometry)
    assert 19 not in centres
    assert np.linalg.norm(centres[18] - centres[20]) < 45


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_collapsed_body_is_lower_than_its_neighbours_and_wedged():
    rng = np.random.default_rng(0)
    spine = build_spine(rng, "collapsed", ("L2",))
    assert spine.named("L2").shape.body_height < 0.7 * spine.named("L3").shape.body_height
    assert spine.named("L2").shape.wedge > 0.08
    plain, hurt = make_case(SEED, 0), make_case(SEED, 0, anomaly="collapsed")
    smallest = [min(np.sum(case.mask == vertebra(name).id) for name in case.levels) for case in (plain, hurt)]
    assert smallest[1] < 0.9 * smallest[0]


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_screws_are_metal_in_the_pedicles_and_leave_the_mask_alone():
    plain, screwed = make_case(SEED, 0), make_case(SEED, 0, anomaly="screw")
    assert plain.image_hu.max() < 1800 < screwed.image_hu.max()
    assert np.array_equal(plain.mask, screwed.mask)
    assert len(np.unique(screwed.mask[screwed.image_hu > 2000])) >= 3  # two vertebrae, and heads outside


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_anomalies_take_turns(tmp_path):
    image = write_phantom(tmp_path, cases=1, seed=SEED, anomalies=True)[0]
    assert 25 in opened(image)[1]


def in_turn(start, tmp_path, monkeypatch, told):
    """Four cases that are nothing but their number, drawn by whatever ``start`` is."""
    monkeypatch.setattr(writer, "make_case", lambda seed, index, anomaly: index)
    monkeypatch.setattr(writer, "_write_case", lambda folder, name, case: folder / name)
    monkeypatch.setattr(writer, "each_in_processes", start)
    return write_phantom(tmp_path / "out", cases=4, workers=2, on_case=told.append)


def test_processes_draw_the_same_cases_and_their_paths_keep_their_order(tmp_path, monkeypatch):
    def backwards(function, items, workers):
        yield from [(number, function(items[number])) for number in (2, 0)]
        raise CannotStartError("no more processes")

    told = []
    paths = in_turn(backwards, tmp_path, monkeypatch, told)
    assert [path.name for path in paths] == [f"sub-verse90{number}" for number in range(4)]
    assert told == ["sub-verse902", "sub-verse900", "sub-verse901", "sub-verse903"]


def test_a_process_that_cannot_write_its_case_ends_the_job_with_the_reason(tmp_path, monkeypatch):
    def failing(function, items, workers):
        yield 0, Failure("OutputError: the disk is full")

    with pytest.raises(OutputError, match=r"sub-verse900 could not be written: .*the disk is full"):
        in_turn(failing, tmp_path, monkeypatch, [])


@pytest.mark.parametrize("cases", [0, -3, 101])
def test_an_impossible_number_of_cases_is_refused(cases, tmp_path):
    with pytest.raises(DataError, match=str(cases)):
        write_phantom(tmp_path, cases=cases)
    assert not list(tmp_path.iterdir())


def test_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="-1"):
        make_case(-1)


def test_a_folder_that_holds_a_dataset_is_never_written_into(tmp_path):
    (tmp_path / "dataset-02validation").mkdir()
    with pytest.raises(OutputError, match="dataset-02validation"):
        write_phantom(tmp_path, cases=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["dataset-02validation"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        write_phantom(tmp_path / "out", cases=1)


def test_nothing_half_written_stays_behind(written):
    assert not [name for name in contents(written.out) if Path(name).name.startswith(".")]


def test_shapes_measure_distance_in_millimetres():
    line = Points(*(np.array(axis, dtype=np.float32) for axis in ([0, 0, 0], [0, 3, 0], [0, 0, 8])))
    assert np.allclose(Plate((0, 0, -5), (0, 0, 5), (2, 2), up=(1, 0, 0)).sdf(line), [-2, 1, 1])
    assert np.allclose(ellipsoid(line, (0, 0, 0), (4, 4, 4))[1:], [-1, 4])
    near = union(np.float32([1.0]), np.float32([1.0]), 2.0)
    assert near[0] < 1.0
    assert np.allclose(coverage(np.array([-1.0, 0.0, 1.0]), 1.0), [1, 0.5, 0])
