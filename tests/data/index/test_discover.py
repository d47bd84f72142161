"""Folders as people keep them: which file is whose, and which split a release folder means."""

import os
from pathlib import Path

import pytest

from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex, read_index, write_index
from verse3d.data.index.discover import discover, load_cases

DICOM = Path(__file__).parents[3] / "../shared/data/dicom"


@pytest.fixture
def files(tmp_path):
    """Create empty files below a fresh root and return the root; layouts never look inside."""

    def create(*names: str, root: str = "root") -> Path:
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / root

    return create


def found(*roots: Path, below: Path | None = None) -> dict[str, tuple[str | None, ...]]:
    """Case name -> (image, mask, centroids) relative to ``below`` (the first root)."""
    base = below or roots[0]

    def relative(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(base).as_posix()

    return {
        case.case: (relative(case.image), relative(case.mask), relative(case.centroids))
        for case in discover(list(roots))
    }


# --- VerSe, subject-based

VERSE = {  # case: (image, mask, centroids)
    f"{stem}": (
        f"{folder}/rawdata/{subject}/{stem}_ct.nii.gz",
        f"{folder}/derivatives/{subject}/{stem}_seg-vert_msk.nii.gz",
        f"{folder}/derivatives/{subject}/{stem}_seg-subreg_ctd.json",
    )
    for folder, subject, stem in [
        ("dataset-verse19training/dataset-verse19training", "sub-verse401", "sub-verse401_split-verse201"),
        ("dataset-verse19training/dataset-verse19training", "sub-verse401", "sub-verse401_split-verse253"),
        ("dataset-verse19training/dataset-verse19training", "sub-verse004", "sub-verse004"),
        ("dataset-verse19validation", "sub-verse082", "sub-verse082_dir-iso"),
        ("dataset-01training", "sub-gl003", "sub-gl003"),
        ("dataset-01training", "sub-gl090", "sub-gl090_dir-ax"),
        ("dataset-02validation", "sub-verse505", "sub-verse505_dir-sag"),
        ("dataset-03test", "sub-verse813", "sub-verse813"),
    ]
}
JUNK = [
    ".DS_Store",
    "__MACOSX/dataset-01training/rawdata/sub-gl003/sub-gl003_ct.nii.gz",
    "dataset-01training/rawdata/sub-gl003/._sub-gl003_ct.nii.gz",
    "dataset-01training/rawdata/sub-gl003/.hidden/sub-gl009_ct.nii.gz",
    "dataset-01training/rawdata/sub-gl003/sub-gl003_ct.json",
    "dataset-01training/derivatives/sub-gl003/sub-gl003_seg-vert_snp.png",
    "dataset-01training/derivatives/sub-gl003/sub-gl003_seg-subreg_msk.nii.gz",
    "dataset-01training/derivatives/sub-gl090/.sub-gl090_dir-ax_seg-vert_msk.nii.gz.part",
    "dataset-01training.zip",
]


@pytest.fixture
def verse(files) -> Path:
    return files(*(name for names in VERSE.values() for name in names), *JUNK)


def test_the_verse_release_is_paired_and_junk_is_skipped(verse):
    assert found(verse) == VERSE


def test_cases_of_a_verse_subject_belong_together_and_keep_the_split_of_their_folder(verse):
    cases = {case.case: case for case in discover([verse])}
    assert {name: case.subject for name, case in cases.items()} == {
        name: name.split("_split")[0].split("_dir")[0] for name in VERSE
    }
    expected = {"training": "train", "validation": "validation", "test": "test"}
    for name, (image, *_) in VERSE.items():
        folder = image.split("/")[0]
        assert cases[name].split == next(split for ending, split in expected.items() if folder.endswith(ending))
        assert cases[name].split_origin == "release"


@pytest.mark.parametrize("start", ["dataset-verse19training", "dataset-verse19training/dataset-verse19training"])
def test_the_split_is_known_also_from_inside_the_release_folder(verse, start):
    assert {case.split for case in discover([verse / start])} == {"train"}


@pytest.mark.parametrize("folder", ["dataset-latest", "dataset-contest", "dataset-mytest", "my-dataset-01test", "test"])
def test_a_folder_that_only_looks_like_a_release_folder_decides_no_split(files, folder):
    case = discover([files(f"{folder}/rawdata/sub-a/sub-a_ct.nii.gz")]).cases[0]
    assert (case.split, case.split_origin) == (None, "")


def test_the_order_is_the_same_every_time(verse):
    assert discover([verse]) == discover([verse])


# --- other layouts


def test_images_and_labels_in_two_folders_are_paired_by_name(files):
    root = files("images/a.nii.gz", "images/b.nii", "labels/a.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz")
    assert found(root) == {
        "a": ("images/a.nii.gz", "labels/a.nii.gz", None),
        "b": ("images/b.nii", "labels/b.nii.gz", None),
        "c": (None, "labels/c.nii.gz", None),
    }


@pytest.mark.parametrize("masks", ["masks", "Labels", "label", "seg", "segmentations", "MASK"])
@pytest.mark.parametrize("images", ["images", "Image", "scans", "CT"])
def test_other_names_of_the_two_folders_work_too(files, images, masks):
    root = files(f"{images}/a.nii.gz", f"{masks}/a.nii.gz")
    assert found(root) == {"a": (f"{images}/a.nii.gz", f"{masks}/a.nii.gz", None)}


def test_the_subsets_of_nnunet_are_kept_apart_even_if_names_recur(files):
    root = files("imagesTr/a_0000.nii.gz", "imagesTs/a_0000.nii.gz", "labelsTs/a.nii.gz", "labelsTr/b.nii.gz")
    assert found(root) == {
        "a": ("imagesTr/a_0000.nii.gz", None, None),
        "imagesTs-a": ("imagesTs/a_0000.nii.gz", "labelsTs/a.nii.gz", None),
        "b": (None, "labelsTr/b.nii.gz", None),
    }


@pytest.mark.parametrize(("image", "mask"), [("ct", "labels"), ("CT", "seg"), ("image", "mask"), ("scan", "vertebrae")])
def test_one_folder_per_case_names_the_case_after_the_folder(files, image, mask):
    names = [f"{case}/{name}.nii.gz" for case in ("one", "deep/two") for name in (image, mask)]
    assert found(files(*names)) == {
        "one": (f"one/{image}.nii.gz", f"one/{mask}.nii.gz", None),
        "two": (f"deep/two/{image}.nii.gz", f"deep/two/{mask}.nii.gz", None),
    }


def test_a_case_folder_given_as_root_names_the_case_too(files, monkeypatch):
    root = files("ct.nii.gz", "labels.nii.gz", root="patient 7")
    expected = {"patient 7": ("ct.nii.gz", "labels.nii.gz", None)}
    assert found(root) == expected
    monkeypatch.chdir(root)
    assert found(Path(), below=root) == expected


@pytest.mark.parametrize(
    "suffix", ["_seg", "-seg", "_mask", "_label", "_LABELS", "_msk", "_seg-vert_msk", "_segmentation"]
)
def test_scan_and_mask_side_by_side_are_paired(files, suffix):
    root = files("a.nii.gz", f"a{suffix}.nii.gz", "a b_1.nii", f"a b_1{suffix}.nii.gz", "a_ctd.json", "lonely_ctd.json")
    assert found(root) == {
        "a": ("a.nii.gz", f"a{suffix}.nii.gz", "a_ctd.json"),
        "a b_1": ("a b_1.nii", f"a b_1{suffix}.nii.gz", None),
    }


def test_scans_alone_are_cases_without_mask(files):
    root = files("x/a.nii.gz", "y/b_ct.nii.gz", "notes.txt", "slices/c.png")
    assert found(root) == {"a": ("x/a.nii.gz", None, None), "b": ("y/b_ct.nii.gz", None, None)}


def test_upper_case_endings_are_found(files):
    assert found(files("A.NII.GZ", "A_seg.NII.GZ")) == {"A": ("A.NII.GZ", "A_seg.NII.GZ", None)}


@pytest.mark.parametrize("above", ["labels", "images", "derivatives/masks", "imagesTr", "dataset-old/__MACOSX/.x"])
def test_words_above_the_root_change_no_role(files, above):
    root = files("a.nii.gz", "a_seg.nii.gz", "images/b.nii.gz", "labels/b.nii.gz", root=f"{above}/root")
    assert found(root) == {
        "a": ("a.nii.gz", "a_seg.nii.gz", None),
        "b": ("images/b.nii.gz", "labels/b.nii.gz", None),
    }


def test_the_closest_folder_decides_and_a_telling_name_beats_every_folder(files):
    root = files("labels/old/images/a.nii.gz", "images/b_seg.nii.gz", "labels/b_ct.nii.gz")
    assert found(root) == {
        "a": ("labels/old/images/a.nii.gz", None, None),
        "b": ("labels/b_ct.nii.gz", "images/b_seg.nii.gz", None),
    }


def test_nnunet_folders_decide_whatever_the_files_are_called(files):
    root = files("imagesTr/x_ct_0000.nii.gz", "labelsTr/x_ct.nii.gz", "imagesTr/y_seg_0000.nii.gz")
    assert found(root) == {
        "x": ("imagesTr/x_ct_0000.nii.gz", "labelsTr/x_ct.nii.gz", None),
        "y_seg": ("imagesTr/y_seg_0000.nii.gz", None, None),
    }


def test_a_mask_that_is_called_ct_is_known_by_its_folder_if_the_scan_is_there(files):
    root = files("images/x_ct.nii.gz", "labels/x_ct.nii.gz", "masks/y_ct.nii.gz", "scans/y_ct.nii.gz")
    assert found(root) == {
        "x": ("images/x_ct.nii.gz", "labels/x_ct.nii.gz", None),
        "y": ("scans/y_ct.nii.gz", "masks/y_ct.nii.gz", None),
    }


def test_masks_whose_name_repeats_the_scans_suffix_are_paired(files):
    root = files("a_ct.nii.gz", "a_ct_seg.nii.gz", "b_CT.nii.gz", "b_CT-mask.nii.gz")
    assert found(root) == {
        "a": ("a_ct.nii.gz", "a_ct_seg.nii.gz", None),
        "b": ("b_CT.nii.gz", "b_CT-mask.nii.gz", None),
    }


def test_a_second_download_is_paired_and_a_name_in_other_unicode_too(files):
    root = files("a.nii.gz", "a_seg-vert_msk (1).nii.gz", "Ärzte.nii.gz", "A\u0308rzte_seg.nii.gz")
    assert found(root) == {
        "a": ("a.nii.gz", "a_seg-vert_msk (1).nii.gz", None),
        "Ärzte": ("Ärzte.nii.gz", "A\u0308rzte_seg.nii.gz", None),
    }


@pytest.mark.parametrize("name", ["_ct.nii.gz", "a\\b_ct.nii.gz"])
def test_every_case_gets_a_name_that_an_index_accepts(files, tmp_path, name):
    write_index(tmp_path / "cases.jsonl", discover([files(f"folder/{name}")]))
    (case,) = read_index(tmp_path / "cases.jsonl")
    assert case.case in ("folder", "a_b")


# --- several roots


def test_the_same_name_in_two_roots_gives_two_cases_of_one_subject(files):
    one = files("a.nii.gz", "a_seg.nii.gz", root="one")
    two = files("a.nii.gz", "sub/a.nii.gz", root="two")
    assert found(one, two, below=one.parent) == {
        "a": ("one/a.nii.gz", "one/a_seg.nii.gz", None),
        "two-a": ("two/a.nii.gz", None, None),
        "sub-a": ("two/sub/a.nii.gz", None, None),
    }
    assert {case.subject for case in discover([one, two])} == {"a"}


def test_names_stay_unique_even_if_the_folders_are_named_alike(files):
    roots = [files("x/a.nii.gz", root=name) for name in ("one", "two", "three", "four")]
    names = [case.case for case in discover(roots)]
    assert names == ["a", "x-a", "a-2", "a-3"]


def test_folders_of_images_and_labels_given_as_two_roots_are_paired(files):
    base = files("images/a.nii.gz", "labels/a.nii.gz")
    expected = {"a": ("images/a.nii.gz", "labels/a.nii.gz", None)}
    assert found(base / "images", base / "labels", below=base) == expected
    assert found(base / "images", base, below=base) == expected


def test_a_file_below_two_roots_is_one_case(files):
    root = files("one/a.nii.gz", "b.nii.gz")
    assert sorted(found(root, root / "one", root / "b.nii.gz", root)) == ["a", "b"]


def test_single_files_of_one_name_are_different_cases(files):
    root = files("one/x.nii.gz", "two/x.nii.gz")
    assert found(root / "one" / "x.nii.gz", root / "two" / "x.nii.gz", below=root) == {
        "x": ("one/x.nii.gz", None, None),
        "two-x": ("two/x.nii.gz", None, None),
    }


def test_a_scan_and_its_mask_given_as_single_files_are_paired(files, monkeypatch):
    root = files("x_ct.nii.gz", "x_seg.nii.gz")
    monkeypatch.chdir(root)
    assert found(Path("x_ct.nii.gz"), Path("x_seg.nii.gz"), below=root) == {"x": ("x_ct.nii.gz", "x_seg.nii.gz", None)}


def test_of_two_scans_of_one_case_the_second_is_left_out_with_a_warning(files, caplog):
    root = files("a.nii", "a.nii.gz", "a_seg.nii.gz")
    assert found(root) == {"a": ("a.nii", "a_seg.nii.gz", None)}
    assert "a.nii.gz is left out" in caplog.text


def test_predicted_masks_are_not_taken_for_the_truth(files):
    root = files("a.nii.gz", "out/a_seg-vert_msk.nii.gz", "out/predictions.json")
    assert found(root) == {"a": ("a.nii.gz", None, None)}


# --- links


def test_links_to_files_and_folders_are_followed_and_named_as_the_user_sees_them(files, tmp_path):
    files("real_name.nii.gz", "more/b.nii.gz", root="store")
    root = files("a_seg.nii.gz")
    (root / "a.nii.gz").symlink_to(tmp_path / "store" / "real_name.nii.gz")
    (root / "linked").symlink_to(tmp_path / "store" / "more")
    assert found(root) == {"a": ("a.nii.gz", "a_seg.nii.gz", None), "b": ("linked/b.nii.gz", None, None)}


def test_links_that_lead_in_circles_end(files):
    root = files("deep/a.nii.gz")
    (root / "deep" / "again").symlink_to(root)
    (root / "twice").symlink_to(root / "deep")
    assert found(root) == {"a": ("deep/a.nii.gz", None, None)}


def test_a_dangling_link_is_a_case_that_will_be_reported_as_missing(files):
    root = files("b.nii.gz")
    (root / "a.nii.gz").symlink_to(root / "gone.nii.gz")
    assert sorted(found(root)) == ["a", "b"]


# --- refusals and the door


def test_a_missing_root_is_refused(files, tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        discover([files("a.nii.gz"), tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "names", [[], ["notes.txt", "a_ct.json"], ["a_ctd.json"], [".a.nii.gz"], ["__MACOSX/a.nii.gz"]]
)
def test_a_folder_without_scans_is_refused(files, tmp_path, names):
    (tmp_path / "root").mkdir()
    files(*names)
    with pytest.raises(DataError, match=r"no NIfTI scan .* was found in .*root"):
        discover([tmp_path / "root"])


def dicom(path: Path, series: str) -> Path:
    """The beginning of a DICOM file with a preamble and a SeriesInstanceUID."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = bytes.fromhex("20000e00") + b"UI" + len(series).to_bytes(2, "little") + series.encode()
    path.write_bytes(bytes(128) + b"DICM" + bytes(30) + tag + bytes(90))
    return path


def test_dicom_beside_nifti_scans_is_told_of_and_left(files, tmp_path, caplog):
    files("a_ct.nii.gz", "notes.txt", root="scan")
    files("b_ct.nii.gz", "README", root="other")
    dicom(tmp_path / "scan" / "series" / "IM0001", "1.2.3")
    dicom(tmp_path / "scan" / "series" / "1.2.840.2", "1.2.3")
    dicom(tmp_path / "scan" / "a.DCM", "1.2.4")
    assert len(discover([tmp_path / "scan", tmp_path / "other"])) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'scan'} also holds 3 DICOM files of 2 series: DICOM is not read, convert it to NIfTI first"
    ]


def test_a_folder_of_dicom_says_how_many_files_and_series_and_what_to_do(tmp_path):
    for number in range(7):
        dicom(tmp_path / "scan" / f"series{number % 2}" / f"IM{number}", f"1.2.{number % 2}3")
    (tmp_path / "scan" / "DICOMDIR.txt").write_text("words")
    for read in (load_cases, lambda root: discover([root])):
        with pytest.raises(DataError, match=r"scan holds 7 DICOM files of 2 series, but no NIfTI scan") as refused:
            read(tmp_path / "scan")
        assert refused.value.hint.endswith(f"dcm2niix -z y -o nifti {tmp_path / 'scan'}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mha", b"ObjectType = Image\n", "is a MetaImage file, not NIfTI"),
        ("a.nrrd", b"NRRD0004\n", "is an NRRD image, not NIfTI"),
        ("a.dcm", b"\x08\0\x05\0CS", "is a DICOM file, not NIfTI"),
    ],
)
def test_an_image_of_another_kind_is_neither_an_index_nor_damaged(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    for read in (load_cases, lambda path: discover([path])):
        with pytest.raises(DataError, match=words) as refused:
            read(tmp_path / name)
        assert "NIfTI" in refused.value.hint
    with pytest.raises(DataError, match=words.split(",")[0].split(maxsplit=2)[2]):
        load_cases(tmp_path)


@pytest.mark.skipif(not DICOM.is_dir(), reason="the real DICOM series are not there")
def test_real_dicom_folders_are_counted():
    with pytest.raises(DataError, match="holds 40 DICOM files of 1 series"):
        load_cases(DICOM / "abdomen-40")


def test_a_damaged_index_is_still_taken_for_an_index(tmp_path):
    (tmp_path / "cases.jsonl").write_bytes(b"\xff\x00\x01{")
    with pytest.raises(DataError, match=r"cases\.jsonl") as refused:
        load_cases(tmp_path / "cases.jsonl")
    assert "NIfTI" not in refused.value.message


def test_a_folder_that_may_not_be_listed_is_said_to_be_left_out(files, monkeypatch, caplog):
    root = files("a.nii.gz", "closed/b.nii.gz")
    listed = os.scandir

    def refuse(path):  # the tests may run as root, who may list everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(root) == {"a": ("a.nii.gz", None, None)}
    assert f"{root / 'closed'} is left out: Permission denied" in caplog.text


def test_cases_come_from_an_index_a_folder_or_a_single_scan(files, tmp_path):
    root = files("a.nii.gz")
    write_index(tmp_path / "cases.jsonl", CaseIndex((Case("z", "z", root / "a.nii.gz", split="test"),)))
    assert load_cases(tmp_path / "cases.jsonl").cases[0].split == "test"
    assert load_cases(root) == load_cases([root]) == load_cases(root / "a.nii.gz") == discover([root])


def test_a_folder_whose_name_ends_like_a_scan_is_no_scan(files):
    root = files("a.nii.gz/inside.nii.gz")
    assert found(root) == {"inside": ("a.nii.gz/inside.nii.gz", None, None)}


def test_relative_roots_give_absolute_paths(files, monkeypatch):
    root = files("images/a.nii.gz", "labels/a.nii.gz")
    for start, relative in [
        (root, "."),
        (root.parent, "root"),
        (root / "images", ".."),
        (root / "images", "../../root"),
    ]:
        monkeypatch.chdir(start)
        assert found(Path(relative), below=Path(os.path.realpath(root))) == {
            "a": ("images/a.nii.gz", "labels/a.nii.gz", None)
        }
