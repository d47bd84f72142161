"""Several models judge together if they see and say the same, and else are refused with what differs."""

import numpy as np
import pytest
import torch

import verse3d
from tests import scans
from tests.scans import spine, tiny_config
from verse3d.core.errors import ConfigError
from verse3d.core.volume import read_image, read_labels
from verse3d.inference.loading import described, models_sha256, open_predictor

CPU = torch.device("cpu")


def model(folder, name, *, seed=0, mode="3d", **sections):
    config = tiny_config(mode, **sections)
    return scans.save_model(folder / name, config, seed=seed)


def probability_by(predictor, scan) -> np.ndarray:
    """Of the foreground, on the network grid."""
    image, grid = predictor.prepare(scan)
    return predictor.segment(image, grid, scan.geometry, predictor.settings)[0].probability


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"labels": {"scheme": "vertebrae"}}, "labels.scheme: binary and vertebrae"),
        ({"grid": {"spacing_mm": [4.0, 4.0, 5.0]}}, "grid.spacing_mm"),
        ({"grid": {"window_hu": [-200, 1250]}}, "grid.window_hu"),
        ({"sampling": {"patch_voxels": [16, 16, 32]}}, "sampling.patch_voxels"),
        ({"sampling": {"margin_voxels": 1}}, "sampling.margin_voxels"),
        ({"inference": {"overlap": 0.25}}, "inference.overlap: 0.5 and 0.25"),
        ({"inference": {"min_component_ml": 2.0}}, "inference.min_component_ml"),
    ],
    ids=str,
)
def test_models_that_see_or_say_something_else_are_refused(tmp_path, sections, named):
    paths = [model(tmp_path, "one.pt"), model(tmp_path, "two.pt", **sections)]
    with pytest.raises(ConfigError, match="cannot be averaged") as caught:
        open_predictor(paths, CPU, backend="torch")
    assert named in str(caught.value) and "two.pt" in str(caught.value)


@pytest.mark.parametrize("first", ["3d", "2d"])
def test_windows_and_slices_are_not_averaged(tmp_path, first):
    paths = [model(tmp_path, f"{mode}.pt", mode=mode, network={"name": "classic"}) for mode in ("3d", "2d")]
    with pytest.raises(ConfigError, match="cannot be averaged") as caught:
        open_predictor(paths if first == "3d" else paths[::-1], CPU, backend="torch")
    assert "mode: " in str(caught.value)


def test_models_of_other_widths_and_seeds_may_be_averaged(tmp_path):
    one_window = {"sampling": {"patch_voxels": [32, 32, 32]}}  # then nothing is blended
    wide = {"network": {"channels": [6, 12]}}
    paths = [model(tmp_path, "one.pt", seed=1, **one_window), model(tmp_path, "two.pt", seed=2, **one_window, **wide)]
    together = open_predictor(paths, CPU, backend="torch")
    scan = read_image(spine().write(tmp_path / "a_ct.nii.gz"))
    probability = probability_by(together, scan)
    alone = [probability_by(open_predictor([path], CPU, backend="torch"), scan) for path in paths]
    np.testing.assert_allclose(probability, np.mean(alone, axis=0), atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.05
    assert described(together, paths)["models"] == [str(path) for path in paths]
    assert models_sha256(paths).count("+") == 1


def test_a_model_and_its_twin_give_the_mask_of_one(tmp_path):
    path = model(tmp_path, "one.pt", seed=3)
    (tmp_path / "twin.pt").write_bytes(path.read_bytes())
    scan = spine().write(tmp_path / "a_ct.nii.gz")
    for out, models in (("one", path), ("both", [path, tmp_path / "twin.pt"])):
        assert not verse3d.predict(scan, model=models, out=tmp_path / out, backend="torch").failures
    one, both = (read_labels(tmp_path / out / "a_seg-vert_msk.nii.gz").array for out in ("one", "both"))
    assert (one != both).mean() < 0.01
    with pytest.raises(ConfigError, match="given twice"):
        verse3d.predict(scan, model=[path, path], out=tmp_path / "x")


def test_the_mirror_image_is_asked_about_too(tmp_path):
    path = model(tmp_path, "one.pt", seed=3)
    scan = read_image(spine().write(tmp_path / "a_ct.nii.gz"))
    plain, mirrored = (open_predictor([path], CPU, backend="torch", tta=tta) for tta in (False, True))
    one, both = (probability_by(by, scan) for by in (plain, mirrored))
    assert np.abs(one - both).max() > 1e-3


def test_the_mirror_image_of_a_sagittal_slice_is_refused(tmp_path):
    path = model(tmp_path, "slices.pt", mode="2d", network={"name": "classic"})
    with pytest.raises(ConfigError, match="looks the same"):
        open_predictor([path], CPU, backend="torch", tta=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": 2, "parts": 2}, "part 2 of 2 parts does not exist"),
        ({"part": -1, "parts": 2}, "does not exist"),
        ({"parts": 0}, "does not exist"),
        ({"max_ram_gb": 0.0}, "must be above 0"),
        ({"model": []}, "no model"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, words):
    (tmp_path / "a.nii.gz").touch()  # scans are looked for before models
    with pytest.raises(ConfigError, match=words):
        verse3d.predict(tmp_path / "a.nii.gz", **{"model": tmp_path / "best.pt", "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
