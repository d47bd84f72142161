"""From folders as downloaded to an index, step by step, and back from the findings of the check."""

import zipfile

import nibabel as nib
import numpy as np
import pytest

import verse3d
from tests.core.grids import affine, hounsfield, label_map, save_scan
from tests.releases import released_paths, write_subject_based
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.volume import read_image
from verse3d.data.cases import read_index
from verse3d.data.index import mask_look
from verse3d.data.index.build import IndexOptions, build_index
from verse3d.data.pairs import read_mask, require_same_grid

SHAPE = (9, 11, 14)


def turned(path, codes):
    """The same file with its voxels stored along other axes."""
    image = nib.load(path)
    start, target = nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    other = image.as_reoriented(nib.orientations.ornt_transform(start, target))
    voxels = np.asarray(other.dataobj)
    return save_scan(path, voxels, other.affine)


def test_a_turned_mask_is_carried_over_on_request_and_used_through_the_overrides(tmp_path):
    data, fixes = tmp_path / "data", tmp_path / "fixes"
    data.mkdir()
    scan = save_scan(data / "a.nii.gz", hounsfield(SHAPE), affine("PIR"))
    wanted = label_map(SHAPE)
    mask = turned(save_scan(data / "a_seg.nii.gz", wanted, affine("PIR")), "RAS")
    before = mask.read_bytes()

    verse3d.index(data, out=tmp_path / "cases.jsonl")
    report = verse3d.check(tmp_path / "cases.jsonl", fixes=fixes)
    assert "mask-orientation" in {finding.code for finding in report.findings}

    verse3d.index(data, out=tmp_path / "fixed.jsonl", overrides=[fixes / "fixes.csv"])
    (case,) = read_index(tmp_path / "fixed.jsonl")
    assert case.mask.parent == fixes
    assert "override: regrid" in case.notes[0]
    require_same_grid(read_image(scan), read_mask(case))
    assert np.array_equal(read_mask(case).array, wanted)
    assert mask.read_bytes() == before
    codes = {finding.code for finding in verse3d.check(tmp_path / "fixed.jsonl").findings}
    assert not codes & {"mask-orientation", "mask-shape", "mask-affine"}


def test_layouts_are_told_apart_and_may_be_mixed(tmp_path):
    names = [
        "verse/dataset-01training/rawdata/sub-verse500/sub-verse500_ct.nii.gz",
        "miccai/verse501_CT-iso.nii.gz",
        "nnunet/imagesTr/x_0000.nii.gz",
        "one/case7/ct.nii.gz",
        "flat/images/y.nii.gz",
        "z.nii.gz",
    ]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_scan(tmp_path / name, hounsfield(SHAPE, seed=number), affine("PIR"))
    layouts = build_index([tmp_path], IndexOptions()).layouts
    assert layouts == {
        "VerSe subject-based": 1,
        "VerSe MICCAI": 1,
        "nnU-Net raw": 1,
        "one folder per case": 1,
        "folders of images and labels": 1,
        "side by side": 1,
    }


def test_an_index_without_the_gl_subjects_must_hold_others(tmp_path):
    save_scan(tmp_path / "GL003.nii.gz", hounsfield(SHAPE), affine("PIR"))
    with pytest.raises(DataError, match="without the gl subjects no case is left"):
        build_index([tmp_path], IndexOptions(exclude_gl=True))


def test_progress_counts_the_headers(tmp_path):
    for name in "abc":
        save_scan(tmp_path / f"{name}.nii.gz", hounsfield(SHAPE), affine("PIR"))
    told = []
    build_index([tmp_path], IndexOptions(), lambda *step: told.append(step))
    assert told == [("headers", number, 3) for number in range(4)]


def test_a_fix_keeps_the_corrections_of_ids_in_any_order(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    save_scan(data / "a.nii.gz", hounsfield(SHAPE), affine("PIR"))
    turned(save_scan(data / "a_seg.nii.gz", label_map(SHAPE, ids=(0, 19)), affine("PIR")), "LAS")
    mine = tmp_path / "mine.csv"
    mine.write_text("case,action,value\na,relabel,T12>L1\n")
    for first in ([], [mine]):
        listed, fixes = tmp_path / f"{len(first)}.jsonl", tmp_path / f"fixes{len(first)}"
        verse3d.index(data, out=listed, overrides=first)
        verse3d.check(listed, fixes=fixes)
        for both in ([mine, fixes / "fixes.csv"], [fixes / "fixes.csv", mine]):
            report = verse3d.index(data, out=listed, overrides=both)
            assert np.unique(read_mask(report.cases.cases[0]).array).tolist() == [0, 20]


def test_a_conversion_to_nnunet_brings_subjects_splits_and_folds_back(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(("p1a", "p1b", "p2", "p3", "p4")):
        save_scan(data / f"{name}.nii.gz", hounsfield(SHAPE, seed=number), affine("PIR"))
        save_scan(data / f"{name}_seg.nii.gz", label_map(SHAPE, ids=(0, 20, 28)), affine("PIR"))
    (tmp_path / "fixes.csv").write_text("case,action,value\np1a,subject,P1\np1b,subject,P1\n")
    options = {"overrides": [tmp_path / "fixes.csv"], "folds": 2, "assign": {"p4": "test"}, "seed": 3}
    before = verse3d.index(data, out=tmp_path / "cases.jsonl", **options).cases
    raw = verse3d.convert(tmp_path / "cases.jsonl", to="nnunet", out=tmp_path / "raw").folder
    after = verse3d.index(raw, out=tmp_path / "again.jsonl", seed=9).cases

    def known(cases):
        return {case.case: (case.subject, case.split, case.fold, sorted(ids_of(case))) for case in cases}

    def ids_of(case):
        return np.unique(read_mask(case).array).tolist()

    assert known(after) == known(before)


def test_an_original_is_kept_rather_than_its_nnunet_copy(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    save_scan(data / "sub-verse004_ct.nii.gz", hounsfield(SHAPE), affine("PIR"))
    save_scan(data / "sub-verse004_seg-vert_msk.nii.gz", label_map(SHAPE, ids=(0, 20, 21)), affine("PIR"))
    verse3d.index(data, out=tmp_path / "cases.jsonl", validation=0.0)
    verse3d.convert(tmp_path / "cases.jsonl", to="nnunet", out=data, scheme="binary", links=False)
    report = verse3d.index(data, out=tmp_path / "again.jsonl", validation=0.0)
    assert [case.image.name for case in report.cases] == ["sub-verse004_ct.nii.gz"]


def test_an_unpacked_scan_keeps_its_name_beside_its_zip(tmp_path):
    (tmp_path / "rel").mkdir()
    scan = save_scan(tmp_path / "rel" / "sub-verse004_ct.nii.gz", hounsfield(SHAPE), affine("PIR"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(scan, "sub-verse004_ct.nii.gz")
    (tmp_path / "miccai").mkdir()
    save_scan(tmp_path / "miccai" / "verse004.nii.gz", hounsfield(SHAPE), affine("RAS"))
    (case,) = build_index([tmp_path], IndexOptions()).cases
    assert (case.case, case.image) == ("sub-verse004", scan)


def test_a_subject_in_two_splits_can_be_mended_by_corrections(tmp_path):
    for number, part in enumerate(("01training", "03test")):
        folder = tmp_path / "data" / f"dataset-{part}" / "rawdata" / "sub-mine01"
        folder.mkdir(parents=True)
        save_scan(folder / f"sub-mine01_run-{number}_ct.nii.gz", hounsfield(SHAPE, seed=number), affine("PIR"))
    with pytest.raises(DataError, match="different splits: sub-mine01"):
        verse3d.index(tmp_path / "data", out=tmp_path / "cases.jsonl")
    (tmp_path / "fixes.csv").write_text("case,action,value\nsub-mine01,split,test\n")
    report = verse3d.index(tmp_path / "data", out=tmp_path / "cases.jsonl", overrides=[tmp_path / "fixes.csv"])
    assert {case.split for case in report.cases} == {"test"}


def test_gl_scans_under_derived_names_are_left_out_too(tmp_path):
    for number, name in enumerate(("GL003_CT-ax_resampled", "sub-GL016_x", "mine")):
        save_scan(tmp_path / f"{name}.nii.gz", hounsfield(SHAPE, seed=number), affine("PIR"))
    report = build_index([tmp_path], IndexOptions(exclude_gl=True))
    assert [case.case for case in report.cases] == ["mine"]
    assert report.excluded_gl == 2


@pytest.mark.parametrize("name", ["scan_seg.nii.gz", "mask.nii", "data.zip"])
def test_a_list_never_takes_the_name_of_data(tmp_path, name):
    scan = save_scan(tmp_path / "scan.nii.gz", hounsfield(SHAPE), affine("PIR"))
    with pytest.raises(ConfigError, match="is the name of data"):
        verse3d.index(scan, out=tmp_path / name)
    verse3d.index(scan, out=tmp_path / "cases.jsonl")
    listed = (tmp_path / "cases.jsonl").read_bytes()
    for out in (tmp_path / name, tmp_path / "cases.jsonl"):
        with pytest.raises(ConfigError, match="is the name of data"):
            verse3d.check(tmp_path / "cases.jsonl", json=out)
    assert (tmp_path / "cases.jsonl").read_bytes() == listed


def test_a_header_without_sense_is_damage_and_no_crash(tmp_path):
    path = save_scan(tmp_path / "a.nii", hounsfield(SHAPE), affine("PIR"))
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(np.inf).tobytes()  # vox_offset
    path.write_bytes(content)
    ((case, problem),) = build_index([tmp_path], IndexOptions()).damaged
    assert (case, str(path) in problem) == ("a", True)


def test_a_mask_that_is_named_like_a_scan_is_told(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    labels, hu = np.zeros(SHAPE, np.uint8), hounsfield(SHAPE)
    labels[2:6, 3:7, 5:9] = 21
    made = {
        "a": labels,
        "b": labels.astype(np.int16) - labels // 21,
        "c": hu,
        "d": hu * 0,
        "e": hu.astype(np.float32) / 3,
    }
    made |= {"f": labels // 7, "f_seg": labels}  # a scan with a mask has proved its role
    for name, array in made.items():
        save_scan(tmp_path / "data" / f"{name}.nii.gz", array, affine("PIR"))
    report = verse3d.index(tmp_path / "data", out=tmp_path / "cases.jsonl")
    assert {case: path.name for case, path, _ in report.look_like_masks} == {"a": "a.nii.gz", "b": "b.nii.gz"}
    assert [values for _, _, values in report.look_like_masks] == [(0, 21), (0, 20)]
    assert main(["index", str(tmp_path / "data"), "-o", str(tmp_path / "again.jsonl")]) == 0
    assert "call it a_seg.nii.gz, or put it into a folder labels/" in capsys.readouterr().out


def test_a_mask_is_seen_through_many_empty_planes_at_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_look, "_CHUNK_BYTES", 999)
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[3:9, 4:9, 38:] = 21
    assert mask_look.label_range(save_scan(tmp_path / "a.nii.gz", labels, affine("PIR"))) == (0, 21)
    assert mask_look.label_range(tmp_path / "gone.nii.gz") is None


def test_names_of_missing_verse_scans_are_told_above_half_of_a_part_or_on_request(tmp_path, capsys):
    paths = [pair for pair in released_paths() if pair[0].startswith("dataset-03test")]
    root = write_subject_based(tmp_path / "data", paths[:3])
    main(["index", str(root), "-o", str(tmp_path / "a.jsonl")])
    assert "missing from" not in capsys.readouterr().out
    main(["index", str(root), "-o", str(tmp_path / "b.jsonl"), "--missing"])
    assert "missing from verse20test: " in capsys.readouterr().out


def test_masks_below_a_folder_are_a_programs_and_the_index_says_so(tmp_path):
    for folder in ("experts", "automatic"):
        for number in range(2):
            where = tmp_path / folder
            where.mkdir(exist_ok=True)
            save_scan(where / f"{folder}{number}.nii.gz", hounsfield(SHAPE) + number + len(folder), affine("RAS"))
            save_scan(where / f"{folder}{number}_seg.nii.gz", label_map(SHAPE), affine("RAS"))
    out = tmp_path / "cases.jsonl"
    # By another way to the same folder.
    other = tmp_path / "experts" / ".." / "automatic"
    verse3d.index(tmp_path / "experts", tmp_path / "automatic", out=out, automatic=[other], validation=0.0)
    told = {case.case: case.automatic for case in read_index(out)}
    assert told == {"automatic0": True, "automatic1": True, "experts0": False, "experts1": False}
    assert out.read_text().count('"automatic": true') == 2 and "false" not in out.read_text()


def test_a_folder_without_masks_cannot_be_a_programs(tmp_path):
    (tmp_path / "data").mkdir()
    save_scan(tmp_path / "data" / "a.nii.gz", hounsfield(SHAPE), affine("RAS"))
    save_scan(tmp_path / "data" / "a_seg.nii.gz", label_map(SHAPE), affine("RAS"))
    with pytest.raises(DataError, match=r"no mask of the index lies below .*elsewhere"):
        verse3d.index(tmp_path / "data", out=tmp_path / "cases.jsonl", automatic=[tmp_path / "elsewhere"])
    assert not (tmp_path / "cases.jsonl").exists()


@pytest.fixture
def own_and_automatic(tmp_path):
    """A folder with a case of an expert, and one with a case of a program."""
    for number, name in enumerate(("own", "auto")):
        (tmp_path / name).mkdir()
        save_scan(tmp_path / name / f"{name}.nii.gz", hounsfield(SHAPE) + number, affine("PIR"))
        save_scan(tmp_path / name / f"{name}_seg.nii.gz", label_map(SHAPE), affine("PIR"))
    return tmp_path


def marks(folder, *roots, **options):
    """By case, whether the index says that a program made its mask."""
    verse3d.index(*roots, out=folder / "cases.jsonl", validation=0.0, **options)
    return {case.case: case.automatic for case in read_index(folder / "cases.jsonl")}


def test_a_link_to_a_mask_is_below_the_folder_that_it_lies_in_and_the_one_it_leads_to(own_and_automatic):
    folder = own_and_automatic
    (folder / "kept").mkdir()
    (folder / "auto" / "auto_seg.nii.gz").rename(folder / "kept" / "x")
    (folder / "auto" / "auto_seg.nii.gz").symlink_to(folder / "kept" / "x")
    for named in ("auto", "kept"):
        found = marks(folder, folder / "own", folder / "auto", automatic=[folder / named])
        assert found == {"auto": True, "own": False}


def test_an_automatic_mask_on_another_grid_stays_one_and_another_mask_is_asked_anew(own_and_automatic):
    folder = own_and_automatic
    for name in ("same", "redrawn"):
        save_scan(folder / f"{name}.nii.gz", label_map(SHAPE), affine("PIR"))
    for action, path, stays in (("regrid", "same.nii.gz", True), ("mask", "redrawn.nii.gz", False)):
        (folder / "fixes.csv").write_text(f"case,action,value,note\nauto,{action},{path},\n")
        roots, given = (folder / "own", folder / "auto"), {"overrides": [folder / "fixes.csv"]}
        assert marks(folder, *roots, automatic=[folder / "auto"], **given) == {"auto": stays, "own": False}
    # A correction may bring masks of a program, too.
    (folder / "fixes.csv").write_text("case,action,value,note\nown,mask,auto/auto_seg.nii.gz,\n")
    assert marks(folder, *roots, automatic=[folder / "auto"], **given) == {"auto": True, "own": True}


def test_masks_from_a_zip_below_the_folder_are_a_programs(own_and_automatic):
    folder = own_and_automatic
    with zipfile.ZipFile(folder / "auto" / "all.zip", "w") as packed:
        for path in sorted((folder / "auto").glob("*.nii.gz")):
            packed.write(path, path.name)
            path.unlink()
    roots, given = (folder / "own", folder / "auto"), {"unpack": folder / "unpacked"}
    assert marks(folder, *roots, automatic=[folder / "auto"], **given) == {"auto": True, "own": False}


@pytest.mark.parametrize("layout", ["verse", "nnunet"])
def test_a_converted_data_set_still_says_which_masks_a_program_made(own_and_automatic, layout):
    folder = own_and_automatic
    marks(folder, folder / "own", folder / "auto", automatic=[folder / "auto"])
    verse3d.convert(folder / "cases.jsonl", to=layout, out=folder / "converted")
    assert sorted(marks(folder, folder / "converted").values()) == [False, True]


def test_the_command_says_how_many_masks_a_program_made(own_and_automatic, capsys):
    folder = own_and_automatic
    roots, out = [str(folder / "own"), str(folder / "auto")], ["-o", str(folder / "cases.jsonl")]
    assert main(["index", *roots, *out, "--automatic", str(folder / "auto")]) == 0
    assert "made by a program: 1 mask\n" in capsys.readouterr().out
    assert main(["index", *roots, *out]) == 0
    assert "made by a program" not in capsys.readouterr().out
