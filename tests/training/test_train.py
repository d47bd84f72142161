"""What ``verse3d.train`` adds to ``fit``."""

import math

import pytest

import verse3d
from tests import scans
from verse3d.core.config import Config
from verse3d.core.errors import ConfigError, DataError
from verse3d.data.cases import read_index


class TestTheApi:
    """What ``verse3d.train`` adds to ``fit``."""

    @pytest.fixture
    def undivided(self, tmp_path):
        scans.write_dataset(tmp_path / "data")
        return tmp_path / "data"

    def test_resumes_with_the_settings_of_the_run(self, undivided, tmp_path, tiny_yaml):
        out = tmp_path / "run"
        overrides = ["runtime.seed=5", "optim.epochs=2"]
        verse3d.train(data=undivided, out=out, config=tiny_yaml, overrides=overrides, max_epochs=1, device="cpu")
        assert verse3d.train(data=undivided, out=out, resume=True, device="cpu").epochs == 2

    def test_resumes_with_more_epochs_by_an_override_alone(self, undivided, tmp_path, tiny_yaml):
        out = tmp_path / "run"
        verse3d.train(data=undivided, out=out, config=tiny_yaml, overrides=["optim.epochs=1"], device="cpu")
        grown = {"overrides": ["optim.epochs=2"], "resume": True, "device": "cpu"}
        assert verse3d.train(data=undivided, out=out, **grown).epochs == 2
        with pytest.raises(ConfigError, match=r"optim\.lr"):
            verse3d.train(data=undivided, out=out, overrides=["optim.lr=0.5"], resume=True, device="cpu")

    def test_resumes_from_the_index_in_the_run_folder(self, undivided, tmp_path, tiny_yaml):
        out = tmp_path / "run"
        verse3d.train(data=undivided, out=out, config=tiny_yaml, max_epochs=1, device="cpu")
        assert verse3d.train(data=out / "cases.jsonl", out=out, resume=True, device="cpu").epochs == 4

    def test_draws_validation_cases_from_a_folder_but_takes_an_index_as_it_is(self, undivided, tmp_path, tiny_yaml):
        settings = {"config": tiny_yaml, "overrides": ["optim.epochs=1"], "device": "cpu"}
        assert not math.isnan(verse3d.train(data=undivided, out=tmp_path / "a", **settings).best_dice)
        verse3d.index(undivided, out=tmp_path / "all.jsonl", validation=0.0)
        assert math.isnan(verse3d.train(data=tmp_path / "all.jsonl", out=tmp_path / "b", **settings).best_dice)

    def test_a_fold_is_validated_on_and_the_others_are_trained_on(self, undivided, tmp_path, tiny_yaml):
        listed = tmp_path / "all.jsonl"
        report = verse3d.index(undivided, out=listed, folds=2)
        settings = {"config": tiny_yaml, "overrides": ["optim.epochs=1"], "device": "cpu"}
        verse3d.train(data=listed, out=tmp_path / "run", fold=1, **settings)
        used = {case.case: case.split for case in read_index(tmp_path / "run" / "cases.jsonl")}
        assert used == {case.case: "validation" if case.fold == 1 else "train" for case in report.cases}
        with pytest.raises(DataError, match="no fold 2"):
            verse3d.train(data=listed, out=tmp_path / "other", fold=2, **settings)

    def test_refuses_contradictions(self, undivided, tmp_path, tiny_yaml):
        with pytest.raises(ConfigError, match="cannot be combined"):
            verse3d.train(data=undivided, out=tmp_path / "run", resume=True, overwrite=True)
        with pytest.raises(ConfigError, match="overrides"):
            verse3d.train(data=undivided, out=tmp_path / "run", config=Config(), overrides=["optim.lr=1"])
        with pytest.raises(ConfigError, match="mode"):
            verse3d.train(data=undivided, out=tmp_path / "run", mode="4d")
