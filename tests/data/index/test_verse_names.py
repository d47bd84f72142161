"""Names of VerSe files say the same subject and series in every release."""

import pytest

from tests.releases import miccai_stem
from verse3d.data.index.verse_names import is_gl, pairing_name, parse_verse_name, subject_of
from verse3d.data.index.verse_release import released_scans


@pytest.mark.parametrize(
    ("name", "subject", "series", "style"),
    [
        ("sub-verse004", "sub-verse004", "verse004", "subject-based"),
        ("sub-verse401_split-verse201", "sub-verse401", "verse201", "subject-based"),
        ("sub-gl003_dir-ax", "sub-gl003", "gl003", "subject-based"),
        ("sub-verse500_dir-sag", "sub-verse500", "verse500", "subject-based"),
        ("verse082_CT-iso", "sub-verse082", "verse082", "MICCAI"),
        ("verse082", "sub-verse082", "verse082", "MICCAI"),
        ("verse401_verse201_CT-iso", "sub-verse401", "verse201", "MICCAI"),
        ("verse201", "sub-verse401", "verse201", "MICCAI"),
        ("GL003", "sub-gl003", "gl003", "MICCAI"),
        ("GL017_CT_ax", "sub-gl017", "gl017", "MICCAI"),
        ("GL090_CT-ax", "sub-gl090", "gl090", "MICCAI"),
    ],
)
def test_a_verse_name_is_taken_apart(name, subject, series, style):
    verse = parse_verse_name(name)
    assert (verse.subject, verse.series, verse.style) == (subject, series, style)


@pytest.mark.parametrize(
    "name", ["", "a", "verse", "verse12", "verse1234", "sub-verse12", "sub-other004", "verse004_left", "universe004"]
)
def test_other_names_are_no_verse_names(name):
    assert parse_verse_name(name) is None


@pytest.mark.parametrize("scan", released_scans(), ids=lambda scan: scan.stem)
def test_every_released_scan_is_recognised_in_both_releases(scan):
    for name in (scan.stem, miccai_stem(scan)):
        verse = parse_verse_name(name)
        assert (verse.subject, verse.series) == (scan.subject, scan.series)


def test_mixed_spellings_find_each_other_and_orientations_stay_apart():
    assert pairing_name("GL017_CT_ax") == pairing_name("gl017_CT-ax")
    assert pairing_name("verse082_CT-ax") != pairing_name("verse082_CT-sag")
    assert pairing_name("my scan_ct") == "my scan_ct"


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("verse201_resampled", "sub-verse401"),
        ("verse401_followup", "sub-verse401"),
        ("verse401_verse201_CT-iso_1mm", "sub-verse401"),
        ("SUB-VERSE402_SPLIT-VERSE202", "sub-verse402"),
        ("GL003_CT-ax_resampled", "sub-gl003"),
        ("verse2010", "verse2010"),
    ],
)
def test_a_name_derived_from_a_released_one_shows_the_same_patient(name, subject):
    assert subject_of(name) == subject


@pytest.mark.parametrize("name", ["GL003", "sub-gl016_x", "sub-GL453_dir-ax", "gl090_CT-ax.nii.gz"])
def test_gl_scans_are_known_by_any_of_their_names(name):
    assert is_gl(name)


@pytest.mark.parametrize("name", ["", "angl003", "gl0031", "sub-verse003", "global", "glass003"])
def test_other_names_are_no_gl_scans(name):
    assert not is_gl(name)


@pytest.mark.parametrize(
    ("name", "subject"), [("sub-a1_ses-2_run-1", "sub-a1"), ("verse201", "sub-verse401"), ("patient 7", "patient 7")]
)
def test_the_subject_follows_verse_then_bids_then_the_name(name, subject):
    assert subject_of(name) == subject
