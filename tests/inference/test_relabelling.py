"""Names that are moved along the spine, written down, and moved back."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests.labelling.blocks import scan_of
from tests.labelling.spines import between
from tests.scans import leftovers
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import write_json
from verse3d.core.labels import vertebra
from verse3d.core.volume import read_labels, write_labels
from verse3d.data.centroids import parse_centroids, write_centroids
from verse3d.data.predictions import centroid_path, mask_path, read_predictions
from verse3d.inference.relabelling import relabel_mask
from verse3d.labelling.shifting import shifted_ids

CASE = "sub-x"
ROW = between("T11", "L3")


@pytest.fixture
def folder(tmp_path):
    """A prediction of T11-L3, and of an L4 that the scan cuts and the mask does not show."""
    return predicted(tmp_path, ROW, listed=[*ROW, "L4"])


def predicted(out, row, *, listed=None, scheme="vertebrae"):
    scan = scan_of(row)
    header = nib.Nifti1Image(scan.ids, scan.geometry.affine).header
    write_labels(mask_path(out, CASE), scan.ids, like=header, scheme=scheme)
    centres = {vertebra(name).id: centre for name, centre in scan.centres.items()}
    write_centroids(centroid_path(out, CASE), centres, scan.geometry)
    vertebrae = [{"name": name, "id": vertebra(name).id, "volume_ml": 20.0} for name in listed or row]
    record = {"case": CASE, "status": "written", "mask": f"{CASE}.nii.gz", "levels": row, "vertebrae": vertebrae}
    write_json(out / "predictions.json", {"scheme": "vertebrae", "cases": [record]})
    return out


def state(out):
    """Names in the mask, in the record and in the centroid file, and everything else in the record."""
    record = dict(read_predictions(out).records[CASE])
    centroids = parse_centroids(centroid_path(out, CASE)).labels
    return (
        [vertebra(int(label)).name for label in np.unique(read_labels(mask_path(out, CASE)).array) if label],
        [one["name"] for one in record["vertebrae"]],
        [vertebra(label).name for label in centroids],
        [one["shift"] for one in record["corrections"]],
    )


def test_all_names_move_and_the_move_is_written_down(folder):
    before = read_labels(mask_path(folder, CASE)).array
    done = relabel_mask(folder, CASE, 1)
    assert (done.before, done.after) == (tuple(ROW), tuple(between("T12", "L4")))
    assert state(folder) == (between("T12", "L4"), between("T12", "L5"), between("T12", "L4"), [1])
    after = read_labels(mask_path(folder, CASE)).array
    assert np.array_equal(after == vertebra("L1").id, before == vertebra("T12").id)
    assert leftovers(folder) == []


def test_the_command_tells_names_before_and_after_as_json(folder, capsys):
    assert main(["relabel", str(folder), "--case", CASE, "--shift", "-1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["before"], told["after"], told["corrections"]) == (ROW, between("T10", "L2"), 1)


def test_moves_add_up_and_each_can_be_undone(folder):
    mask, record = read_labels(mask_path(folder, CASE)).array, read_predictions(folder).records[CASE]
    relabel_mask(folder, CASE, -1)
    relabel_mask(folder, CASE, 2)
    assert state(folder)[0] == between("T12", "L4")
    assert state(folder)[3] == [-1, 2]
    relabel_mask(folder, CASE, 0)
    assert state(folder)[0] == between("T10", "L2")
    relabel_mask(folder, CASE, 0)
    assert np.array_equal(read_labels(mask_path(folder, CASE)).array, mask)
    undone = read_predictions(folder).records[CASE]
    assert {key: undone[key] for key in record} == dict(record)
    with pytest.raises(DataError, match="carries no correction"):
        relabel_mask(folder, CASE, 0)


def test_a_correction_that_was_interrupted_before_the_mask_was_written_is_finished(folder, monkeypatch):
    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("verse3d.inference.relabelling.write_labels", killed)
        with pytest.raises(KeyboardInterrupt):
            relabel_mask(folder, CASE, 1)
    relabel_mask(folder, CASE, 1)
    assert state(folder)[0] == between("L1", "L5")
    assert state(folder)[3] == [1, 1]


@pytest.mark.parametrize("step", ["write_labels", "write_centroids"])
@pytest.mark.parametrize(("killed_move", "row"), [(-1, between("T10", "L2")), (0, ROW)])
def test_a_move_or_an_undo_that_is_killed_half_way_is_finished_by_the_next_call(
    folder, monkeypatch, step, killed_move, row
):
    def killed(*_args, **_options):
        raise KeyboardInterrupt

    if killed_move == 0:
        relabel_mask(folder, CASE, 2)
    with monkeypatch.context() as patch:
        patch.setattr(f"verse3d.inference.relabelling.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            relabel_mask(folder, CASE, killed_move)
    done = relabel_mask(folder, CASE, 1)
    assert done.before == tuple(row)
    names = list(done.after)
    assert state(folder)[0] == state(folder)[2] == names and len(names) == len(row)
    centres = parse_centroids(centroid_path(folder, CASE))
    order = dict(zip(names, range(len(names)), strict=True))
    heights = [
        point
        for _, point in sorted(
            (order[vertebra(label).name], tuple(p)) for label, p in zip(centres.labels, centres.points, strict=True)
        )
    ]
    # The bones are where they were: names went along, places did not.
    scan = scan_of(ROW)
    world = read_labels(mask_path(folder, CASE)).geometry.reoriented(centres.direction).world_from_index(heights)
    assert np.abs(world - list(scan.centres.values())).max() < 1.0


def test_a_mask_that_one_of_several_jobs_made_is_corrected_and_taken_back(folder):
    (folder / "predictions.json").rename(folder / "predictions-part1of2.json")
    relabel_mask(folder, CASE, 1)
    assert state(folder) == (between("T12", "L4"), between("T12", "L5"), between("T12", "L4"), [1])
    relabel_mask(folder, CASE, 0)
    assert state(folder) == (ROW, [*ROW, "L4"], ROW, [])


def test_a_thirteenth_thoracic_vertebra_and_a_missing_twelfth_are_respected():
    ids = [vertebra(name).id for name in ("T11", "T12", "T13", "L1")]
    assert [vertebra(new).name for new in shifted_ids(ids, 1).values()] == ["T12", "T13", "L1", "L2"]
    ids = [vertebra(name).id for name in ("T10", "T11", "L1")]
    assert [vertebra(new).name for new in shifted_ids(ids, 1).values()] == ["T11", "L1", "L2"]
    ids = [vertebra(name).id for name in ("L4", "L5")]
    assert [vertebra(new).name for new in shifted_ids(ids, 1).values()] == ["L5", "L6"]


@pytest.mark.parametrize("shift", [4, -18])
def test_names_that_would_leave_the_spine_change_nothing(folder, shift):
    before = mask_path(folder, CASE).read_bytes(), (folder / "predictions.json").read_bytes()
    with pytest.raises(DataError, match="the spine, which has C1"):
        relabel_mask(folder, CASE, shift)
    assert before == (mask_path(folder, CASE).read_bytes(), (folder / "predictions.json").read_bytes())


def test_a_shift_longer_than_any_spine_is_refused(folder):
    with pytest.raises(ConfigError, match="1 to 24 places"):
        relabel_mask(folder, CASE, 25)


def test_a_case_that_is_not_there_is_refused_with_those_that_are(folder):
    with pytest.raises(DataError, match="no prediction of sub-y") as refused:
        relabel_mask(folder, "sub-y", 1)
    assert CASE in refused.value.hint


def test_a_mask_that_is_gone_or_somebody_elses_is_refused(folder):
    target = mask_path(folder, CASE)
    mask = read_labels(target)
    target.unlink()
    with pytest.raises(DataError, match="is not there any more"):
        relabel_mask(folder, CASE, 1)
    nib.save(nib.Nifti1Image(mask.array, mask.geometry.affine), target)
    with pytest.raises(DataError, match="was not written by verse3d"):
        relabel_mask(folder, CASE, 1)


def test_a_mask_that_holds_something_else_than_its_record_says_is_refused(folder):
    target = mask_path(folder, CASE)
    mask = read_labels(target)
    changed = mask.array.copy()
    changed[changed == vertebra("L3").id] = 0
    write_labels(target, changed, like=mask.header, scheme="vertebrae")
    with pytest.raises(DataError, match="its record says"):
        relabel_mask(folder, CASE, 1)


def test_a_mask_without_names_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not tell vertebrae apart"):
        relabel_mask(predicted(tmp_path, ROW, scheme="binary"), CASE, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("corrections", [{"shift": 1, "ids": [[19, 20], [20, 20]]}]),
        ("corrections", [{"shift": 1, "ids": [[19, 99]]}]),
        ("corrections", [{"shift": 1e9, "ids": []}]),
        ("vertebrae", [{"id": 3}]),
        ("vertebrae", [{"name": "X9"}]),
        ("status", "failed"),
    ],
)
def test_damaged_records_are_refused(folder, key, value):
    content = json.loads((folder / "predictions.json").read_text())
    content["cases"][0][key] = value
    write_json(folder / "predictions.json", content)
    before = mask_path(folder, CASE).read_bytes()
    with pytest.raises(DataError):
        relabel_mask(folder, CASE, 1)
    assert mask_path(folder, CASE).read_bytes() == before


def test_an_empty_mask_has_no_name_to_move():
    with pytest.raises(DataError, match="no vertebra whose name"):
        shifted_ids([], 1)
