"""What people really have on their disks: every bad file is named, nothing half-written stays, the rest is done."""

import gzip
import io
import json
import pickle
import resource
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests import scans
from tests.scans import PIR, spine, tiny_config, turned
from verse3d.cli import main
from verse3d.core.errors import OutputError
from verse3d.core.volume import read_labels
from verse3d.data.cases import write_index
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def save(path, array, affine=PIR.affine):
    nib.save(nib.Nifti1Image(array, affine), path)


def cut_in_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_inside(path):
    """A whole gzip stream with too few voxels in it."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:5000]))


def flip_a_bit(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))


def make_rgb(path):
    colours = np.zeros(PIR.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(path, colours)


def make_singular(path):
    image = nib.Nifti1Image(spine().hu, PIR.affine)
    image.header["qform_code"], image.header["sform_code"] = 0, 1
    image.header["srow_y"] = image.header["srow_x"]
    nib.save(nib.Nifti1Image(spine().hu, None, image.header), path)


def with_voxel(value):
    def make(path):
        hu = spine().hu.astype(np.float32)
        hu[3, 4, 5] = value
        save(path, hu)

    return make


def promise(shape, spacing=None):
    """The header of a real scan with another shape or spacing in it, and no more voxels."""

    def make(path):
        raw = bytearray(gzip.decompress(path.read_bytes()))
        if shape is not None:
            raw[42:48] = np.array(shape, np.int16).tobytes()
            del raw[480:]
        if spacing is not None:
            raw[280:328] = np.diag([spacing, spacing, spacing, 0.0]).astype(np.float32)[:3].tobytes()
        path.write_bytes(gzip.compress(bytes(raw)))

    return make


BAD_SCANS = {
    "of 480 bytes that promises 30000^3 voxels": (promise((30000, 30000, 30000)), "its header promises"),
    "with voxels of 1500 mm": (promise(None, 1500.0), "cannot be those of a CT"),
    "with voxels of a nanometre": (promise(None, 1e-6), "cannot be those of a CT"),
    "with voxels of 99 mm": (promise(None, 99.0), "this needs at least"),
    "cut in half": (cut_in_half, "damaged"),
    "with too few voxels": (cut_inside, "damaged"),
    "with a flipped bit": (flip_a_bit, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "a text": (lambda path: path.write_text("not a scan"), "damaged"),
    "a gzipped text": (lambda path: path.write_bytes(gzip.compress(b"not a scan" * 99)), "damaged"),
    "4D": (lambda path: save(path, np.zeros((8, 9, 10, 2), np.int16)), "4 axes"),
    "2D": (lambda path: save(path, np.zeros((8, 9), np.int16)), "2 axes"),
    "RGB": (make_rgb, "RGB"),
    "complex": (lambda path: save(path, np.zeros(PIR.shape, np.complex64)), "complex"),
    "with a NaN": (with_voxel(np.nan), "(3, 4, 5)"),
    "with an infinity": (with_voxel(np.inf), "NaN or infinite"),
    "with a singular affine": (make_singular, "singular"),
    "missing": (lambda path: path.unlink(), "does not exist"),
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A checkpoint that labels what is bright."""
    scans.use_threshold_network(monkeypatch)
    return str(scans.save_model(tmp_path / "best.pt", tiny_config(grid={"spacing_mm": [2.5, 2.5, 2.5]})))


def predict(*arguments):
    """The exit code. Nothing is drawn, which takes four times as long as the rest."""
    return main(["-q", "predict", *(str(argument) for argument in arguments), "--device", "cpu", "--no-preview"])


def records(out):
    return {record["case"]: record for record in json.loads((out / "predictions.json").read_text())["cases"]}


@pytest.mark.parametrize("name", BAD_SCANS)
def test_a_scan_that_is_bad_is_named_and_the_good_ones_around_it_are_predicted(tmp_path, model, capsys, name):
    spoil, reason = BAD_SCANS[name]
    paths = [tmp_path / "in" / f"{case}.nii.gz" for case in ("a", "bad", "z")]
    for path in paths:
        spine().write(path)
    spoil(paths[1])
    out = tmp_path / "out"
    assert predict(*paths, "--model", model, "--out", out, "--max-ram-gb", 4) == 3
    assert {case: record["status"] for case, record in records(out).items()} == {
        "a": "written",
        "bad": "failed",
        "z": "written",
    }
    error = records(out)["bad"]["error"]
    assert "bad.nii.gz" in error and reason in error
    shown = capsys.readouterr()
    assert "bad.nii.gz" in shown.out and "bad" in shown.err
    assert "Traceback" not in shown.out + shown.err
    assert not (out / "bad_seg-vert_msk.nii.gz").exists()
    expected_mask = spine().mask > 0
    for case in ("a", "z"):
        found = read_labels(out / f"{case}_seg-vert_msk.nii.gz").array > 0
        assert 2 * (found & expected_mask).sum() / (found.sum() + expected_mask.sum()) > 0.85
    assert not scans.leftovers(tmp_path)


def test_an_all_air_scan_gets_an_empty_mask_and_a_warning(tmp_path, model, capsys):
    scans.write_nifti(tmp_path / "air.nii.gz", np.full(PIR.shape, -1000, np.int16), PIR.affine)
    assert predict(tmp_path / "air.nii.gz", "--model", model, "--out", tmp_path / "out") == 0
    record = records(tmp_path / "out")["air"]
    assert record["status"] == "written" and record["levels"] == [] and record["labelled_voxels"] == 0
    assert any("empty" in warning for warning in record["warnings"])
    assert any("-1000" in warning for warning in record["warnings"])
    assert "empty" in capsys.readouterr().out
    assert not read_labels(tmp_path / "out" / record["mask"]).array.any()


@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 1, 1), (1, 1, 1), (3, 40, 2)])
def test_a_scan_smaller_than_a_patch_or_thinner_than_a_slice_is_predicted(tmp_path, model, shape):
    hu = np.full(shape, -100, np.int16)
    hu[0, 0, 0] = 1200
    scans.write_nifti(tmp_path / "small.nii.gz", hu, PIR.affine)
    assert predict(tmp_path / "small.nii.gz", "--model", model, "--out", tmp_path / "out") == 0
    mask = read_labels(tmp_path / "out" / "small_seg-vert_msk.nii.gz").array
    assert mask.shape == shape and mask[0, 0, 0] == 1


@pytest.mark.parametrize("command", ["check", "index", "train", "predict", "evaluate"])
def test_a_folder_without_a_case_is_refused(tmp_path, model, capsys, command):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing here")
    (tmp_path / "masks").mkdir()
    empty, out = str(tmp_path / "empty"), str(tmp_path / "out")
    arguments = {
        "check": [empty],
        "index": [empty, "-o", out],
        "train": ["--data", empty, "--out", out],
        "predict": [empty, "--model", model, "--out", out],
        "evaluate": ["--pred", str(tmp_path / "masks"), "--truth", empty, "--out", out],
    }
    assert main([command, *arguments[command]]) == 3
    assert "no NIfTI scan" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def spoil_mask(values, geometry=PIR):
    def make(ct, mask):
        scans.write_nifti(mask, values(spine(0).mask), geometry.affine)

    return make


def one_voxel(value, dtype):
    def change(mask):
        changed = mask.astype(dtype)
        changed[0, 0, 0] = value
        return changed

    return change


BAD_CASES = {
    "a scan cut in half": (lambda ct, mask: cut_in_half(ct), "damaged"),
    "a mask cut in half": (lambda ct, mask: cut_in_half(mask), "damaged"),
    "a text as mask": (lambda ct, mask: mask.write_text("not a mask"), "damaged"),
    "a scan with a singular affine": (lambda ct, mask: make_singular(ct), "singular"),
    "a scan with a NaN": (lambda ct, mask: with_voxel(np.nan)(ct), "(3, 4, 5)"),
    "a mask turned against its scan": (spoil_mask(lambda mask: mask, turned(PIR)), "mm away"),
    "a mask of another shape": (spoil_mask(lambda mask: mask[1:]), "shape"),
    "a mask with a fraction": (spoil_mask(one_voxel(1.0000001, np.float32)), "whole number"),
    "a mask with a negative label": (spoil_mask(one_voxel(-1, np.int16)), "between 0 and 65535"),
    "a mask with the sacrum": (spoil_mask(one_voxel(26, np.uint8)), "[26]"),
    "a mask with the coccyx": (spoil_mask(one_voxel(27, np.uint8)), "[27]"),
    "a mask with label 300": (spoil_mask(one_voxel(300, np.uint16)), "[300]"),
}


@pytest.mark.parametrize("name", BAD_CASES)
def test_training_goes_on_without_a_bad_case_and_lists_it(tmp_path, tiny_yaml, capsys, name):
    spoil, reason = BAD_CASES[name]
    index = scans.write_dataset(tmp_path / "data", ("train", "train"))
    write_index(tmp_path / "cases.jsonl", index)
    bad = index.cases[1]  # on the PIR grid
    spoil(bad.image, bad.mask)
    arguments = ["--data", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "run"), "--config", tiny_yaml]
    assert main(["train", *arguments, "--set", "optim.epochs=1", "--device", "cpu"]) == 3
    shown = capsys.readouterr()
    assert f"left out {bad.case}: " in shown.out and reason in shown.out
    assert "finished after epoch 1" in shown.out
    assert "Traceback" not in shown.err
    assert load_checkpoint(tmp_path / "run" / "best.pt").epoch == 1


def test_a_whole_float_mask_is_trained_on(tmp_path, tiny_yaml):
    index = scans.write_dataset(tmp_path / "data", ("train", "train"))
    write_index(tmp_path / "cases.jsonl", index)
    scans.write_nifti(index.cases[1].mask, spine(1).mask.astype(np.float64), PIR.affine)
    arguments = ["--data", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "run"), "--config", tiny_yaml]
    assert main(["train", *arguments, "--set", "optim.epochs=1", "--device", "cpu"]) == 0


@pytest.mark.parametrize("name", [name for name in BAD_CASES if name.startswith(("a mask", "a text"))])
def test_evaluation_goes_on_without_a_bad_truth_and_lists_it(tmp_path, capsys, name):
    spoil, reason = BAD_CASES[name]
    index = scans.write_dataset(tmp_path / "data", ("test", "test"))
    write_index(tmp_path / "cases.jsonl", index)
    for case in index:
        truth = read_labels(case.mask)
        predicted = (truth.array > 0).astype(np.uint8)
        scans.write_nifti(tmp_path / "masks" / f"{case.case}_seg-vert_msk.nii.gz", predicted, truth.geometry.affine)
    spoil(index.cases[1].image, index.cases[1].mask)
    out = tmp_path / "scores.json"
    arguments = ["--pred", str(tmp_path / "masks"), "--truth", str(tmp_path / "cases.jsonl"), "--out", str(out)]
    assert main(["evaluate", *arguments]) == 3
    shown = capsys.readouterr().out
    expected = "is not on the grid" if "turned" in name or "shape" in name else reason
    assert "case1 was not scored" in shown and expected in shown
    content = json.loads(out.read_text())
    assert [case["case"] for case in content["cases"]] == ["case0"]
    assert [failure["case"] for failure in content["failures"]] == ["case1"]


def test_a_config_with_three_mistakes_tells_all_three_and_trains_nothing(tmp_path, dataset, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    (tmp_path / "bad.yaml").write_text("optim: {lr: fast, epohs: 3}\ngrid: {spacing_mm: [1, 1]}\n")
    arguments = ["--data", str(tmp_path / "cases.jsonl"), "--config", str(tmp_path / "bad.yaml")]
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "optim.lr" in told and "grid.spacing_mm" in told
    assert "optim.epohs" in told and "'epochs'" in told
    assert not (tmp_path / "run").exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def as_pickle(path, content):
    path.write_bytes(pickle.dumps(content))


def as_zip(path, content):
    torch.save({"format": "verse3d checkpoint", "bomb": content}, path)


@pytest.mark.parametrize("store", [as_pickle, as_zip])
def test_a_pickle_bomb_is_refused_and_never_goes_off(tmp_path, capsys, store):
    spine().write(tmp_path / "a.nii.gz")
    store(tmp_path / "best.pt", Bomb(tmp_path / "exploded"))
    assert predict(tmp_path / "a.nii.gz", "--model", tmp_path / "best.pt", "--out", tmp_path / "out") == 4
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()
    assert "refused" in capsys.readouterr().err
    torch.load(tmp_path / "best.pt", weights_only=False) if store is as_zip else pickle.loads(
        (tmp_path / "best.pt").read_bytes()
    )
    assert (tmp_path / "exploded").exists(), "the bomb was a real one"


def change(**content):
    def make(path):
        stored = torch.load(path, weights_only=True)
        scans.save_sealed({**stored, **content}, path)

    return make


def without(key):
    def make(path):
        stored = torch.load(path, weights_only=True)
        torch.save({name: value for name, value in stored.items() if name != key}, path)

    return make


def zip_of_words(path, words=("nothing",)):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for word in words:
            archive.writestr(word, word)
    path.write_bytes(content.getvalue())


def empty_zip(path):
    zip_of_words(path, ())


BAD_MODELS = {
    "of another version": (change(format_version=99, versions={"verse3d": "9.8.7"}), "9.8.7"),
    "of another program": (change(format="nnunet"), "not a verse3d model"),
    "truncated": (cut_in_half, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "a text": (lambda path: path.write_text("weights"), "not a model file but a text file"),
    "a scan": (lambda path: spine().write(path.with_name("b.nii.gz")).replace(path), "but a NIfTI file"),
    "an empty zip": (empty_zip, "best.pt"),
    "a zip of something else": (zip_of_words, "but a zip archive of other files"),
    "a list": (lambda path: torch.save([1, 2], path), "not a verse3d model but a PyTorch file with a list in it"),
    "of nobody known": (lambda path: torch.save({"weights": 1}, path), "with the entries weights"),
    "without weights": (without("network"), "incomplete"),
    "without a config": (without("config"), "incomplete"),
    "with a config of unknown settings": (change(config={"optimum": {}}), "optimum"),
    "with other weights": (change(network={"a": torch.zeros(3)}), "do not fit"),
    "missing": (lambda path: path.unlink(), "no model file"),
    "a folder": (lambda path: path.unlink() or path.mkdir(), "no model file"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_is_bad_exits_with_4_and_predicts_nothing(tmp_path, capsys, name):
    spoil, reason = BAD_MODELS[name]
    spine().write(tmp_path / "a.nii.gz")
    path = scans.save_model(tmp_path / "best.pt", tiny_config())
    spoil(path)
    assert predict(tmp_path / "a.nii.gz", "--model", path, "--out", tmp_path / "out") == 4
    told = capsys.readouterr().err
    assert reason in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_run_with_a_damaged_last_checkpoint_is_not_resumed(tmp_path, dataset, tiny_yaml, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    arguments = ["train", "--data", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*arguments, "--config", tiny_yaml, "--max-epochs", "1"]) == 0
    cut_in_half(tmp_path / "run" / "last.pt")
    assert main([*arguments, "--resume"]) == 4
    assert "last.pt" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["phantom", "index", "train", "predict", "evaluate", "demo"])
def test_an_output_below_a_file_is_refused(tmp_path, model, dataset, capsys, command):
    write_index(tmp_path / "cases.jsonl", dataset)
    data = str(tmp_path / "cases.jsonl")
    spine().write(tmp_path / "a.nii.gz")
    if command == "evaluate":
        assert predict(data, "--model", model, "--out", tmp_path / "masks") == 0
    (tmp_path / "file").write_text("I am a file")
    out = str(tmp_path / "file" / "out")
    arguments = {
        "phantom": [out, "--cases", "1"],
        "index": [data, "-o", out],
        "train": ["--data", data, "--out", out],
        "predict": [data, "--model", model, "--out", out],
        "evaluate": ["--pred", str(tmp_path / "masks"), "--truth", data, "--out", out],
        "demo": ["--out", out],
    }
    if command == "index":
        arguments["index"][0] = str(dataset.cases[0].image.parent)
    capsys.readouterr()
    assert main([command, *arguments[command]]) == 3
    told = capsys.readouterr().err
    assert "error:" in told and str(tmp_path / "file") in told and "Traceback" not in told
    assert (tmp_path / "file").read_text() == "I am a file"


def test_a_full_disk_stops_neither_the_other_scans_nor_leaves_half_a_mask(tmp_path, model, monkeypatch, capsys):
    for case in ("a", "full", "z"):
        spine().write(tmp_path / "in" / f"{case}.nii.gz")
    scans.fill_disk(monkeypatch, "full")
    out = tmp_path / "out"
    assert predict(tmp_path / "in", "--model", model, "--out", out) == 3
    assert "disk is full" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert {"a_seg-vert_msk.nii.gz", "z_seg-vert_msk.nii.gz"} <= names
    assert "full_seg-vert_msk.nii.gz" not in names and not scans.leftovers(tmp_path)


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    path = scans.save_model(tmp_path / "best.pt", tiny_config())
    before = path.read_bytes()
    big = Checkpoint(tiny_config(), {"weights": torch.zeros(10**6)}, epoch=2, scores={})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    try:
        with pytest.raises(OutputError, match=r"best\.pt"):
            save_checkpoint(path, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert not scans.leftovers(tmp_path)


def test_check_names_an_impossible_spacing_and_goes_on(tmp_path, capsys):
    spine(0).write(tmp_path / "good_ct.nii.gz", tmp_path / "good_seg-vert_msk.nii.gz")
    spine(1).write(tmp_path / "bad_ct.nii.gz", tmp_path / "bad_seg-vert_msk.nii.gz")
    for name in ("ct", "seg-vert_msk"):
        promise(None, 1500.0)(tmp_path / f"bad_{name}.nii.gz")
    assert main(["check", str(tmp_path)]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "1500 x 1500 x 1500 mm cannot be those of a CT" in shown and "good" in shown


def test_training_leaves_out_a_case_whose_network_grid_would_not_fit(tmp_path, tiny_yaml):
    index = scans.write_dataset(tmp_path / "data", ("train", "train"))
    for path in (index.cases[0].image, index.cases[0].mask):
        promise(None, 99.0)(path)
    write_index(tmp_path / "cases.jsonl", index)
    arguments = ["--data", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "run"), "--config", str(tiny_yaml)]
    assert main(["-q", "train", *arguments, "--max-epochs", "1", "--set", "grid.spacing_mm=1.0"]) == 3
    assert "on the network grid" in (tmp_path / "run" / "log.txt").read_text()
