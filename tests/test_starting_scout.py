"""Which scout a training begins with."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import verse3d
from tests.scans import tiny_config
from verse3d.api.starting_scout import _starter_scout, starting_scout
from verse3d.core.config import load_config
from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.model import starter
from verse3d.model.checkpoint import load_checkpoint
from verse3d.model.scout import SCOUT
from verse3d.model.starter import starter_file
from verse3d.training.initial import InitialScout, read_initial


def cases(*held_out: str, split="validation") -> CaseIndex:
    """An index of two strangers for training, and those that are held out."""
    train = [Case(name, name, Path(f"{name}_ct.nii.gz"), None, split="train") for name in ("a", "sub-verse005")]
    return CaseIndex((*train, *(Case(name, name, Path(f"{name}_ct.nii.gz"), None, split=split) for name in held_out)))


@pytest.mark.parametrize("config", ["unet3d", "unet3d-cpu", "vertebrae", "vertebrae-direct"])
def test_a_run_of_each_shipped_config_with_a_scout_begins_with_that_of_the_starter_weights(config):
    scout, remark = starting_scout(load_config(config), None, cases("b"))
    shipped = load_checkpoint(starter_file()).networks[SCOUT]
    assert scout.path == starter_file() and not remark
    assert all(torch.equal(scout.trained.network[name], weight) for name, weight in shipped.network.items())


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("seen", ["sub-verse008", "example_ct"])
def test_it_begins_anew_where_a_scan_is_held_out_that_the_starter_has_seen(seen, split):
    scout, remark = starting_scout(load_config("unet3d"), None, cases("b", seen, split=split))
    assert scout is None and f"seen {seen}, held out here" in remark


def test_the_log_of_the_run_says_why_its_scout_begins_anew(tmp_path):
    index, out = tmp_path / "cases.jsonl", tmp_path / "run"
    write_index(index, cases("sub-verse008"))  # whose scans are not there, so that the run ends where it begins
    with pytest.raises(DataError, match="training case"):
        verse3d.train(data=index, out=out, config=tiny_config(scout={"enabled": True}), device="cpu")
    assert "INFO" in (line := next(line for line in (out / "log.txt").read_text().splitlines() if "anew" in line))
    assert line.endswith("the scout begins anew: that of the starter weights has seen sub-verse008, held out here")


@pytest.mark.parametrize(
    ("config", "overrides"),
    [("unet3d", ["scout.begin_with=nothing"]), ("unet3d", ["scout.enabled=false"]), ("slices2d", [])],
)
def test_it_begins_with_nothing_where_that_is_wanted_or_there_is_no_scout(config, overrides):
    assert starting_scout(load_config(config, overrides), None, cases()) == (None, "")


def test_the_scout_of_a_model_to_begin_with_goes_before_that_of_the_starter_weights():
    initial = read_initial(starter_file())
    own = InitialScout(Path("mine.pt"), initial.scout.trained)
    assert starting_scout(load_config("unet3d"), dataclasses.replace(initial, scout=own), cases()).scout is own
    without = dataclasses.replace(initial, scout=None)
    assert starting_scout(load_config("unet3d"), without, cases()).scout.path == starter_file()


@pytest.mark.parametrize("missing", ["best.pt", "cases.jsonl"])
def test_a_copy_without_the_weights_or_what_they_have_seen_trains_as_well(missing, tmp_path, monkeypatch):
    copy = tmp_path / "starter"
    shutil.copytree(starter_file().parent, copy)
    (copy / missing).unlink()
    monkeypatch.setattr(starter, "starter_folder", lambda: copy)
    monkeypatch.setattr("verse3d.api.starting_scout.starter_folder", lambda: copy)
    _starter_scout.cache_clear()
    scout, remark = starting_scout(load_config("unet3d"), None, cases())
    assert scout is None and "begins anew" in remark and missing in remark


@pytest.mark.parametrize("resume", [False, True])
def test_only_a_new_run_begins_with_it(resume, tmp_path, monkeypatch):
    handed_on = []
    monkeypatch.setattr("verse3d.api.models.fit", lambda config, index, out, options: handed_on.append(options))
    monkeypatch.setattr("verse3d.api.models.divided", lambda data, seed: cases("b"))
    config = tiny_config(scout={"enabled": True})
    verse3d.train(data=tmp_path, out=tmp_path / "run", config=config, resume=resume, store=tmp_path / "store")
    assert (handed_on[0].initial_scout is None) is resume


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({}, "unet3d takes hours; `config` unet3d-cpu "),
        ({"mode": "2d"}, "slices2d takes hours; `config` slices2d-cpu "),
        ({"mode": "2.5d"}, ""),
        ({"config": "unet3d"}, ""),
        ({"from_model": "starter"}, ""),
    ],
    ids=str,
)
def test_who_has_no_gpu_and_chose_no_config_is_told_of_the_quick_one(chosen, told, tmp_path, monkeypatch):
    handed_on = []
    monkeypatch.setattr("verse3d.api.models.fit", lambda config, index, out, options: handed_on.append(options))
    monkeypatch.setattr("verse3d.api.models.divided", lambda data, seed: cases("b"))
    verse3d.train(data=tmp_path, out=tmp_path / "run", device="cpu", store=tmp_path / "store", **chosen)
    assert len([remark for remark in handed_on[0].remarks if "takes hours" in remark]) == bool(told)
    assert told in "".join(handed_on[0].remarks)
