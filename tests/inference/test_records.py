"""Records of many processes in one folder: none is lost, whoever is killed when."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import owner, write_json
from verse3d.data.prediction_log import PredictionLog, is_log, logs_in, read_log
from verse3d.data.predictions import is_predictions_file, read_predictions
from verse3d.inference.records import PredictionRecord, RecordList


def record(case, status="written", **more) -> PredictionRecord:
    return PredictionRecord(case, f"/scans/{case}.nii.gz", f"{case}_mask.nii.gz", status, **more)


def listed(folder, name="predictions.json"):
    return {one["case"]: one for one in json.loads((folder / name).read_text())["cases"]}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def records_in(folder, about="one", name="predictions.json") -> RecordList:
    return RecordList(folder / name, lambda: {"model": about})


WRITER = """
import sys, time
from pathlib import Path
from verse3d.inference.records import PredictionRecord, RecordList
folder, who, count, gate = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
records = RecordList(folder / "predictions.json", lambda: {"model": who})
with records:
    print("ready", flush=True)
    while not gate.exists():
        time.sleep(0.001)
    for number in range(count):
        records.add(PredictionRecord(f"{who}{number}", "ct", "mask", "written"))
        if who == "killed":
            print(number, flush=True)
"""


def writer(folder, who, count, gate) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), who, str(count), str(gate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_that_fill_one_folder_lose_no_record(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    running = [writer(folder, who, 60, tmp_path / "gate") for who in ("a", "b")]
    (tmp_path / "gate").touch()
    assert [process.wait(60) for process in running] == [0, 0]
    assert sorted(listed(folder)) == sorted(f"{who}{number}" for who in "ab" for number in range(60))
    assert names(folder) == ["predictions.json"], "their logs are in the list now"


def test_what_a_killed_process_had_finished_is_known_and_gets_into_the_list(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    process = writer(folder, "killed", 10**6, tmp_path / "gate")
    (tmp_path / "gate").touch()
    while int(process.stdout.readline()) < 20:
        pass
    process.kill()
    told = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.wait()
    finished = {f"killed{number}" for number in range(max(told, default=20) + 1)}
    assert finished <= set(read_predictions(folder).records) and not (folder / "predictions.json").exists()
    with records_in(folder, "next") as records:
        assert finished <= set(listed(folder))
        records.add(record("more"))
    assert finished | {"more"} <= set(listed(folder)) and names(folder) == ["predictions.json"]
    assert json.loads((folder / "predictions.json").read_text())["model"] == "next"


def test_a_torn_last_line_is_left_out_with_a_note_and_all_before_it_count(tmp_path, caplog):
    log = PredictionLog(tmp_path / "predictions.json")
    for number in range(3):
        log.append({"model": "one"}, {"case": f"c{number}", "status": "written"})
    whole = log.path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        log.path.write_bytes(whole[:-cut])
        caplog.clear()
        assert sorted(read_log(log.path).records) == ["c0", "c1"]
        assert "was cut off" in caplog.text
    assert read_predictions(tmp_path).about == {"model": "one"}


@pytest.mark.parametrize("line", ["{half", "[1, 2]", "{}", '{"about": 3}', "[" * 100_000, "\udcff"])
def test_a_damaged_line_in_the_middle_of_a_log_is_an_error_with_its_place(tmp_path, line):
    log = PredictionLog(tmp_path / "predictions.json")
    log.append({}, {"case": "a"})
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + line.encode("utf-8", "surrogateescape") + b"\n" + whole)
    with pytest.raises(DataError, match=r"jsonl(, line \d|: byte \d+ is not valid)"):
        read_predictions(tmp_path)


def test_the_log_of_a_living_process_is_read_and_left_to_it(tmp_path):
    (machine,) = owner().split(".")[1:]
    living = tmp_path / f"predictions.{os.getppid()}.{machine}.1.jsonl"
    living.write_text('{"about": {"model": "other"}}\n{"case": "theirs", "status": "written", "finished": 5}\n')
    abroad = tmp_path / "predictions.4194303.00000000.1.jsonl"
    abroad.write_text('{"case": "abroad", "status": "written", "finished": 5}\n')
    with records_in(tmp_path) as records:
        assert records.previous("theirs")["finished"] == 5
        records.add(record("mine"))
    assert names(tmp_path) == sorted([living.name, abroad.name, "predictions.json"])
    assert sorted(listed(tmp_path)) == ["mine"]
    assert sorted(read_predictions(tmp_path).records) == ["abroad", "mine", "theirs"]


def test_what_another_process_finishes_meanwhile_is_seen(tmp_path):
    with records_in(tmp_path) as records:
        assert records.previous("a") == {}
        with records_in(tmp_path, "other") as others:
            others.add(record("a", model_sha256="other"))
            assert records.previous("a")["model_sha256"] == "other"
        assert records.previous("a")["model_sha256"] == "other"
        records.add(record("a", "skipped"))
    assert listed(tmp_path)["a"]["status"] == "written", "that it was kept says less"


def test_a_scan_that_is_done_again_has_its_latest_record_whatever_the_order_of_the_lists(tmp_path):
    with records_in(tmp_path, name="predictions-part1of2.json") as records:
        records.add(record("a", "failed", error="no memory"))
    with records_in(tmp_path) as records:
        records.add(record("a"))
    os.utime(tmp_path / "predictions.json", (1, 1))
    assert read_predictions(tmp_path).records["a"]["status"] == "written"


def test_lists_of_earlier_versions_are_read_the_latest_first(tmp_path):
    write_json(tmp_path / "predictions.json", {"model": "old", "cases": [{"case": "a", "status": "written"}]})
    assert read_predictions(tmp_path).records["a"]["status"] == "written"
    with records_in(tmp_path, "new") as records:
        records.add(record("a", "failed"))
        records.add(record("b"))
    assert {case: one["status"] for case, one in listed(tmp_path).items()} == {"a": "failed", "b": "written"}


def test_where_folders_cannot_be_locked_the_logs_stay_and_nothing_is_lost(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with records_in(tmp_path) as records:
        records.add(record("a"))
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    assert sorted(read_predictions(tmp_path).records) == ["a"]
    monkeypatch.undo()
    (left,) = logs_in(tmp_path)
    left.rename(left.with_name(left.name.replace(str(os.getpid()), "4194303")))  # as if its process had ended
    with records_in(tmp_path):
        pass
    assert names(tmp_path) == ["predictions.json"] and sorted(listed(tmp_path)) == ["a"]


def test_a_disk_that_fills_up_leaves_the_lines_before_whole(tmp_path):
    log = PredictionLog(Path("/dev/full"))
    log.path = Path("/dev/full")
    with pytest.raises(OutputError, match="disk is full"):
        log.append({}, {"case": "a"})


def test_logs_count_as_lists_of_predictions_and_indexes_do_not(tmp_path):
    log = PredictionLog(tmp_path / "predictions-part0of4.json")
    assert is_log(log.path.name) and is_predictions_file(log.path.name)
    assert not is_log("cases.jsonl") and not is_log("predictions.jsonl")


def test_a_list_and_a_log_may_hold_what_no_text_file_can(tmp_path):
    record = {"case": "a\ud800", "status": "written", "mask": "a\udcff.nii.gz", "note of a later version": ["\ud800"]}
    (tmp_path / "predictions.json").write_text(json.dumps({"cases": [record]}))
    log = PredictionLog(tmp_path / "predictions.json")
    log.append({"model": "\ud800"}, {**record, "case": "b"})
    found = read_predictions(tmp_path)
    assert found.records == {"a\ud800": record, "b": {**record, "case": "b"}}


@pytest.mark.parametrize("line", ['{"case": 1, "status": "written"}', '{"about": 3}', "[" * 10**5, "{}", "1e999"])
def test_a_line_of_a_log_is_checked_as_a_record_in_a_list_is(tmp_path, line):
    log = PredictionLog(tmp_path / "predictions.json")
    log.path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"\.jsonl, line 1 is"):
        read_log(log.path)
