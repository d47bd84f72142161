"""The parts of the benchmarks that the figures rest on: time and memory of a program, agreement of masks, scans."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import verse3d
from tests.scans import save_model, tiny_config
from verse3d.core.geometry import Geometry
from verse3d.model.checkpoint import load_checkpoint
from verse3d.model.modes import Method
from verse3d.model.scout import SCOUT, USABLE

FOLDER = Path(__file__).parents[1] / "benchmarks"
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux counts it")


@pytest.fixture
def measuring(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("measuring")


@pytest.fixture
def scans(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("scans")


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_dice_is_that_of_every_label_that_either_mask_holds(measuring):
    first = np.zeros((3, 4, 5), np.uint8)
    second = first.copy()
    first[0], second[0, :2] = 28, 28  # 20 and 10 voxels, 10 shared
    second[2, 0, :3] = 7  # in one of them only
    result = measuring.agreement(first, second)
    assert result.dice == pytest.approx({7: 0.0, 28: 20 / 30})
    assert result.pooled == pytest.approx(20 / 33)
    assert (result.different, result.voxels) == (13, 60)
    assert "smallest 0.00000 (label 7)" in str(result)


def test_dice_is_that_of_an_oracle_on_random_masks(measuring):
    random = np.random.default_rng(0)
    first, second = (np.asfortranarray(random.integers(0, 29, (7, 5, 3), np.uint8)) for _ in range(2))
    expected = {
        label: 2 * ((first == label) & (second == label)).sum() / ((first == label).sum() + (second == label).sum())
        for label in range(1, 29)
        if (first == label).any() or (second == label).any()
    }
    result = measuring.agreement(first, second)
    assert result.dice == pytest.approx(expected)
    assert result.different == (first != second).sum()


def test_two_empty_masks_do_not_agree_perfectly_but_say_nothing(measuring):
    empty = np.zeros((2, 2, 2), np.uint8)
    assert measuring.agreement(empty, empty).dice == {}
    assert "nothing was compared" in str(measuring.agreement(empty, empty))


def test_masks_of_different_shapes_are_not_compared(measuring):
    with pytest.raises(ValueError):
        measuring.agreement(np.zeros((2, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8))


def test_the_median_is_taken_of_each_figure_and_trouble_is_kept(measuring):
    runs = [measuring.Outcome(3.0, 30.0, 100.0), measuring.Outcome(1.0, 50.0, 300.0), measuring.Outcome(2.0, 10.0, 9.0)]
    assert measuring.median(runs) == measuring.Outcome(2.0, 30.0, 100.0)
    assert measuring.median([*runs, measuring.Outcome(math.nan, 1.0, 1.0, "no")]).trouble == "no"


def test_a_ratio_to_nothing_is_a_dash(measuring):
    assert measuring.ratio(6.0, 2.0) == "3.00"
    assert measuring.ratio(math.nan, 2.0) == "-"


def test_jobs_take_turns_and_one_in_trouble_is_not_tried_again(measuring):
    order = []

    def job(name, trouble=""):
        def run():
            order.append(name)
            return measuring.Outcome(1.0, 1.0, 1.0, trouble)

        return run

    outcomes = measuring.alternate({"a": job("a"), "b": job("b", "does not fit")}, 3)
    assert order == ["a", "b", "a", "a"]
    assert [len(runs) for runs in outcomes.values()] == [3, 1]


@LINUX
def test_a_program_is_measured_with_those_that_it_starts(measuring, tmp_path):
    child = "import time; held = bytearray(120_000_000); time.sleep(1)"
    note = tmp_path / "note.json"
    parent = (
        "import subprocess, sys, json, pathlib; held = bytearray(80_000_000);"
        f"subprocess.run([sys.executable, '-c', {child!r}]);"
        f"pathlib.Path({str(note)!r}).write_text(json.dumps({{'seconds': 0.5}}))"
    )
    outcome = measuring.run_program(program(parent), note)
    assert outcome.trouble == "" and outcome.seconds == 0.5
    assert 1.0 < outcome.wall_seconds < 30.0
    assert 200 < outcome.peak_mb < 280


@LINUX
def test_a_peak_that_has_passed_is_not_missed(measuring, tmp_path):
    note = tmp_path / "note.json"
    code = "import time; held = bytearray(150_000_000); del held; time.sleep(0.5)"
    assert measuring.run_program(program(code), note).peak_mb > 150
    # The same where the program has its peak counted anew, as verse3d does before each scan.
    code = code.replace("del held;", "time.sleep(0.5); del held; open('/proc/self/clear_refs', 'w').write('5');")
    assert measuring.run_program(program(code), note).peak_mb > 150


@LINUX
def test_a_program_beyond_its_limit_is_stopped_and_does_not_fit(measuring, tmp_path):
    code = "import time; held = bytearray(300_000_000); time.sleep(60)"
    outcome = measuring.run_program(program(code), tmp_path / "note.json", limit_gb=0.2)
    assert outcome.trouble == "does not fit in 0.2 GB"
    assert outcome.wall_seconds < 30 and math.isnan(outcome.seconds)


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "does not fit: killed by the system"),
        ("raise MemoryError('no more')", "does not fit: the system refused memory"),
        ("raise ValueError('odd')", "failed with exit code 1: "),
    ],
)
def test_a_program_that_dies_says_why(measuring, tmp_path, code, trouble):
    outcome = measuring.run_program(program(code), tmp_path / "note.json")
    assert outcome.trouble.startswith(trouble)
    assert "odd" in outcome.trouble or "odd" not in code


def test_the_note_of_an_earlier_run_is_not_taken_for_this_one(measuring, tmp_path):
    note = tmp_path / "note.json"
    note.write_text(json.dumps({"seconds": 1.0}))
    outcome = measuring.run_program(program("pass"), note)
    assert math.isnan(outcome.seconds) and outcome.trouble == "it left no note of its time"


def test_two_benchmarks_do_not_share_a_folder(measuring, tmp_path):
    alone_in, refused = measuring.alone_in, pytest.raises(SystemExit, match="another benchmark")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        raise AssertionError("the second one was let in")
    with alone_in(tmp_path):  # free again
        assert tmp_path.is_dir()


def test_a_scan_has_air_with_noise_and_bone_and_is_made_once(scans, tmp_path):
    path = scans.make_scan(tmp_path, "120x120x8")
    image = nib.load(path)
    hu = np.asanyarray(image.dataobj)
    assert (hu.shape, hu.dtype) == ((120, 120, 8), np.int16)
    assert Geometry(image.shape, image.affine).axis_codes == ("L", "A", "S")
    assert (hu > 300).mean() > 0.005, "bone"
    air = hu[:, -3:]  # in front of the belly
    assert np.median(air) < -950 and air.std() > 5
    before = path.stat().st_mtime_ns
    assert scans.make_scan(tmp_path, "120x120x8") == path and path.stat().st_mtime_ns == before


def test_a_tall_scan_goes_on_upside_down_with_noise_of_its_own(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "TALLEST_MM", 80.0)
    hu = np.asanyarray(nib.load(scans.make_scan(tmp_path, "40x44x50")).dataobj).astype(float)
    below, above = hu[:, :, :20], hu[:, :, 20:40][:, :, ::-1]
    difference = below - above
    assert 5 < difference.std() < 1.6 * scans.NOISE_HU, "the same person, other noise"
    assert hu[:, :, 40:].std() == pytest.approx(hu[:, :, :10].std(), rel=0.05)


def last_line(name: str, *arguments: str):
    result = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments], capture_output=True, text=True, check=True, timeout=900
    )
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_the_formats_of_the_store_are_compared_on_a_small_volume():
    rows = last_line("store_formats.py", "--shape", "70x40x50", "--patch", "24", "--reads", "2")
    assert rows[0]["format"] == "raw memory map"
    assert all(row["mb"] > 0 for row in rows)
    assert len([row for row in rows if row["format"].startswith("blosc2")]) == 12


@LINUX
@pytest.mark.slow
def test_the_loader_is_compared_with_monai_on_small_scans(tmp_path):
    small = ["--cases", "2", "--scan", "60x50x70", "--patch", "32", "--seconds", "2", "--turns", "1"]
    figures = last_line("loader.py", *small, "--peers", "monai", "--work", str(tmp_path))
    assert figures["ratio_persistent"] == pytest.approx(
        figures["ours_patches_s"] / figures["persistent_patches_s"], rel=0.02
    )
    assert 0 < figures["ours_worker_mb"] < 400


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("train_throughput")


def test_the_scans_of_the_throughput_benchmark_are_a_data_set_with_one_for_validation(throughput, tmp_path):
    scans = throughput.write_scans(tmp_path / "scans", 3, (40, 36, 48))
    assert len(scans) == 3
    report = verse3d.index(tmp_path / "scans", out=tmp_path / "cases.jsonl", validation=1 / 3)
    assert sorted(str(case.split) for case in report.cases) == ["train", "train", "validation"]
    mask = np.asarray(nib.load(report.cases.cases[0].mask).dataobj)
    assert set(np.unique(mask)) == {0, 20, 21, 22, 23, 24}


def test_the_throughput_benchmark_tells_how_its_loop_compares(throughput):
    rates = {"step": 500.0, "loop": 450.0, "monai": 60.0}
    notes = {part: {"patches_per_s": rate} for part, rate in rates.items()}
    assert throughput.ratios(notes) == {"ratio_step": 0.9, "ratio_monai": 7.5}
    del notes["monai"]
    assert throughput.ratios(notes) == {"ratio_step": 0.9}
    assert math.isnan(throughput.ratios({**notes, "loop": {"trouble": "no GPU"}})["ratio_step"])


@pytest.mark.slow
def test_the_throughput_benchmark_ends_with_one_object_of_figures():
    small = ["sampling.patch_voxels=[32,32,32]", "sampling.batch_size=2", "optim.steps_per_epoch=3"]
    command = [sys.executable, str(FOLDER / "train_throughput.py"), "--minutes", "0.2", "--device", "cpu"]
    command += ["--cases", "3", "--scan", "40x36x48", "--workers", "0"]
    command += [word for override in small for word in ("--set", override)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"step_patches_per_s", "loop_patches_per_s", "monai_patches_per_s", "ratio_step"} <= figures.keys()
    assert figures["loop_waiting_share"] > 0


def test_augmentations_are_compared_on_the_same_patches(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    augmenting = importlib.import_module("augmenting")
    cpu = torch.device("cpu")
    for name in ("verse3d", "monai"):
        for grey in (False, True):
            job = augmenting.PEERS[name]((12, 12, 12), 2, cpu, grey)
            assert augmenting.milliseconds(job, 0.01, cpu) > 0


@pytest.mark.parametrize(("missed", "usable"), [([0.0, 0.0], 1.0), ([0.0, 0.1], 0.0), ([], 0.0)])
def test_a_scout_that_is_given_to_a_model_is_usable_only_if_it_missed_nothing(monkeypatch, tmp_path, missed, usable):
    monkeypatch.syspath_prepend(FOLDER)
    scout = importlib.import_module("scout")
    config = tiny_config(scout={"channels": [4, 8, 8]})
    save_model(tmp_path / "best.pt", config)
    judged = [scout.Judgement("scan", share, 0.5, 0.0, 1.0) for share in missed]
    scout._give(Method(config).scout(), tmp_path / "best.pt", judged)
    stored = load_checkpoint(tmp_path / "best.pt").networks[SCOUT]
    assert stored.scores == {
        USABLE: usable,
        "missed_scans": sum(one > 0 for one in missed),
        "validation_cases": len(missed),
    }


def test_names_of_phantoms_are_scored_with_dice_from_voxels_and_without_cut_vertebrae(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    phantoms, views = importlib.import_module("naming_phantoms"), importlib.import_module("naming_views")
    mask = np.zeros((3, 5, 8), np.uint8)
    mask[:, :, 6:], mask[:, :, 3:5], mask[:, :, :2] = 19, 20, 21  # T12 is cut, L1 and L2 are whole
    geometry = Geometry(mask.shape, np.diag([2.0, 3.0, 4.0, 1.0]))
    view = views.View("a part", mask.astype(np.int16), mask, geometry, (20, 21), "", decidable=True)
    predicted = mask.copy()
    predicted[:, :, 0] = 0  # half of L2, of which the other half is called L3
    predicted[predicted == 21] = 22
    tally = phantoms.Tally()
    tally.add(phantoms.Row([20, 22], predicted), view)
    assert tally.summary() == {
        "id_rate": 0.5,
        "all_right": 0.0,
        "volume_dice": round(2 * 45 / (75 + 60), 4),  # 15 voxels a plane: the cut T12 counts against it,
        "volume_dice_in_span": round(2 * 45 / (45 + 60), 4),  # and here it does not
        "vertebra_dice": 0.5,
    }
