"""The functions of the package: one per command, and the demo from phantom to scores."""

import inspect
import json
import logging

import numpy as np
import pytest

import verse3d
from tests import scans
from tests.scans import TINY, spine, tiny_config
from verse3d import api, phantoms
from verse3d.api import predicting
from verse3d.core.errors import CheckpointError, ConfigError, DataError
from verse3d.core.read_ahead import ReadAhead
from verse3d.core.volume import read_labels
from verse3d.data.cases import write_index
from verse3d.data.index.discover import load_cases
from verse3d.data.predictions import read_predictions
from verse3d.model.starter import starter_file
from verse3d.phantoms import writer

COMMANDS = (
    "phantom",
    "index",
    "check",
    "look",
    "stats",
    "convert",
    "train",
    "predict",
    "evaluate",
    "compare",
    "export",
    "demo",
    "doctor",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_documented_keyword_only_function_of_the_package(name):
    function = getattr(verse3d, name)
    assert function is getattr(api, name)
    assert name in verse3d.__all__ and inspect.getdoc(function)
    signature = inspect.signature(function)
    by_place = {"phantom": ["out"], "check": ["data"], "convert": ["data"], "look": ["scan"], "stats": ["data"]}
    positional = by_place.get(name, [])
    kinds = inspect.Parameter
    found = [p.name for p in signature.parameters.values() if p.kind is kinds.POSITIONAL_OR_KEYWORD]
    assert found == positional
    assert all(parameter.annotation is not kinds.empty for parameter in signature.parameters.values())


def test_an_unknown_attribute_of_the_package_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="segment"):
        _ = verse3d.segment


@pytest.fixture
def model(tmp_path):
    """A network that labels nothing."""
    return scans.save_model(tmp_path / "best.pt", tiny_config())


@pytest.fixture
def bright_model(tmp_path, monkeypatch):
    """A network that labels what is bright."""
    scans.use_threshold_network(monkeypatch)
    return scans.save_model(tmp_path / "best.pt", tiny_config())


class TestPredict:
    def test_names_masks_after_their_scans(self, tmp_path, model):
        names = {
            "sub-verse004_ct.nii.gz": "sub-verse004_seg-vert_msk.nii.gz",
            "scan.nii": "scan_seg-vert_msk.nii.gz",
            "ct.nii.gz": "ct_seg-vert_msk.nii.gz",
            "after_seg.nii.gz": "after_seg_seg-vert_msk.nii.gz",
            "a.b.nii.gz": "a.b_seg-vert_msk.nii.gz",
        }
        for name in names:
            spine().write(tmp_path / "in" / name)
        verse3d.predict(*(tmp_path / "in" / name for name in names), model=model, out=tmp_path / "out", device="cpu")
        assert {path.name for path in (tmp_path / "out").glob("*msk*")} == set(names.values())

    def test_gives_a_scan_the_same_name_alone_and_in_its_folder(self, tmp_path, model):
        for name in ("a_ct.nii.gz", "b_0000.nii.gz", "c-ct.nii.gz", "d.nii.gz"):
            spine().write(tmp_path / "in" / name)
            verse3d.predict(tmp_path / "in" / name, model=model, out=tmp_path / "out", device="cpu")
        report = verse3d.predict(tmp_path / "in", model=model, out=tmp_path / "out", device="cpu")
        assert [record.status for record in report.records] == ["skipped"] * 4

    @pytest.mark.parametrize(
        ("cores", "options", "first"), [(2, {}, True), (1, {}, False), (2, {"max_ram_gb": 8}, False)]
    )
    def test_reads_the_first_scan_beside_loading_the_model_where_a_core_and_memory_are_free(
        self, tmp_path, model, monkeypatch, *, cores, options, first
    ):
        begun = []
        monkeypatch.setattr(predicting, "usable_cores", lambda: cores)
        monkeypatch.setattr(predicting, "ReadAhead", lambda path: begun.append(path) or ReadAhead(path))
        paths = [spine(seed).write(tmp_path / f"{seed}.nii.gz") for seed in range(2)]
        report = verse3d.predict(*paths, model=model, out=tmp_path / "out", device="cpu", **options)
        assert [record.status for record in report.records] == ["written"] * 2
        assert begun == (paths[:1] if first else [])

    def test_writes_one_label_file_for_itk_snap(self, tmp_path, model):
        spine().write(tmp_path / "a.nii.gz")
        verse3d.predict(tmp_path / "a.nii.gz", model=model, out=tmp_path / "out", device="cpu")
        [labels] = (tmp_path / "out").glob("*.txt")
        assert labels.read_text().splitlines()[1] == "# ITK-SnAP Label Description File"
        assert '"vertebrae"' in labels.read_text()

    def test_takes_files_folders_and_indexes_together_and_only_one_split_if_asked(self, tmp_path, model, dataset):
        spine().write(tmp_path / "alone.nii.gz")
        spine().write(tmp_path / "folder" / "inside.nii.gz")
        write_index(tmp_path / "cases.jsonl", dataset)
        sources = (tmp_path / "alone.nii.gz", tmp_path / "folder", tmp_path / "cases.jsonl")
        report = verse3d.predict(*sources, model=model, out=tmp_path / "all", device="cpu")
        assert [r.case for r in report.records] == ["alone", "inside", "case0", "case1", "case2", "case3"]
        report = verse3d.predict(*sources, model=model, out=tmp_path / "some", split="validation", device="cpu")
        assert [r.case for r in report.records] == ["case3"]

    def test_may_write_beside_the_scans_and_finds_them_again(self, tmp_path, bright_model):
        for name in ("a", "b"):
            spine().write(tmp_path / "in" / f"{name}_ct.nii.gz")
        spine().write(tmp_path / "in" / "c_ct.nii.gz", tmp_path / "in" / "c_seg-vert_msk.nii.gz")
        truth = (tmp_path / "in" / "c_seg-vert_msk.nii.gz").read_bytes()
        statuses = []
        for overwrite in (False, False, True):
            report = verse3d.predict(
                tmp_path / "in", model=bright_model, out=tmp_path / "in", overwrite=overwrite, device="cpu"
            )
            statuses.append([record.status for record in report.records])
        assert statuses == [["written"] * 2 + ["failed"], ["skipped"] * 2 + ["failed"], ["written"] * 2 + ["failed"]]
        assert (tmp_path / "in" / "c_seg-vert_msk.nii.gz").read_bytes() == truth
        found = {case.case: case.mask for case in load_cases(tmp_path / "in")}
        assert (found["a"], found["b"]) == (None, None), "a predicted mask is never the truth"
        assert found["c"] is not None

    def test_refuses_two_scans_that_would_get_the_same_mask(self, tmp_path, model):
        for folder in ("a", "b"):
            spine().write(tmp_path / folder / "scan.nii.gz")
        paths = [tmp_path / folder / "scan.nii.gz" for folder in ("a", "b")]
        with pytest.raises(DataError, match="same mask name"):
            verse3d.predict(*paths, model=model, out=tmp_path / "out")
        again = verse3d.predict(paths[0], paths[0], model=model, out=tmp_path / "out", device="cpu")
        assert len(again.records) == 1

    def test_refuses_what_is_not_there(self, tmp_path, model):
        with pytest.raises(DataError, match="does not exist"):
            verse3d.predict(tmp_path / "nowhere", model=model, out=tmp_path / "out")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no NIfTI"):
            verse3d.predict(tmp_path / "empty", model=model, out=tmp_path / "out")
        spine().write(tmp_path / "a.nii.gz")
        with pytest.raises(DataError, match="of the test split"):
            verse3d.predict(tmp_path / "a.nii.gz", model=model, out=tmp_path / "out", split="test")
        with pytest.raises(CheckpointError, match="no model file"):
            verse3d.predict(tmp_path / "a.nii.gz", model=tmp_path / "no.pt", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_says_of_a_missing_scan_that_it_is_missing_and_nothing_else(self, tmp_path, caplog):
        with caplog.at_level("INFO"), pytest.raises(DataError, match="does not exist"):
            verse3d.predict(tmp_path / "none.nii.gz", out=tmp_path / "out")
        assert not caplog.messages

    def test_notices_missing_scans_before_any_model_is_loaded(self, tmp_path, model, caplog):
        spine().write(tmp_path / "a.nii.gz")
        broken = tmp_path / "broken.pt"
        broken.write_bytes(b"no model")
        for missing, words in (
            (["x.nii"], r"x\.nii does not exist$"),
            (["x.nii", "y.nii"], r"does not exist \(and 1 more cannot be found\)"),
        ):
            with pytest.raises(DataError, match=words):
                verse3d.predict(*(tmp_path / name for name in missing), model=broken, out=tmp_path / "out")
        assert not (tmp_path / "out").exists(), "a call that did nothing writes nothing"
        report = verse3d.predict(tmp_path / "a.nii.gz", tmp_path / "x.nii", model=model, out=tmp_path / "out")
        assert [record.status for record in report.records] == ["written", "failed"]
        assert "x.nii does not exist; the other scans are predicted" in caplog.text

    def test_takes_a_run_folder_for_its_model(self, tmp_path):
        spine().write(tmp_path / "a.nii.gz")
        run = scans.write_run(tmp_path / "run", tiny_config(), None)
        [record] = verse3d.predict(tmp_path / "a.nii.gz", model=run, out=tmp_path / "out", device="cpu").records
        assert record.models == (str(run / "best.pt"),)

    def test_needs_nothing_but_the_checkpoint(self, tmp_path, bright_model):
        data = spine()
        data.write(tmp_path / "a.nii.gz")
        report = verse3d.predict(tmp_path / "a.nii.gz", model=bright_model, out=tmp_path / "out", device="cpu")
        found = read_labels(tmp_path / "out" / report.records[0].mask).array
        assert 2 * ((found > 0) & (data.mask > 0)).sum() / ((found > 0).sum() + (data.mask > 0).sum()) > 0.8


def test_predict_without_a_model_uses_the_starter_weights_and_says_so(tmp_path, caplog):
    spine().write(tmp_path / "a.nii.gz")
    with caplog.at_level(logging.INFO, logger="verse3d"):
        report = verse3d.predict(tmp_path / "a.nii.gz", out=tmp_path / "out", device="cpu", backend="torch")
    assert not report.failures
    assert sum("starter weights" in message for message in caplog.messages) == 1
    assert read_predictions(tmp_path / "out").about["model"] == str(starter_file())


def test_export_without_a_model_takes_the_starter_weights(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("verse3d.api.exporting.export_model", lambda model, *_, **__: taken.append(model))
    verse3d.export(to="torchscript", out=tmp_path / "out")
    assert taken == [starter_file()]


def test_predict_and_evaluate_join_on_the_split_of_an_index(tmp_path, bright_model, dataset):
    write_index(tmp_path / "cases.jsonl", dataset)
    listed = tmp_path / "cases.jsonl"
    verse3d.predict(listed, model=bright_model, out=tmp_path / "masks", split="train", device="cpu")
    result = verse3d.evaluate(pred=tmp_path / "masks", truth=listed, out=tmp_path / "scores.json", split="train")
    assert [case.case for case in result.cases] == ["case0", "case1", "case2"]
    assert all(case.labels["vertebrae"].dice > 0.7 for case in result.cases)
    with pytest.raises(DataError, match="no mask"):
        verse3d.evaluate(pred=tmp_path / "masks", truth=listed, out=tmp_path / "scores.json", split="validation")


def test_index_assigns_subjects_even_if_it_divides_again(tmp_path):
    scans.write_dataset(tmp_path / "data")
    for resplit in (False, True):
        found = verse3d.index(
            tmp_path / "data", out=tmp_path / "cases.jsonl", assign={"case1": "test"}, resplit=resplit, seed=3
        )
        assert {case.case: case.split for case in found.cases}["case1"] == "test"
    assert len(load_cases(tmp_path / "cases.jsonl")) == 4


class TestConvert:
    def test_writes_what_index_finds_again_and_nnunet_could_read(self, tmp_path):
        scans.write_dataset(tmp_path / "data")
        found = verse3d.index(tmp_path / "data", out=tmp_path / "cases.jsonl")
        tree = verse3d.convert(tmp_path / "cases.jsonl", to="verse", out=tmp_path / "tree")
        again = verse3d.index(tree.folder, out=tmp_path / "again.jsonl")
        expected = {f"sub-{case.case}": case.split for case in found.cases}
        assert {case.case: case.split for case in again.cases} == expected
        raw = verse3d.convert(tmp_path / "again.jsonl", to="nnunet", out=tmp_path / "raw", scheme="binary")
        assert raw.folder == tmp_path / "raw" / "Dataset001_VerSe"
        assert json.loads((raw.folder / "dataset.json").read_text())["numTraining"] == 4
        assert not raw.left_out

    def test_refuses_layouts_it_does_not_know_and_options_that_do_not_fit(self, tmp_path, dataset):
        write_index(tmp_path / "cases.jsonl", dataset)
        with pytest.raises(ConfigError, match="'bids' is unknown"):
            verse3d.convert(tmp_path / "cases.jsonl", to="bids", out=tmp_path / "out")
        for option in ({"scheme": "binary"}, {"dataset_id": 1}, {"name": "VerSe"}):
            with pytest.raises(ConfigError, match="for nnunet only"):
                verse3d.convert(tmp_path / "cases.jsonl", to="verse", out=tmp_path / "out", **option)
        with pytest.raises(ConfigError, match="1 to 999"):
            verse3d.convert(tmp_path / "cases.jsonl", to="nnunet", out=tmp_path / "out", dataset_id=0)
        assert not (tmp_path / "out").exists()


DEMO_PARTS = {
    "data",
    "cases.jsonl",
    "cases.store",
    "run",
    "masks",
    "scores.json",
    "scores.csv",
    "overlay.png",
    "starter",
    "pictures",
    "index.html",
    "verse3d-demo.txt",
}


@pytest.fixture
def small_phantom(monkeypatch):
    """Phantoms that take no time: the blocks of ``spine``."""

    def make_case(seed, index, *, anomaly=None):
        data = spine(seed + index)
        headers = phantoms.make_case.__globals__["Headers"](sform_code=1, qform_code=1)
        return phantoms.PhantomCase(data.hu, data.mask, data.geometry, {}, headers, ("T12", "L1", "L2"))

    monkeypatch.setattr(writer, "make_case", make_case)
    # In this process: another would draw real ones.
    monkeypatch.setattr(writer, "affordable_workers", lambda *_: 1)


class TestDemo:
    @pytest.fixture
    def run(self, tiny_yaml, small_phantom, tmp_path_factory, monkeypatch):
        # The real starter weights take a second each time, and are tested elsewhere.
        tiny = scans.save_model(tmp_path_factory.mktemp("starter") / "best.pt", tiny_config(), seed=1)
        monkeypatch.setattr("verse3d.model.starter.starter_file", lambda: tiny)

        def demo(out, **options):
            options = {"config": tiny_yaml, "against": None} | options
            overrides = ["optim.epochs=1", "validation.pictures=0"]
            return verse3d.demo(out=out, cases=4, overrides=overrides, device="cpu", **options)

        return demo

    @pytest.mark.usefixtures("as_for_users")
    @pytest.mark.slow  # it trains, converts, predicts and draws
    def test_leaves_data_index_run_masks_scores_a_picture_and_one_page_of_everything(self, run, tmp_path):
        out = tmp_path / "demo"
        result = run(out)
        assert {path.name for path in out.iterdir()} == DEMO_PARTS
        assert (out / "run" / "best.pt").is_file()
        [record] = result.predictions.records
        assert (out / "masks" / record.mask).is_file()
        scores = json.loads((out / "scores.json").read_text())
        assert [case["case"] for case in scores["cases"]] == [record.case]
        assert result.overlay.read_bytes().startswith(b"\x89PNG")
        assert result.label_file.is_file()
        assert result.open_itksnap.startswith("itksnap -g ") and record.mask in result.open_itksnap
        assert str(out / "run" / "tensorboard") in result.open_tensorboard
        # One page holds all of it, its pictures too, and needs no other file.
        page = result.page.read_text(encoding="utf-8")
        assert result.page == out / "index.html"
        dice = result.evaluation.cases[0].labels["vertebrae"].dice
        assert f"<td>{record.case}</td><td>{dice:.3f}</td>" in page
        assert page.count("data:image/png;base64,") == 3  # the starter's, the loss curve, the unseen case
        for outside in ("http", 'src="/', "url(", "<script", "<link"):
            assert outside not in page, outside
        assert page.index("without any training") < page.index("Unseen scans") < page.index("itksnap -g")

    @pytest.mark.slow
    def test_sets_a_second_model_against_the_first_and_is_made_again_only_if_wanted(self, run, tmp_path, tiny2d_yaml):
        result = run(tmp_path / "demo", against=tiny2d_yaml)
        assert [standing.contestant.name for standing in result.comparison.standings] == ["3d", "2d"]
        assert {path.name for path in (tmp_path / "demo").iterdir()} == DEMO_PARTS | {"run-against", "compare"}
        assert (tmp_path / "demo" / "compare" / "compare.md").is_file()
        with pytest.raises(DataError, match="already holds a demo"):
            run(tmp_path / "demo")
        again = run(tmp_path / "demo", overwrite=True)
        assert again.training.stopped == "finished" and again.comparison is None
        assert {path.name for path in (tmp_path / "demo").iterdir()} == DEMO_PARTS

    def test_refuses_a_second_config_that_does_not_fit_before_anything_is_made(self, run, tmp_path):
        wrong = {**TINY, "mode": "2d", "sampling": {"margin_voxels": 8}}
        (tmp_path / "wrong.yaml").write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match="margin_voxels"):
            run(tmp_path / "demo", against=tmp_path / "wrong.yaml")
        assert not (tmp_path / "demo").exists()

    def test_never_deletes_a_folder_that_no_demo_wrote(self, run, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "precious.txt").write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(DataError, match="no demo wrote"):
                run(tmp_path, overwrite=overwrite)
        assert (tmp_path / "data" / "precious.txt").read_text() == "years of work"

    def test_ends_when_its_training_is_interrupted(self, run, tmp_path):
        def interrupt(what, done, total):
            if what.startswith("epoch"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "demo", progress=interrupt)
        assert not (tmp_path / "demo" / "masks").exists()


@pytest.mark.slow
def test_the_26_levels_go_from_the_phantom_to_the_scores(tmp_path, tiny_yaml):
    sections = {**TINY["grid"], "spacing_mm": [5.0, 5.0, 5.0]}
    overrides = ["labels.scheme=vertebrae", f"grid.spacing_mm={sections['spacing_mm']}", "validation.pictures=1"]
    options = {"config": tiny_yaml, "against": None, "overrides": overrides}
    result = verse3d.demo(out=tmp_path, cases=3, device="cpu", **options)
    assert {path.name for path in tmp_path.iterdir()} == DEMO_PARTS | {"scores.md", "scores-centroids"}
    assert result.findings.worst != "error"
    assert result.evaluation.scheme == "vertebrae"
    scores = json.loads((tmp_path / "scores.json").read_text())
    true_levels = {facts.case: facts.levels for facts in result.findings.facts}
    for case in scores["cases"]:
        first, last = true_levels[case["case"]].split("-")
        assert {first, last, "vertebrae"} <= case["labels"].keys()
    mask = read_labels(tmp_path / "masks" / result.predictions.records[0].mask).array
    assert set(np.unique(mask)) <= {0, *range(1, 26), 28}
