"""A model as an object: whatever a scan is handed over as, its labels are those of the mask that predict writes."""

import pydoc
import re
import shutil
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import verse3d
from tests import scans
from tests.scans import orientation, spine, tiny_config, turned, write_nifti
from verse3d.core.errors import CheckpointError, ConfigError, DataError, GeometryError
from verse3d.core.volume import GEOMETRY_FIELDS
from verse3d.training.runfolder import RunFolder

ROOT = Path(__file__).parents[1]
OBLIQUE = turned(orientation((1, 2, 0), (-1, -1, 1), (1.9, 3.1, 2.4), (27, 33, 21)))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with a network that labels what is bright."""
    scans.use_threshold_network(monkeypatch)
    return scans.write_run(tmp_path / "runs" / "a", tiny_config(), None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The scan of an oblique spine and the mask that ``predict`` writes of it with such a network; read only."""
    folder = tmp_path_factory.mktemp("written")
    scan = spine(geometry=OBLIQUE).write(folder / "scan.nii.gz")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("verse3d.inference.backends.choose.find_spec", lambda _: None)  # with PyTorch
        scans.use_threshold_network(patched)
        run = scans.write_run(folder / "runs" / "a", tiny_config(), None)
        verse3d.predict(scan, model=run, out=folder / "masks", device="cpu")
    mask = nib.load(folder / "masks" / "scan_seg-vert_msk.nii.gz")
    assert np.asanyarray(mask.dataobj).any()
    return scan, mask


def given_as(kind, scan):
    image = nib.load(scan)
    voxels = np.asanyarray(image.dataobj)
    return {
        "path": lambda: (scan, None),
        "text": lambda: (str(scan), None),
        "nibabel image": lambda: (image, None),
        "image in memory": lambda: (nib.Nifti1Image(voxels, image.affine), None),
        "integers": lambda: (voxels, image.affine),
        "floats": lambda: (image.get_fdata(), image.affine),
        "other byte order": lambda: (voxels.astype(">i2"), image.affine),
        "other order in memory": lambda: (np.ascontiguousarray(voxels), image.affine.tolist()),
        "FreeSurfer image": lambda: (nib.MGHImage(voxels.astype(np.float32), image.affine), None),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "path",
        "text",
        "nibabel image",
        "image in memory",
        "integers",
        "floats",
        "other byte order",
        "other order in memory",
        "FreeSurfer image",
    ],
)
def test_a_scan_in_any_form_gets_the_labels_of_the_written_mask(kind, run, written):
    scan, mask = written
    given, affine = given_as(kind, scan)
    found = verse3d.load_model(run, device="cpu").segment(given, affine=affine)
    assert found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, np.asanyarray(mask.dataobj))
    np.testing.assert_allclose(found.affine, mask.affine, atol=1e-5)
    assert found.levels == ("vertebrae",) and found.vertebrae is None and found.warnings == ()


def test_what_is_saved_is_the_mask_of_predict_byte_for_byte(tmp_path, run, written):
    scan, mask = written
    saved = verse3d.load_model(run, device="cpu").segment(scan).save(tmp_path / "again.nii.gz")
    assert saved.read_bytes() == Path(mask.get_filename()).read_bytes()


def test_of_an_image_whose_header_and_affine_differ_the_affine_counts(tmp_path, run, written):
    image = nib.load(written[0])
    moved = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine)
    moved.affine[:3, 3] += 40
    found = verse3d.load_model(run, device="cpu").segment(moved)
    np.testing.assert_allclose(nib.load(found.save(tmp_path / "m.nii")).affine, moved.affine, atol=1e-4)


def test_a_fourth_axis_of_one_is_read_and_given_back_in_array_and_file(tmp_path, run, written):
    image = nib.load(written[0])
    voxels = np.asanyarray(image.dataobj)[..., None]
    path = write_nifti(tmp_path / "four.nii.gz", voxels, image.affine)
    model = verse3d.load_model(run, device="cpu")
    truth = np.asanyarray(written[1].dataobj)[..., None]
    for found in (model.segment(path), model.segment(voxels, affine=image.affine), model.segment(nib.load(path))):
        np.testing.assert_array_equal(found.labels, truth)
    [record] = verse3d.predict(path, model=run, out=tmp_path / "four", device="cpu").records
    mask = nib.load(tmp_path / "four" / record.mask)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), truth)
    for name in GEOMETRY_FIELDS:
        assert mask.header[name].tobytes() == nib.load(path).header[name].tobytes()


def test_one_model_segments_several_scans_and_forgets_each(run, tmp_path):
    model = verse3d.load_model(run, device="cpu")
    for number, geometry in enumerate((scans.PIR, OBLIQUE, scans.PIR)):
        scan = spine(number, geometry).write(tmp_path / f"{number}.nii.gz")
        again = verse3d.load_model(run, device="cpu").segment(scan)
        np.testing.assert_array_equal(model.segment(scan).labels, again.labels)


def test_an_empty_mask_is_a_warning_and_no_error(tmp_path):
    model = verse3d.load_model(scans.save_model(tmp_path / "best.pt", tiny_config()), device="cpu")
    hu = np.random.default_rng(0).integers(-1000, 900, (9, 8, 7)).astype(np.int16)
    found = model.segment(hu, affine=np.diag([2.0, 2, 2, 1]))
    assert not found.labels.any() and found.levels == ()
    assert found.warnings == ("no vertebra was found: the mask is empty",)


REFUSED = {
    "an array without affine": (np.zeros((5, 6, 7)), None, GeometryError, "give affine too"),
    "a slice": (np.zeros((5, 6)), np.eye(4), DataError, r"has 2 axes \(5, 6\)"),
    "two volumes": (np.zeros((5, 6, 7, 2)), np.eye(4), DataError, "has 4 axes"),
    "no voxel": (np.zeros((5, 0, 7)), np.eye(4), DataError, r"\(5, 0, 7\)"),
    "NaN": (np.full((5, 6, 7), np.nan), np.eye(4), DataError, "NaN or infinite"),
    "complex": (np.zeros((5, 6, 7), complex), np.eye(4), DataError, "expected one grey value"),
    "truth values": (np.zeros((5, 6, 7), bool), np.eye(4), DataError, "expected one grey value"),
    "a singular affine": (np.zeros((5, 6, 7)), np.diag([1.0, 0, 1, 1]), GeometryError, "singular"),
    "an affine of another shape": (np.zeros((5, 6, 7)), np.eye(3), GeometryError, "4"),
    "an impossible spacing": (np.zeros((5, 6, 7)), np.diag([999.0, 1, 1, 1]), GeometryError, "cannot be those of a CT"),
    "a file that is not there": ("nowhere.nii.gz", None, DataError, "does not exist"),
    "an image and an affine": (nib.Nifti1Image(np.zeros((5, 6, 7)), np.eye(4)), np.eye(4), GeometryError, "leave"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_scan_is_refused(name, run):
    scan, affine, error, words = REFUSED[name]
    model = verse3d.load_model(run, device="cpu")
    with pytest.raises(error, match=words):
        model.segment(scan, affine=affine)


def test_a_model_says_what_it_is(run):
    model = verse3d.load_model(run, device="cpu")
    assert model.labels == {1: "vertebrae"}
    assert model.config["mode"] == "3d"
    assert "3d, binary, on cpu" in repr(model) and str(run) in repr(model)
    found = model.segment(np.zeros((5, 6, 7), np.int16), affine=np.eye(4))
    assert repr(found) == "<Segmentation 5 x 6 x 7: nothing found>"
    assert found.to_nifti().get_data_dtype() == np.uint8


def test_progress_is_told_on_request(run, written, capsys):
    with verse3d.progress_bars() as progress:
        verse3d.load_model(run, device="cpu").segment(written[0], progress=progress)
    assert "windows" in capsys.readouterr().err


class TestModelFiles:
    def test_a_run_folder_stands_for_its_best_model_else_for_the_last(self, run):
        assert verse3d.load_model(run, device="cpu").paths == (run / "best.pt",)
        (run / "best.pt").rename(run / "last.pt")
        assert verse3d.load_model(run, device="cpu").paths == (run / "last.pt",)
        assert RunFolder(run).last == run / "last.pt"

    def test_several_are_averaged_and_a_model_named_twice_is_refused(self, tmp_path, run):
        scans.write_run(tmp_path / "runs" / "b", tiny_config(), None)
        assert len(verse3d.load_model([run, tmp_path / "runs" / "b"], device="cpu").paths) == 2
        with pytest.raises(ConfigError, match="twice"):
            verse3d.load_model([run, run / "best.pt"], device="cpu")
        with pytest.raises(ConfigError, match="no model"):
            verse3d.load_model([], device="cpu")

    def test_a_folder_without_a_model_and_nothing_at_all_are_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"holds no model file \(best\.pt or last\.pt\)"):
            verse3d.load_model(tmp_path)
        with pytest.raises(CheckpointError, match="there is no model file"):
            verse3d.load_model(tmp_path / "gone.pt")


def test_dir_and_help_list_every_function_before_any_is_used():
    spec = find_spec("verse3d")
    untouched = module_from_spec(spec)  # as in a program that has just imported it
    spec.loader.exec_module(untouched)
    assert not {"segment", "load_model", "train"} & set(vars(untouched))
    listed, page = dir(untouched), pydoc.plain(pydoc.render_doc(untouched))
    for name in verse3d.__all__:
        assert name in listed and name in page
    assert "segment(" in page and "load_model(" in page


def test_the_notebook_example_of_the_documentation_runs(tmp_path, monkeypatch, run, written):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    shutil.copy(written[0], tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {})
