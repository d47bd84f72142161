"""Comparisons from runs to tables: scored like evaluate does, in pairs, and honest about what is missing."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import scans
from tests.scans import spine, tiny_config
from verse3d import api
from verse3d.api import programs
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.volume import read_labels
from verse3d.data.cases import CaseIndex, write_index
from verse3d.evaluation import isolated_predict
from verse3d.evaluation.case_values import METRICS, OF_NAMES

SPLITS = ("train", "validation", "test", "test", "test")
UNSEEN = ("case2", "case3", "case4")


@pytest.fixture(autouse=True)
def _same_process(monkeypatch):
    """Predictions are made in this process, which is quicker."""
    monkeypatch.setattr(programs, "run_verse3d", lambda arguments, watch: (main(list(arguments)), ""))


@pytest.fixture
def index(tmp_path):
    return scans.write_dataset(tmp_path / "data", SPLITS)


@pytest.fixture
def listed(tmp_path, index):
    write_index(tmp_path / "cases.jsonl", index)
    return tmp_path / "cases.jsonl"


@pytest.fixture
def run(tmp_path, index, monkeypatch):
    """A run whose network labels what is brighter than ``cut``; above 1 it labels nothing."""

    def make(name, cut, split=index, **sections):
        scans.use_threshold_network(monkeypatch, cut)
        return str(scans.write_run(tmp_path / "runs" / name, tiny_config(**sections), split))

    return make


def compare(*runs, data, tmp_path, **options):
    return api.compare(*runs, data=data, out=tmp_path / "out", device="cpu", **{"pictures": 0, **options})


def volume_dice(folder, number):
    predicted = read_labels(folder / "masks" / f"case{number}_seg-vert_msk.nii.gz").array > 0
    root = next(parent for parent in folder.parents if (parent / "data").is_dir())
    grid = read_labels(root / "data" / f"case{number}_seg-vert_msk.nii.gz").geometry
    true = spine(number, grid).mask > 0
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def test_each_run_is_scored_on_the_unseen_cases_and_set_against_the_first(tmp_path, run, listed):
    found = compare(run("good", 0.35), run("thin", 0.55), data=listed, tmp_path=tmp_path)
    assert found.cases == UNSEEN
    dice = {
        standing.contestant.name: [volume_dice(tmp_path / "out" / standing.contestant.name, n) for n in (2, 3, 4)]
        for standing in found.standings
    }
    for standing in found.standings:
        assert standing.column("dice") == pytest.approx(dice[standing.contestant.name])
        assert all(seconds > 0 for seconds in standing.column("seconds"))
        assert all(50 < peak < 1e5 for peak in standing.column("peak_rss_mb"))
        assert standing.devices == ("cpu",)
    pair = found.pairs["thin"]["dice"]
    assert pair.mean == pytest.approx(np.mean(dice["thin"]) - np.mean(dice["good"]))
    assert (pair.n, pair.below) == (3, 3) and math.isnan(pair.p)
    assert found.left_out == found.differences == found.notes == ()


def test_a_second_call_keeps_the_masks_and_one_with_a_new_model_remakes_only_its_own(tmp_path, run, listed):
    good, thin = run("good", 0.35), run("thin", 0.55)
    first = compare(good, thin, data=listed, tmp_path=tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")}
    run("thin", 0.45)
    second = compare(good, thin, data=listed, tmp_path=tmp_path)
    changed = {path.parts[-3] for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert len(times) == 6 and changed == {"thin"}
    assert second.standings[0].values == first.standings[0].values
    assert second.standings[1].column("dice") != first.standings[1].column("dice")


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_seeds_are_averaged_case_by_case_and_their_spread_is_told(tmp_path, run, listed):
    seeds = [run(f"s{number}", cut) for number, cut in enumerate((0.35, 0.45, 0.55))]
    found = compare(f"three={','.join(seeds)}", run("one", 0.35), data=listed, tmp_path=tmp_path)
    each = np.array([[volume_dice(tmp_path / "out" / "three" / f"s{s}", n) for n in (2, 3, 4)] for s in range(3)])
    three, one = found.standings
    assert three.column("dice") == pytest.approx(each.mean(axis=0))
    assert three.run_sd["dice"] == pytest.approx(each.mean(axis=1).std(ddof=1))
    assert math.isnan(one.run_sd["dice"])
    assert found.pairs["one"]["dice"].n == 3  # cases, not cases times seeds
    assert "three: 3 runs (s0, s1, s2)" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_run_that_finds_nothing_has_dice_0_and_undefined_distances_that_are_counted(tmp_path, run, listed):
    found = compare(run("good", 0.35), run("blind", 2.0), data=listed, tmp_path=tmp_path)
    blind = found.standings[1]
    assert blind.column("dice") == [0, 0, 0]
    assert all(math.isnan(value) for value in blind.column("hd95_mm"))
    assert blind.undefined["hd95_mm"] == 3 and blind.undefined["dice"] == 0
    assert (found.pairs["blind"]["hd95_mm"].n, found.pairs["blind"]["hd95_mm"].undefined) == (0, 3)
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "HD95 mm: undefined in every pair." in page and "undefined (3 undefined)" in page
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["runs"][1]["values"]["case2"]["hd95_mm"] is None


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_one_seed_that_finds_nothing_is_counted_and_the_others_give_the_value(tmp_path, run, listed):
    pair = f"both={run('good', 0.35)},{run('blind', 2.0)}"
    found = compare(pair, run("good2", 0.35), data=listed, tmp_path=tmp_path)
    both, good = found.standings
    assert both.column("hd95_mm") == good.column("hd95_mm") and both.undefined["hd95_mm"] == 3
    assert both.column("dice") == pytest.approx([value / 2 for value in good.column("dice")])


def test_a_case_that_one_run_fails_on_is_left_out_for_all_and_the_exit_code_says_so(
    tmp_path, run, listed, monkeypatch, capsys
):
    runs = [run("good", 0.35), run("thin", 0.55)]
    label = isolated_predict.predict_missing

    def fail(cases, model, out, **options):
        found = label(cases, model, out, **options)
        if "thin" not in str(out):
            return found
        kept = {case: record for case, record in found.records.items() if case != "case3"}
        return replace(found, records=kept, failures=(("case3", "out of memory"),))

    monkeypatch.setattr("verse3d.evaluation.comparison.predict_missing", fail)
    arguments = ["--data", str(listed), "--out", str(tmp_path / "out"), "--device", "cpu", "--pictures", "0"]
    assert main(["-q", "compare", *runs, *arguments]) == 3
    assert "left out case3: thin: out of memory" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["cases"] == ["case2", "case4"]
    assert content["left_out"] == [{"case": "case3", "reason": "thin: out of memory"}]
    assert set(content["runs"][0]["values"]) == {"case2", "case4"}
    assert "**Left out** — case3: thin: out of memory" in (tmp_path / "out" / "compare.md").read_text()


def test_a_scan_that_cannot_be_read_is_left_out_and_if_it_is_the_only_one_nothing_is_written(
    tmp_path, run, listed, index
):
    runs = [run("good", 0.35), run("thin", 0.55)]
    index.cases[3].image.write_text("no scan")
    found = compare(*runs, data=listed, tmp_path=tmp_path)
    assert found.cases == ("case2", "case4") and found.left_out[0][0] == "case3"
    for number in (2, 4):
        index.cases[number].image.write_text("no scan")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match="no case could be scored for every run") as error:
        compare(*runs, data=listed, tmp_path=tmp_path)
    assert "case2: good: " in error.value.message
    assert not (tmp_path / "out" / "compare.md").exists()


def test_runs_that_differ_are_refused_before_anything_is_predicted_or_compared_with_a_note(tmp_path, run, listed):
    runs = [run("good", 0.35), run("fine", 0.35, grid={"spacing_mm": 3})]
    with pytest.raises(ConfigError, match="network grid"):
        compare(*runs, data=listed, tmp_path=tmp_path)
    assert not (tmp_path / "out").exists()
    found = compare(*runs, data=listed, tmp_path=tmp_path, allow_different=True)
    words = "network grid: good: spacing [4.0, 4.0, 4.0] mm; fine: spacing [3.0, 3.0, 3.0] mm"
    assert found.differences == (words,)
    assert f"**Not equal** — {words}" in (tmp_path / "out" / "compare.md").read_text()
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["differences_allowed"] == [words]


def test_a_leak_is_refused_even_where_differences_are_allowed(tmp_path, run, index, listed):
    leaky = CaseIndex(tuple(replace(case, split="train") if case.case == "case2" else case for case in index))
    with pytest.raises(ConfigError, match="leaky was trained on case2"):
        compare(run("good", 0.35), run("leaky", 0.35, leaky), data=listed, tmp_path=tmp_path, allow_different=True)


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_cases_that_chose_the_epoch_are_compared_with_a_warning(tmp_path, run, listed):
    found = compare(run("good", 0.35), run("thin", 0.55), data=listed, tmp_path=tmp_path, split="validation")
    assert found.cases == ("case1",) and len(found.notes) == 2
    assert "**Note** — the epoch of good" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_folds_are_scored_on_what_each_kept_and_pooled(tmp_path, run, index, listed):
    def folds(name, cut):
        paths = []
        for kept in UNSEEN:
            split = [replace(case, split="test" if case.case == kept else "train") for case in index]
            paths.append(run(f"{name}/{kept}", cut, CaseIndex(tuple(split))))
        return f"{name}={','.join(paths)}"

    found = compare(folds("good", 0.35), folds("thin", 0.55), data=listed, tmp_path=tmp_path, folds=True)
    assert found.cases == UNSEEN and found.pairs["thin"]["dice"].n == 3
    for kept in UNSEEN:
        written = list((tmp_path / "out" / "good" / kept / "masks").glob("*.nii.gz"))
        assert [path.name for path in written] == [f"{kept}_seg-vert_msk.nii.gz"]
    assert all(math.isnan(sd) for sd in found.standings[0].run_sd.values())
    assert "(folds)" in (tmp_path / "out" / "compare.md").read_text()
    with pytest.raises(ConfigError, match="leave out `split`"):
        compare("a", "b", data=listed, tmp_path=tmp_path, folds=True, split="test")


def test_the_tables_hold_every_case_and_metric_and_what_the_training_took(tmp_path, run, listed):
    found = compare(run("good", 0.35), run("thin", 0.55), data=listed, tmp_path=tmp_path)
    assert [path.name for path in found.written] == ["compare.md", "compare.csv", "compare.json", "compare.png"]
    with (tmp_path / "out" / "compare.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["case"], row["metric"]) for row in rows] == [
        (case, metric) for case in UNSEEN for metric in METRICS if metric not in OF_NAMES
    ]
    for row in rows:
        values = [standing.values[row["case"]][row["metric"]] for standing in found.standings]
        assert [float(row["good"]), float(row["thin"])] == values
        assert float(row["thin minus good"]) == values[1] - values[0]
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| training minutes (whole run) | 2.5 | 2.5 |" in page
    assert "| samples seen (patches or slices) | 12 | 12 |" in page
    assert f"| labelled voxels seen | {12 * 16**3:,} | {12 * 16**3:,} |" in page
    assert all((metric.title in page) == (key not in OF_NAMES) for key, metric in METRICS.items())
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["runs"][0]["models"][0]["training steps"] == 6
    assert content["pairs"]["thin"]["dice"]["n"] == 3


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_of_a_bare_checkpoint_the_training_is_unknown(tmp_path, run, listed):
    shutil.copy(Path(run("good", 0.35), "best.pt"), tmp_path / "bare.pt")
    compare(run("thin", 0.55), str(tmp_path / "bare.pt"), data=listed, tmp_path=tmp_path, allow_different=True)
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| training minutes (whole run) | 2.5 | unknown |" in page and "split: unknown for bare" in page


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_the_first_cases_are_drawn_for_each_run_beside_its_loss_curve(tmp_path, run, listed):
    found = compare(run("good", 0.35), run("thin", 0.55), data=listed, tmp_path=tmp_path, pictures=2)
    for name in ("good", "thin"):
        drawn = {path.name for path in (tmp_path / "out" / name / "pictures").iterdir()}
        assert drawn == {"case2.png", "case3.png", "loss.png"}
    assert len(found.pictures) == 6 and all(path.exists() for path in found.pictures)


def test_a_split_without_cases_is_refused(tmp_path, run, listed, index):
    write_index(listed, CaseIndex(tuple(replace(case, split="train") for case in index)))
    with pytest.raises(DataError, match="no case with a scan and a mask in the test split"):
        compare(run("good", 0.35), run("thin", 0.55), data=listed, tmp_path=tmp_path)


def test_a_negative_number_of_pictures_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 0"):
        compare("a", "b", data=tmp_path, tmp_path=tmp_path, pictures=-1)


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_comparison_on_masks_that_a_program_made_says_so(tmp_path, run, index):
    made = CaseIndex(tuple(replace(case, automatic=case.case == "case3") for case in index))
    write_index(tmp_path / "made.jsonl", made)
    found = compare(run("good", 0.35), run("thin", 0.55), data=tmp_path / "made.jsonl", tmp_path=tmp_path)
    words = "a program made the truth of case3: these scores say how alike two programs are"
    assert found.notes == (words,)
    assert f"**Note** — {words}" in (tmp_path / "out" / "compare.md").read_text()
