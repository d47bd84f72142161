"""What is known about a trained model, with and without its run folder."""

import math
import shutil

import pytest

from tests import scans
from tests.scans import tiny_config
from verse3d.core.config import load_config
from verse3d.core.errors import CheckpointError, DataError
from verse3d.model.modes import MODES
from verse3d.training.runfolder import history_of, read_history, run_folder_of, write_history
from verse3d.training.trained import load_trained, sample_voxels


@pytest.fixture
def run(tmp_path, dataset):
    return scans.write_run(tmp_path / "run", tiny_config(), dataset)


@pytest.mark.parametrize("what", ["", "best.pt"])
def test_a_run_tells_what_it_took_whether_its_folder_or_its_model_is_named(run, what):
    model = load_trained(run / what)
    assert model.path == run / "best.pt"
    assert model.parameters == sum(one.numel() for one in MODES["3d"].network(tiny_config()).parameters())
    assert (model.minutes, model.steps, model.samples, model.voxels) == (2.5, 6, 12, 12 * 16**3)
    assert [case.case for case in model.cases] == ["case0", "case1", "case2", "case3"]


def test_of_a_model_alone_only_the_model_is_known(run, tmp_path):
    shutil.copy(run / "best.pt", tmp_path / "best.pt")
    shutil.copy(run / "best.pt", run / "copy.pt")  # beside the files of a run, but not the run's own
    for path in (tmp_path / "best.pt", run / "copy.pt"):
        model = load_trained(path)
        assert model.parameters > 0 and model.epoch == 1
        assert model.cases is None and not model.history
        assert all(math.isnan(value) for value in (model.minutes, model.steps, model.samples, model.voxels))
        assert run_folder_of(path) is None and history_of(path) == ()


def test_a_run_without_its_list_of_cases_still_tells_what_it_took(run):
    (run / "cases.jsonl").unlink()
    assert load_trained(run).cases is None and load_trained(run).minutes == 2.5


def test_a_folder_without_a_model_is_refused(run):
    (run / "best.pt").unlink()
    with pytest.raises(CheckpointError, match=r"holds no best\.pt"):
        load_trained(run)


def test_a_model_whose_weights_do_not_fit_is_refused(run, tmp_path):
    other = scans.save_model(tmp_path / "other.pt", tiny_config(network={"channels": [8, 16]}))
    content = scans.torch.load(other, weights_only=True)
    scans.save_sealed({**content, "config": tiny_config().to_dict()}, run / "best.pt")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_trained(run)


def test_the_history_comes_back_as_it_was_written(tmp_path):
    rows = [{"epoch": 1.0, "train_loss": 0.5, "validation_dice": math.nan}, {"epoch": 2, "train_loss": 0.25}]
    write_history(tmp_path / "h.csv", [rows[0], {**rows[1], "validation_dice": 0.75}])
    first, second = read_history(tmp_path / "h.csv")
    assert math.isnan(first.pop("validation_dice")) and first == {"epoch": 1, "train_loss": 0.5}
    assert second == {"epoch": 2, "train_loss": 0.25, "validation_dice": 0.75}


@pytest.mark.parametrize("content", [b"epoch,step\n1,many\n", b"epoch\n1,2\n", b"\xff\xfe\x00"])
def test_a_damaged_history_is_refused_and_draws_nothing(run, content):
    (run / "history.csv").write_bytes(content)
    with pytest.raises(DataError, match="history"):
        load_trained(run)
    assert history_of(run / "best.pt") == ()


@pytest.mark.parametrize("mode", MODES)
def test_the_voxels_of_a_sample_are_found_for_every_mode(mode):
    config = load_config(MODES[mode].default_config)
    size = config.sampling.patch_voxels if mode == "3d" else config.slices.size_pixels
    assert sample_voxels(config) == math.prod(size)


def test_a_margin_around_the_scan_does_not_change_the_size_of_a_sample():
    assert sample_voxels(tiny_config(sampling={"patch_voxels": [16, 32, 24], "margin_voxels": 4})) == 16 * 32 * 24
