"""What is wrong with a spine is found on any grid, and its healthy neighbour is left in peace."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import affine
from verse3d.core.labels import VERTEBRAE
from verse3d.data.cases import Case
from verse3d.data.quality import vertebrae
from verse3d.data.quality.examine import survey_case

SPACING_MM = (1.1, 0.9, 1.3)
TURNS = ["RAS", "PIR", "LPS", "ASR", "IPL"]
IDS = {row.name: row.id for row in VERTEBRAE}
HEIGHT, GAP, STEP = 10, 6, 16
ACROSS = (slice(6, 17), slice(4, 18))


def column(names, *, shape=(23, 25), margin=4) -> np.ndarray:
    """Bodies 10 voxels high, 16 from one to the next, in a RAS array, from head to tail. A name of "" leaves a gap."""
    mask = np.zeros((*shape, 2 * margin + STEP * len(names) - GAP), np.uint8)
    for number, name in enumerate(names):
        if name:
            mask[(*ACROSS, body(mask, number, margin))] = IDS[name]
    return mask


def body(mask, number, margin=4) -> slice:
    top = mask.shape[2] - margin - number * STEP
    return slice(top - HEIGHT, top)


@pytest.fixture
def findings(tmp_path):
    """Store a RAS label map with its axes turned, tilted, and give what is found besides the missing scan."""

    def find(mask, axes="RAS", degrees=(7.0, -5.0, 12.0), relabel=()):
        image = nib.Nifti1Image(mask, affine("RAS", SPACING_MM, degrees))
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axes))
        )
        path = Path(tmp_path / "mask.nii.gz")
        nib.save(image.as_reoriented(turn), path)
        survey = survey_case(Case("a", "a", None, path, relabel=relabel))
        return [finding for finding in survey.findings if finding.code != "mask-without-scan"]

    return find


def codes(found):
    return [(finding.severity, finding.code) for finding in found]


def index_of(text: str, number: int) -> tuple[int, ...]:
    """The n-th "index (i, j, k)" in a message."""
    part = text.split("index (")[number + 1].split(")", maxsplit=1)[0]
    return tuple(int(value) for value in part.split(","))


def stored(tmp_path) -> np.ndarray:
    return np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)


@pytest.mark.parametrize("axes", TURNS)
@pytest.mark.parametrize("names", ["T10 T11 T12 L1", "T12 T13 L1", "L4 L5 L6", "C7", "T11 T12 L1"])
def test_a_healthy_spine_gives_no_finding(findings, axes, names):
    assert findings(column(names.split()), axes) == []


# --- cut by the field of view


@pytest.mark.parametrize("axes", TURNS)
@pytest.mark.parametrize(("end", "level", "side"), [("top", "T10", "top (S"), ("bottom", "L1", "bottom (I")])
def test_a_vertebra_that_the_field_of_view_cuts_is_a_note_with_level_and_side(findings, axes, end, level, side):
    mask = column(["T10", "T11", "T12", "L1"])
    cut = mask[..., :-6] if end == "top" else mask[..., 6:]
    (finding,) = findings(cut, axes)
    assert (finding.severity, finding.code) == ("note", "vertebra-cut")
    assert f"{level} at the {side}, 100%" in finding.message
    assert "T11" not in finding.message


@pytest.mark.parametrize(("side", "crop"), [("left", np.s_[8:]), ("right", np.s_[:14])])
def test_a_spine_cut_lengthwise_is_noted_with_the_side_of_the_patient(findings, side, crop):
    (finding,) = findings(column(["L1", "L2"])[crop], "LPS")
    assert finding.code == "vertebra-cut"
    assert finding.message.count(f"at the {side} (") == 2


def test_a_scan_cropped_to_the_tips_of_its_vertebrae_cuts_none(findings):
    mask = column(["L1", "L2", "L3"])
    mask[10, 10, body(mask, 0).stop : body(mask, 0).stop + 2] = IDS["L1"]  # the tip of a process
    assert findings(mask[..., : body(mask, 0).stop + 2], "PIR") == []


# --- two bones, one label


@pytest.mark.parametrize("axes", TURNS)
def test_two_bones_with_one_label_are_a_warning_with_both_places(findings, tmp_path, axes):
    mask = column(["L1", "L2", "L3", "L4"])
    mask[mask == IDS["L3"]] = IDS["L2"]
    found = findings(mask, axes)
    split = next(finding for finding in found if finding.code == "label-split")
    assert split.severity == "warning"
    assert "21 mm apart along the spine" in split.message  # 16 voxels of 1.3 mm
    assert [stored(tmp_path)[index_of(split.message, number)] for number in (0, 1)] == [IDS["L2"]] * 2
    assert codes(found) == [("warning", "label-split"), ("warning", "label-missing")]


def test_pieces_in_a_box_too_large_for_all_its_voxels_are_measured_on_every_second_one(findings, monkeypatch):
    mask = column(["L1", "L2", "L3", "L4"])
    mask[mask == IDS["L3"]] = IDS["L2"]
    (exact, *_) = findings(mask)
    monkeypatch.setattr(vertebrae, "_LARGE_BOX_VOXELS", 100)
    (estimated, *_) = findings(mask)
    assert exact.code == estimated.code == "label-split"
    sizes = [re.findall(r"([\d.]+) ml", finding.message) for finding in (exact, estimated)]
    assert np.array(sizes[1], float) == pytest.approx(np.array(sizes[0], float), rel=0.15)


def test_a_body_and_its_arch_without_pedicles_are_a_note(findings):
    mask = column(["L1", "L2", "L3"], shape=(23, 40))
    mask[8:15, 24:32, body(mask, 1)] = IDS["L2"]
    (finding,) = findings(mask)
    assert (finding.severity, finding.code) == ("note", "label-split")
    assert "level with each other" in finding.message


def test_chips_and_slips_of_the_brush_are_no_second_bone(findings):
    mask = column(["L1", "L2", "L3"])
    mask[8:12, 8:12, body(mask, 0).start - 4 : body(mask, 0).start - 2] = IDS["L3"]
    mask[1, 1, 1] = IDS["L1"]
    assert findings(mask) == []


def test_voxels_that_touch_at_corners_are_one_piece(findings):
    mask = column(["L1", "L2", "L3"])
    part = mask[(*ACROSS, body(mask, 1))]
    checked = np.indices(part.shape).sum(axis=0) % 2 == 0
    part[~checked] = 0
    assert findings(mask) == []


# --- one bone, two labels


@pytest.mark.parametrize("axes", TURNS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_bone_cut_into_two_labels_is_a_warning_wherever_the_cut_lies(findings, tmp_path, axes, axis):
    mask = column(["L1", "L2", "L3", ""])
    part = mask[(*ACROSS, body(mask, 2))]
    half = [slice(None)] * 3
    # L4 is the lower, the left or the back half of L3.
    half[axis] = slice(0, part.shape[axis] // 2)
    part[tuple(half)] = IDS["L4"]
    (finding,) = (found for found in findings(mask, axes) if found.code != "label-order")
    assert (finding.severity, finding.code) == ("warning", "bone-shared")
    assert "L3 and L4 touch over" in finding.message
    place = index_of(finding.message, 0)
    around = stored(tmp_path)[tuple(slice(max(0, i - 1), i + 2) for i in place)]
    assert {IDS["L3"], IDS["L4"]} <= set(around.ravel().tolist())


def test_the_contact_area_is_that_of_the_faces_between_the_labels(findings):
    mask = column(["L1", "L2", "L3", ""])
    mask[6:11, 4:18, body(mask, 2)] = IDS["L4"]  # cut lengthwise: 14 x 10 faces of 0.9 x 1.3 mm
    (finding,) = (found for found in findings(mask, "PIR") if found.code == "bone-shared")
    area = 14 * 10 * 0.9 * 1.3
    surface = 2 * (area + 5 * 10 * 1.1 * 1.3 + 5 * 14 * 1.1 * 0.9)
    assert f"touch over {area:.0f} mm2, {area / surface:.0%}" in finding.message


def test_neighbours_that_touch_at_their_joints_are_no_shared_bone(findings):
    mask = column(["L1", "L2", "L3"])
    for number in (1, 2):
        mask[10:13, 8:13, body(mask, number).stop : body(mask, number - 1).start] = IDS[f"L{number + 1}"]
    assert findings(mask) == []


def test_a_thin_bridge_is_suspicious_between_halves_that_lie_beside_each_other_and_nowhere_else(findings):
    mask = column(["L1", "L2", "L3", ""], shape=(40, 25))
    mask[20:31, 4:18, body(mask, 2)] = IDS["L4"]
    mask[17:20, 8:14, body(mask, 2)] = IDS["L4"]
    assert "bone-shared" in [finding.code for finding in findings(mask)]
    apart = column(["L1", "L2", "L3", "L4"])
    apart[8:16, 6:14, body(apart, 3).stop : body(apart, 2).start] = IDS["L4"]
    assert findings(apart) == []


# --- order and gaps


@pytest.mark.parametrize("axes", TURNS)
def test_two_exchanged_levels_are_a_warning_that_names_them_and_their_place(findings, tmp_path, axes):
    found = findings(column(["L1", "L3", "L2", "L4"]), axes)
    assert codes(found) == [("warning", "label-order")]
    assert "is 20 mm above L2" in found[0].message or "is 21 mm above L2" in found[0].message
    assert stored(tmp_path)[index_of(found[0].message, 0)] == IDS["L3"]
    assert stored(tmp_path)[index_of(found[0].message, 1)] == IDS["L2"]


def test_a_spine_that_is_labelled_upside_down_is_said_to_be_so(findings):
    (finding,) = findings(column(["L4", "L3", "L2", "L1"]))
    assert finding.code == "label-order"
    assert "from tail to head" in finding.message and "upside down" in finding.hint


def test_the_corrections_of_the_index_apply_before_anything_is_checked(findings):
    swapped = column(["L1", "L3", "L2", "L4"])
    assert findings(swapped, relabel=((IDS["L2"], IDS["L3"]), (IDS["L3"], IDS["L2"]))) == []


@pytest.mark.parametrize(
    ("names", "severity", "words"),
    [
        (["L1", "L2", "", "L4", "L5"], "warning", "between L2 and L4 there is no L3 (42 mm apart, 2.0 times"),
        (["L1", "L2", "", "L4", "L5"], "warning", "a vertebra is not labelled"),
        (["L1", "L2", "L4", "L5"], "warning", "the numbers skip a level"),
        (["T9", "T10", "T11", "", "L1", "L2"], "warning", "a vertebra is not labelled"),
        (["T10", "T11", "L1", "L2"], "note", "eleven thoracic vertebrae"),
        (["T11", "L1"], "note", "eleven thoracic vertebrae"),
        (["L4", "L6"], "warning", "not labelled, or the numbers skip a level"),
        (["T11", "T13", "L1"], "warning", "between T11 and T13 there is no T12"),
        (["C1", "C2", "", "", "C5", "C6"], "warning", "no C3, C4"),
    ],
)  # fmt: skip
def test_missing_levels_are_told_apart_from_skipped_numbers(findings, names, severity, words):
    (finding,) = findings(column(names), "PIR")
    assert (finding.severity, finding.code) == (severity, "label-missing")
    assert words in finding.message


@pytest.fixture(scope="module")
def expert_masks():
    folder = Path(__file__).parents[2] / "../shared/data/verse-mini"
    masks = sorted(folder.glob("*/derivatives/*/*_msk.nii.gz"))
    if not masks:
        pytest.skip(f"the real VerSe masks are not in {folder}")
    return masks


def test_the_real_expert_masks_have_neither_split_nor_shared_bones(expert_masks):
    for path in expert_masks:
        found = survey_case(Case(path.name, path.name, None, path)).findings
        assert [finding.code for finding in found] == ["mask-without-scan"], path.name


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_real_vertebra_cut_into_two_labels_is_found(expert_masks, tmp_path, axis):
    image = nib.load(expert_masks[-1])  # T12 to L5
    mask = np.asarray(image.dataobj).astype(np.uint8)
    mask[mask == IDS["L5"]] = IDS["L6"]
    mask[mask == IDS["L4"]] = IDS["L5"]
    where = np.nonzero(mask == IDS["L3"])
    half = where[axis] > np.median(where[axis])
    mask[tuple(each[half] for each in where)] = IDS["L4"]
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "cut.nii.gz")
    found = survey_case(Case("a", "a", None, tmp_path / "cut.nii.gz")).findings
    (shared,) = (finding for finding in found if finding.code == "bone-shared")
    assert "L3 and L4" in shared.message
