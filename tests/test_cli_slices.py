"""The command line slice by slice: ``slices``, and which mode ``train`` takes."""

from typing import get_args

from tests import scans
from tests.scans import tiny_config
from verse3d.cli import main
from verse3d.cli.terminal import Plane
from verse3d.core.setting_types import SlicePlane
from verse3d.data.cases import write_index


def test_every_plane_of_the_config_can_be_chosen():
    assert get_args(Plane) == get_args(SlicePlane)


def test_slices_are_written_kept_and_counted_and_a_bad_case_is_listed(dataset, tmp_path, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    arguments = ["slices", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "out"), "--workers", "1"]
    small = [
        "--plane",
        "axial",
        "--size",
        "24",
        "--only-labelled",
        "--set",
        "grid.spacing_mm=6",
        "labels.scheme=binary",
    ]
    assert main([*arguments, *small]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  written") == 4
    found = len(list((tmp_path / "out").rglob("axial_*_mask.png")))
    assert f"{found} slices in" in printed and found > 4
    assert main([*arguments, *small]) == 0
    assert capsys.readouterr().out.count("  kept") == 4

    (tmp_path / "cases.jsonl").write_text((tmp_path / "cases.jsonl").read_text().replace("case1_ct", "case9_ct"))
    assert main([*arguments, *small]) == 3
    printed = capsys.readouterr().out
    assert "case1 has no slices:" in printed and "case9_ct.nii.gz does not exist" in printed
    assert printed.count("  kept") == 3


def test_slices_with_settings_that_do_not_exist_are_refused(dataset, tmp_path, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    arguments = ["slices", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--plane", "oblique"]) == 2
    assert main([*arguments, "--set", "slices.plan=axial"]) == 2
    assert "did you mean 'plane'?" in capsys.readouterr().err
    assert main([*arguments, "--split", "test"]) == 3
    assert "no case of the test split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_config_says_which_mode_is_meant_and_a_wrong_mode_is_refused(dataset, tmp_path, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    (tmp_path / "tiny2d.yaml").write_text(tiny_config("2d", optim={"epochs": 1}).to_yaml())
    arguments = ["train", "--data", str(tmp_path / "cases.jsonl"), "--config", str(tmp_path / "tiny2d.yaml")]
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*arguments, *out, "--mode", "3d"]) == 2
    assert "the config is for mode 2d, not 3d" in capsys.readouterr().err
    assert main([*arguments, *out]) == 0
    again = ["train", "--data", str(tmp_path / "cases.jsonl"), *out, "--resume"]
    assert main([*again, "--mode", "3d"]) == 2
    assert "run is a run of mode 2d, not 3d" in capsys.readouterr().err
    assert main(again) == 0


def test_an_index_whose_cases_moved_is_refused_with_the_paths_and_what_to_do(tmp_path, capsys):
    index = scans.write_dataset(tmp_path / "data")
    write_index(tmp_path / "cases.jsonl", index)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    for command in (["train", "--data"], ["slices"]):
        arguments = [*command, str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / command[0])]
        assert main([*arguments, *(["--device", "cpu"] if command[0] == "train" else ["--workers", "1"])]) == 3
        printed = "".join(capsys.readouterr())
        assert "case0_ct.nii.gz does not exist" in printed and "make the index again" in printed
    assert not (tmp_path / "train" / "last.pt").exists()
