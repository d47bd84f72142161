"""The complete release under its real names is found, merged and counted, and what is missing has a name."""

import random
import time
from pathlib import Path

import pytest

from tests.releases import (
    NAMES_FILE,
    miccai_stem,
    released_paths,
    tiny_mask,
    tiny_scan,
    write_miccai,
    write_subject_based,
)
from verse3d.data.index.build import IndexOptions, IndexReport, build_index
from verse3d.data.index.verse_release import PARTS, released_scans, released_series, split_of_folder

EXPECTED = {
    "verse19training": (80, 67),
    "verse19validation": (40, 37),
    "verse19test": (40, 37),
    "verse20training": (61, 61),
    "verse20validation": (80, 80),
    "verse20test": (73, 73),
}


@pytest.fixture(scope="module")
def subject_based(tmp_path_factory) -> Path:
    return write_subject_based(tmp_path_factory.mktemp("subject-based"))


@pytest.fixture(scope="module")
def miccai(tmp_path_factory) -> Path:
    return write_miccai(tmp_path_factory.mktemp("miccai"))


def build(*roots: Path, **options) -> IndexReport:
    return build_index(roots, IndexOptions(**options))


def counts(report: IndexReport) -> dict[str, tuple[int, int]]:
    return {part.part: (part.scans, part.subjects) for part in report.release}


def splits(report: IndexReport) -> list[int]:
    return [len(report.cases.in_split(split)) for split in ("train", "validation", "test")]


def test_the_list_of_the_release_has_the_published_numbers():
    scans = released_scans()
    assert {
        part: (sum(s.part == part for s in scans), len({s.subject for s in scans if s.part == part})) for part in PARTS
    } == EXPECTED
    assert len(scans) == len({scan.series for scan in scans}) == 374
    assert len({scan.subject for scan in scans}) == 355
    assert sum(scan.subject.startswith("sub-gl") for scan in scans) == 30
    assert len({(scan.subject, scan.split) for scan in scans}) == 355  # nobody is in two splits


@pytest.mark.skipif(not NAMES_FILE.exists(), reason="the list of published names is not on this machine")
def test_the_list_of_the_release_holds_exactly_the_published_names():
    published = [tuple(line.split("\t")) for line in NAMES_FILE.read_text().splitlines()]
    assert sorted(published) == sorted(released_paths())


def test_the_subject_based_release_gives_exactly_its_counts_in_seconds(subject_based):
    started = time.process_time()
    report = build(subject_based)
    assert time.process_time() - started < 20
    assert counts(report) == EXPECTED
    assert splits(report) == [141, 120, 113]
    assert len(report.cases) == 374
    assert len({case.subject for case in report.cases}) == 355
    assert {case.split_origin for case in report.cases} == {"release"}
    assert all(case.image and case.mask and case.centroids for case in report.cases)
    assert (report.left_out, report.damaged, report.packed) == ((), (), 0)
    assert all(part.missing == part.without_mask == () for part in report.release)
    assert report.layouts == {"VerSe subject-based": 374}


@pytest.mark.slow  # it makes a release of hundreds of files; the other release is made by quick tests
def test_the_miccai_release_is_paired_and_counted_alike(miccai):
    report = build(miccai)
    assert counts(report) == EXPECTED
    assert all(case.image and case.mask and case.centroids for case in report.cases)
    assert len(report.cases) == 374
    assert len({case.subject for case in report.cases}) == 355
    assert report.layouts == {"VerSe MICCAI": 374}
    assert len(report.left_out) == 37  # VerSe'20 holds these once more
    assert {copy.reason.split()[0] for copy in report.left_out} == {"same"}


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_the_variants_of_miccai_names_find_their_masks_and_centroids(miccai):
    cases = {case.series: case for case in build(miccai).cases}
    for series in ("gl003", "gl017", "gl090", "gl124", "verse600", "verse201"):
        case = cases[series]
        assert case.case == miccai_stem(released_series()[series])
        assert case.subject == released_series()[series].subject
        assert case.mask and case.mask.name == f"{case.case}_seg.nii.gz"
    assert cases["gl124"].centroids.name == "GL124_CT_ax-iso-ctd.json"


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_both_releases_together_are_merged_in_favour_of_the_scanner_grid(subject_based, miccai):
    report = build(miccai, subject_based)
    assert counts(report) == EXPECTED
    assert splits(report) == [141, 120, 113]
    assert {case.subject for case in report.cases} == {scan.subject for scan in released_scans()}
    assert report.layouts == {"VerSe subject-based": 374}
    assert len(report.left_out) == 374 + 37
    case = next(case for case in report.cases if case.series == "verse201")
    assert case.case == "sub-verse401_split-verse201"
    assert len(case.notes) == 2
    assert all("same series verse201" in note for note in case.notes)


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_what_is_removed_is_missing_by_name(tmp_path):
    draw = random.Random(7)
    paths = released_paths()
    gone = draw.sample(paths, 25)
    without_mask = draw.sample([pair for pair in paths if pair not in gone], 9)
    write_subject_based(tmp_path, [pair for pair in paths if pair not in gone])
    for _, mask in without_mask:
        (tmp_path / mask).unlink()
    report = build(tmp_path)
    stem = {image: Path(image).name.removesuffix("_ct.nii.gz") for image, _ in paths}
    assert sorted(name for part in report.release for name in part.missing) == sorted(stem[image] for image, _ in gone)
    assert sorted(name for part in report.release for name in part.without_mask) == sorted(
        stem[image] for image, _ in without_mask
    )
    assert sum(part.scans for part in report.release) == 374 - 25


def test_what_is_damaged_is_reported_by_name_and_stays_in_the_index(tmp_path):
    draw = random.Random(11)
    paths = draw.sample(released_paths(), 40)
    write_subject_based(tmp_path, paths)
    hurt = {}
    for number, pair in enumerate(draw.sample(paths, 12)):
        path = tmp_path / pair[number % 2]
        content = path.read_bytes()
        path.write_bytes([content[: len(content) // 2], b"", b"<html>404</html>" * 30][number % 3])
        hurt[Path(pair[0]).name.removesuffix("_ct.nii.gz")] = str(path)
    report = build(tmp_path)
    assert {case: problem for case, problem in report.damaged if hurt.get(case, "?") in problem}.keys() == hurt.keys()
    assert len(report.damaged) == 12
    assert len(report.cases) == 40


def test_scans_of_no_release_give_no_release_report(tmp_path):
    tiny_scan(tmp_path / "a.nii.gz", "a")
    tiny_mask(tmp_path / "a_seg.nii.gz")
    assert build(tmp_path).release == ()


def test_released_scans_in_a_folder_of_any_name_keep_the_official_split(tmp_path):
    for name in ("sub-verse004", "sub-verse500", "verse201", "mine"):
        tiny_scan(tmp_path / f"{name}.nii.gz", name)
        tiny_mask(tmp_path / f"{name}_seg.nii.gz")
    found = {case.case: (case.split, case.split_origin, case.part) for case in build(tmp_path, validation=0.0).cases}
    assert found["sub-verse004"] == ("train", "release", "verse19training")
    assert found["verse201"] == ("train", "release", "verse19training")
    assert found["sub-verse500"] == ("train", "release", "verse20training")
    assert found["mine"][1:] == ("seed 0", "")


def test_a_subject_that_miccai_drew_into_another_split_follows_the_release(tmp_path):
    tiny_scan(tmp_path / "dataset-verse19training/verse201.nii.gz", "one")
    tiny_scan(tmp_path / "dataset-verse20test/verse401_verse253_CT-iso.nii.gz", "two")
    report = build(tmp_path)
    assert {case.split for case in report.cases} == {"train"}
    moved = next(case for case in report.cases if case.series == "verse253")
    assert moved.notes == ("put from test into train, where its subject is",)


def test_the_gl_subjects_are_left_out_on_demand(tmp_path):
    of_gl = [pair for pair in released_paths() if "sub-gl" in pair[0]]
    others = [pair for pair in released_paths() if pair not in of_gl][::18]
    report = build(write_subject_based(tmp_path, [*of_gl, *others]), exclude_gl=True)
    assert report.excluded_gl == len(of_gl) == 30
    assert len(report.cases) == len(others) == 20
    assert not any("gl" in case.subject for case in report.cases)
    assert sum(part.scans for part in report.release) == 50  # they were found all the same


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dataset-verse19training", "train"),
        ("dataset-02validation.zip", "validation"),
        ("DATASET-03Test", "test"),
        ("test", None),
    ],
)
def test_release_folders_and_their_zips_name_the_split(name, split):
    assert split_of_folder(name) == split
