"""Cases are read once, in processes that may die, and what was measured is kept until a file changes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import verse3d
from tests.core.grids import affine, hounsfield, save_scan
from tests.data import crashes, crashing_surveys
from tests.data.spines import spine_labels
from tests.mutants import json_mutants
from verse3d.core import worker_pool
from verse3d.core.errors import DataError
from verse3d.core.readers import checked
from verse3d.core.worker_pool import CannotStartError, Failure, each_here, each_in_processes
from verse3d.data.cases import Case
from verse3d.data.quality import survey as surveys
from verse3d.data.quality import survey_cache
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.record import CaseSurvey
from verse3d.data.quality.survey import (
    HU_BIN_WIDTH,
    HU_BINS,
    HU_LOWEST,
    cache_path,
    fitting_workers,
    survey_case,
    survey_cases,
)
from verse3d.data.quality.survey_cache import SurveyCache, cache_key

SHAPE = (9, 11, 14)
MATRIX = affine("PIR", (1.0, 0.75, 3.0), degrees=(12.0, -9.0, 17.0))
ROOT = Path(verse3d.__file__).parents[1]


def write_case(folder: Path, name="a", *, seed=0, mask_matrix=MATRIX, **changes) -> Case:
    scan = save_scan(folder / f"{name}.nii.gz", hounsfield(SHAPE, seed=seed), MATRIX)
    mask = save_scan(folder / f"{name}_seg.nii.gz", spine_labels(SHAPE, MATRIX), mask_matrix)
    return replace(Case(name, name, scan, mask), **changes)


@pytest.fixture
def cases(tmp_path):
    """Six cases: clean, junk, without mask, without scan, gone, clean."""
    good = [write_case(tmp_path, f"case{number}", seed=number) for number in range(6)]
    good[1].image.write_bytes(b"junk")
    good[4].mask.unlink()
    return (good[0], good[1], replace(good[2], mask=None), replace(good[3], image=None), good[4], good[5])


# --- what is measured


def test_the_numbers_of_a_case_are_those_of_its_voxels(tmp_path):
    case = write_case(tmp_path)
    survey = survey_case(case)
    hu, mask = hounsfield(SHAPE), spine_labels(SHAPE, MATRIX)
    assert (survey.case, survey.shape, survey.axis_codes) == ("a", SHAPE, "PIR")
    assert survey.spacing_mm == pytest.approx((1.0, 0.75, 3.0))
    assert survey.stored == ("int16", 1, 1)
    assert survey.extent_mm == pytest.approx((14 * 3.0, 9 * 1.0, 11 * 0.75), abs=1e-2)
    assert survey.has_mask and survey.levels == ("T12", "T13", "L1")
    assert survey.label_voxels == {label: int((mask == label).sum()) for label in (19, 28, 20)}
    assert survey.label_ml[20] == pytest.approx((mask == 20).sum() * 2.25 / 1000, abs=1e-3)
    assert survey.hu_range == (hu.min(), hu.max())
    edges = [-np.inf, *(HU_LOWEST + HU_BIN_WIDTH * np.arange(1, HU_BINS)), np.inf]
    assert survey.hu_inside == tuple(np.histogram(hu[mask > 0], edges)[0])
    assert survey.hu_outside == tuple(np.histogram(hu[mask == 0], edges)[0])
    assert survey.findings == ()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16, np.float32, np.float64])
def test_values_on_and_beyond_the_edges_of_the_bins_are_counted(tmp_path, dtype):
    values = [-1201, -1200, -1151, -1150, 0, 49, 50, 1949, 1950, 1999, 2000, 32000]
    scan = np.resize(np.array([value for value in values if value >= 0 or dtype != np.uint16]), SHAPE).astype(dtype)
    survey = survey_case(Case("a", "a", save_scan(tmp_path / "a.nii", scan, MATRIX)))
    edges = [-np.inf, *(HU_LOWEST + HU_BIN_WIDTH * np.arange(1, HU_BINS)), np.inf]
    assert survey.hu_outside == tuple(np.histogram(scan, edges)[0])
    assert sum(survey.hu_inside) == 0


@pytest.mark.parametrize(("degrees", "expected"), [((0, 0, 0), 0.0), ((10, 0, 0), 10.0), ((0, 0, -25), 25.0)])
def test_obliqueness_is_the_largest_angle_of_an_axis(tmp_path, degrees, expected):
    matrix = affine("LPS", (0.7, 0.7, 2.0), degrees=degrees)
    survey = survey_case(Case("a", "a", save_scan(tmp_path / "a.nii", hounsfield(SHAPE), matrix)))
    assert survey.oblique_degrees == pytest.approx(expected, abs=0.01)


def test_a_mask_with_turned_axes_still_tells_inside_from_outside(tmp_path):
    case = write_case(tmp_path)
    straight = survey_case(case)
    flipped = MATRIX.copy()
    flipped[:3, 3] += MATRIX[:3, 0] * (SHAPE[0] - 1)
    flipped[:3, 0] *= -1
    save_scan(case.mask, spine_labels(SHAPE, MATRIX)[::-1], flipped)
    turned = survey_case(case)
    assert [finding.code for finding in turned.findings] == ["mask-orientation"]
    assert turned.hu_inside == straight.hu_inside and turned.hu_outside == straight.hu_outside


def test_a_survey_survives_the_journey_through_json(cases):
    for survey in survey_cases(cases):
        assert checked(json.loads(json.dumps(survey.to_dict())), CaseSurvey, "here") == survey


def test_a_severity_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match=r"severity: .* got 'fatal'"):
        checked({"case": "a", "severity": "fatal", "code": "x", "message": "y", "hint": ""}, Finding, "here")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hu_inside": [1, 2, 3]}, "64 counts, or none"),
        ({"axis_codes": "PI"}, "the axes do not fit"),
        ({"axis_codes": "PIX"}, "the axes do not fit"),
        ({"shape": None}, "the axes do not fit"),
        ({"shape": [9, 11]}, "shape"),
        ({"spacing_mm": [1.0, 1.0, "wide"]}, "spacing_mm.2"),
        ({"spacing_mm": [1.0, 1.0, float("inf")]}, "spacing_mm.2"),
        ({"label_voxels": {"99": 1}}, "labels must be those of VerSe"),
        ({"label_voxels": {"L1": 1}}, "label_voxels.L1"),
        ({"label_ml": {"8": 1.0}}, "labels must be those of VerSe"),
        ({"findings": [{"case": "b", "severity": "note", "code": "x", "message": "y"}]}, "about another case"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_survey_that_contradicts_itself_is_refused(tmp_path, change, reason):
    values = json.loads(json.dumps(survey_case(write_case(tmp_path)).to_dict()))
    with pytest.raises(DataError, match=reason):
        checked(values | change, CaseSurvey, "here")


# --- processes


def test_processes_find_what_one_process_finds_in_the_same_order(cases, tmp_path):
    alone = list(survey_cases(cases, workers=1))
    assert [survey.case for survey in alone] == [case.case for case in cases]
    heard = []
    together = list(survey_cases(cases, workers=2, progress=lambda *told: heard.append(told)))
    assert together == alone
    assert heard == [("cases", done, 6) for done in range(7)]


def test_a_process_that_dies_or_fails_loses_its_own_task_only():
    tasks = ["one", "die", "two", "raise", "exit", "three"]
    found = dict(each_in_processes(crashes.behave, tasks, workers=2))
    assert {number: found[number] for number in (0, 2, 5)} == {0: "ONE", 2: "TWO", 5: "THREE"}
    assert found[1] == Failure("the process that read it was killed (SIGKILL)", died=True)
    assert found[4] == Failure("the process that read it ended (exit code 7)", died=True)
    assert found[3] == Failure("KeyError: 'oops'")


def test_without_processes_an_exception_loses_its_own_task_only():
    assert list(each_here(crashes.behave, ["one", "raise", "two"])) == [
        (0, "ONE"),
        (1, Failure("KeyError: 'oops'")),
        (2, "TWO"),
    ]


def broken_down(cases, cache, workers):
    """The finding about the middle one of three cases, whose survey breaks down."""
    found = list(survey_cases((cases[0], cases[2], cases[5]), workers=workers, cache=cache))
    assert [survey.case for survey in found] == ["case0", "case2", "case5"]
    (finding,) = found[1].findings
    assert (finding.severity, finding.code) == ("error", "case-failed")
    assert not found[0].findings
    assert len(cache.read_text().splitlines()) == 2  # what failed is tried again next time
    return finding


def test_a_case_whose_check_breaks_down_is_a_finding_of_it(cases, monkeypatch, tmp_path):
    monkeypatch.setattr(surveys, "survey_case", crashing_surveys.survey_or_raise)
    assert "RuntimeError: no" in broken_down(cases, tmp_path / "kept.jsonl", workers=1).message


def test_a_case_whose_process_was_killed_is_a_finding_of_it(cases, monkeypatch, tmp_path):
    def one_dies(work, items, workers):
        yield from ((number, work(items[number])) for number in (2, 0))
        yield 1, Failure("the process that read it was killed (SIGKILL)", died=True)

    monkeypatch.setattr(worker_pool, "each_in_processes", one_dies)
    finding = broken_down(cases, tmp_path / "kept.jsonl", workers=2)
    assert "SIGKILL" in finding.message and "`workers=1`" in finding.hint


@pytest.mark.slow  # three processes; what happens to tasks whose process dies, and what is made of it, runs quickly
def test_a_case_that_kills_its_process_is_a_finding_of_it(cases, monkeypatch, tmp_path):
    monkeypatch.setattr(surveys, "survey_case", crashing_surveys.survey_or_die)
    assert "SIGKILL" in broken_down(cases, tmp_path / "kept.jsonl", workers=2).message


def test_processes_that_cannot_start_are_replaced_by_this_one(cases, monkeypatch):
    def broken(*_):
        yield 0, survey_case(cases[0])
        raise CannotStartError("no")

    monkeypatch.setattr(worker_pool, "each_in_processes", broken)
    assert [survey.case for survey in survey_cases(cases, workers=2)] == [case.case for case in cases]


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_read_in_its_own_process(tmp_path):
    cases = [write_case(tmp_path, f"case{number}", seed=number) for number in range(2)]
    listed = [[str(case.image), str(case.mask)] for case in cases]
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom verse3d.data.cases import Case\n"
        "from verse3d.data.quality.survey import survey_cases\n"
        f"cases = [Case(a, a, Path(a), Path(b)) for a, b in {listed!r}]\n"
        "print('found', len(list(survey_cases(cases, workers=2))))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["found 2"]


def test_leaving_early_ends_the_processes_at_once():
    running = each_in_processes(crashes.behave, ["one", "sleep", "sleep"], workers=2)
    assert next(running) == (0, "ONE")
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < 120  # a task sleeps for ten minutes


def test_ctrl_c_ends_at_once(tmp_path):
    code = (
        "import os, signal\nfrom tests.data import crashes\nfrom verse3d.core.worker_pool import each_in_processes\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs start with it ignored
        "    for found in each_in_processes(crashes.behave, ['one', 'sleep', 'sleep'], 2):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
    )
    (tmp_path / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "script.py"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == -signal.SIGINT
    assert run.stderr.count("KeyboardInterrupt") == 1


def test_the_number_of_processes_follows_cores_memory_and_work(cases, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(worker_pool, "free_memory_bytes", lambda: 10 * 2**30)
    monkeypatch.setattr(surveys, "predicted_bytes", lambda _: 2**30)
    assert fitting_workers(cases) == 6  # no more than cases
    assert fitting_workers(cases * 10) == 8
    monkeypatch.setattr(worker_pool, "free_memory_bytes", lambda: 4 * 2**30)
    assert fitting_workers(cases * 10) == 3  # 80 % of the memory
    monkeypatch.setattr(worker_pool, "free_memory_bytes", lambda: 2**20)
    assert fitting_workers(cases * 10) == 1
    monkeypatch.setattr(worker_pool, "free_memory_bytes", lambda: 10 * 2**30)
    monkeypatch.setattr(surveys, "predicted_bytes", lambda _: 1000)
    assert fitting_workers(cases * 10) == 1  # not worth the start
    monkeypatch.undo()
    assert fitting_workers(cases) == 1


def test_memory_is_predicted_by_the_headers(tmp_path):
    voxels = np.prod(SHAPE)
    case = write_case(tmp_path)
    assert surveys.predicted_bytes(case) == voxels * (2 * 2 + 2 * 1)  # unpacking holds everything twice
    save_scan(case.image, hounsfield(SHAPE, np.float64), MATRIX)
    assert surveys.predicted_bytes(replace(case, mask=None)) == voxels * (8 + 8 + 4)
    plain = save_scan(tmp_path / "plain.nii", hounsfield(SHAPE), MATRIX)
    assert surveys.predicted_bytes(Case("a", "a", plain)) == voxels * 3
    case.image.write_bytes(b"junk")
    assert surveys.predicted_bytes(replace(case, mask=None)) == 0


# --- what is kept


@pytest.fixture
def counted(monkeypatch):
    """The names of the cases that were really read."""
    read = []

    def count(case):
        read.append(case.case)
        return survey_case(case)

    monkeypatch.setattr(surveys, "survey_case", count)
    return read


def test_the_second_time_only_what_could_not_be_read_is_read_again(cases, tmp_path, counted):
    cache = cache_path(tmp_path / "cases.jsonl")
    assert cache.name == "cases.survey.jsonl"
    first = list(survey_cases(cases, workers=1, cache=cache))
    assert counted == [case.case for case in cases]
    counted.clear()
    heard = []
    assert list(survey_cases(cases, workers=1, cache=cache, progress=lambda *told: heard.append(told))) == first
    assert counted == ["case1", "case4"]
    assert heard == [("cases", done, 6) for done in (4, 5, 6)]


def test_without_a_cache_nothing_is_written(cases, tmp_path, counted):
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        list(survey_cases(cases[:1], workers=1))
    assert counted == ["case0"] * 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("file", ["image", "mask", "centroids"])
def test_a_change_of_size_or_time_of_any_file_makes_a_survey_stale(tmp_path, counted, file):
    case = write_case(tmp_path, centroids=tmp_path / "a.json")
    case.centroids.write_text('[{"direction": ["P", "I", "R"]}]')
    cache = tmp_path / "kept.jsonl"
    path = getattr(case, file)
    list(survey_cases((case,), workers=1, cache=cache))
    stamp = path.stat().st_mtime_ns
    os.utime(path, ns=(stamp, stamp + 1))
    list(survey_cases((case,), workers=1, cache=cache))
    assert counted == ["a"] * 2
    with path.open("ab") as handle:
        handle.write(b" " if file == "centroids" else b"\0")  # neither changes what is read
    os.utime(path, ns=(stamp, stamp + 1))
    list(survey_cases((case,), workers=1, cache=cache))
    assert counted == ["a"] * 3
    assert len(cache.read_text().splitlines()) == 1  # what became stale is dropped


def test_name_corrections_and_version_belong_to_the_key(tmp_path, monkeypatch):
    case = write_case(tmp_path)
    keys = {
        cache_key(case),
        cache_key(replace(case, case="b")),
        cache_key(replace(case, relabel=((19, 20),))),
        cache_key(replace(case, mask=None)),
        cache_key(replace(case, mask=tmp_path / "gone.nii")),
    }
    monkeypatch.setattr("verse3d.data.quality.survey_cache.SURVEY_VERSION", 999)
    keys.add(cache_key(case))
    assert len(keys) == 6
    assert cache_key(replace(case, subject="b", split="test", notes=("x",))) == cache_key(case)


def test_a_torn_last_line_and_damaged_lines_cost_their_own_cases_only(cases, tmp_path, counted):
    cache = tmp_path / "kept.jsonl"
    good = (cases[0], cases[2], cases[3], cases[5])
    first = list(survey_cases(good, workers=1, cache=cache))
    lines = cache.read_text().splitlines()
    damaged = json.loads(lines[1])
    damaged["survey"]["label_voxels"] = "many"
    cache.write_text(
        "\n".join([lines[0], json.dumps(damaged), "[1, 2", "\x00", lines[2], lines[3][: len(lines[3]) // 2]])
    )
    counted.clear()
    assert list(survey_cases(good, workers=1, cache=cache)) == first
    assert counted == ["case2", "case5"]
    counted.clear()
    assert list(survey_cases(good, workers=1, cache=cache)) == first
    assert counted == []


def test_whatever_happens_to_a_cache_the_surveys_are_those_of_the_files(cases, tmp_path, counted):
    """Of every mutant the line is either whole or dropped: never is another number taken from it."""
    good, cache = (cases[0], cases[5]), tmp_path / "kept.jsonl"
    first = list(survey_cases(good, workers=1, cache=cache))
    line, other = cache.read_text().splitlines()
    taken = 0
    for mutant in json_mutants(json.loads(line), 240, seed=5):
        cache.write_bytes(mutant + b"\n" + other.encode())
        store = SurveyCache(cache)
        found = store.get(cache_key(good[0]), good[0].case)
        assert found in (None, first[0])
        assert store.get(cache_key(good[1]), good[1].case) == first[1] or b"\n" in mutant
        taken += found is not None
    assert taken < 60
    assert list(survey_cases(good, workers=1, cache=cache)) == first


def test_a_survey_that_was_forged_with_its_hash_is_still_checked(cases, tmp_path, counted):
    cache = tmp_path / "kept.jsonl"
    (first,) = survey_cases(cases[:1], workers=1, cache=cache)
    entry = json.loads(cache.read_text())
    for change in ({"label_voxels": {"20": "many"}}, {"case": "another"}, {"hu_range": [1]}):
        forged = entry["survey"] | change
        cache.write_text(survey_cache._line(entry["key"], forged))
        counted.clear()
        assert list(survey_cases(cases[:1], workers=1, cache=cache)) == [first]
        assert counted == ["case0"]


@pytest.mark.parametrize("name", [field.name for field in fields(CaseSurvey)])
def test_what_is_missing_in_a_cache_is_measured_again_and_never_taken_for_nothing(cases, tmp_path, counted, name):
    cache = tmp_path / "kept.jsonl"
    (first,) = survey_cases(cases[:1], workers=1, cache=cache)
    entry = json.loads(cache.read_text())
    del entry["survey"][name]
    cache.write_text(survey_cache._line(entry["key"], entry["survey"]))
    assert list(survey_cases(cases[:1], workers=1, cache=cache)) == [first]
    assert counted == ["case0"] * 2


@pytest.mark.parametrize("name", ["shape", "spacing_mm", "extent_mm"])
def test_a_grid_is_known_as_a_whole_or_not_at_all(cases, tmp_path, counted, name):
    cache = tmp_path / "kept.jsonl"
    (first,) = survey_cases(cases[:1], workers=1, cache=cache)
    entry = json.loads(cache.read_text())
    cache.write_text(survey_cache._line(entry["key"], entry["survey"] | {name: None}))
    assert list(survey_cases(cases[:1], workers=1, cache=cache)) == [first]
    assert counted == ["case0"] * 2


def test_a_cache_that_is_damaged_is_said_to_be_and_mended(cases, tmp_path, caplog):
    cache = tmp_path / "kept.jsonl"
    list(survey_cases(cases[:1], workers=1, cache=cache))
    cache.write_text("[" * 100_000 + "\n" + cache.read_text())
    list(survey_cases(cases[:1], workers=1, cache=cache))
    assert "1 damaged lines" in caplog.text
    caplog.clear()
    list(survey_cases(cases[:1], workers=1, cache=cache))
    assert caplog.text == "" and len(cache.read_text().splitlines()) == 1


def test_a_pipe_in_the_place_of_a_cache_is_not_waited_for(cases, tmp_path):
    os.mkfifo(tmp_path / "kept.jsonl")
    (survey,) = survey_cases(cases[:1], workers=1, cache=tmp_path / "kept.jsonl")
    assert survey.case == "case0"


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a\ud800"])
def test_a_name_that_the_system_refuses_is_a_finding_of_its_case(cases, tmp_path, name):
    odd = replace(cases[0], case="odd", image=tmp_path / f"{name}.nii.gz", centroids=tmp_path / f"{name}.json")
    found = list(survey_cases((odd, cases[5]), workers=1, cache=tmp_path / "kept.jsonl"))
    assert {finding.code for finding in found[0].findings} & {"scan-unreadable", "case-failed"}
    assert found[1].case == "case5" and found[1].shape == SHAPE


def test_stopping_half_way_keeps_what_was_read(cases, tmp_path, counted):
    cache = tmp_path / "kept.jsonl"
    running = survey_cases((cases[0], cases[2], cases[5]), workers=1, cache=cache)
    next(running)
    running.close()
    counted.clear()
    list(survey_cases((cases[0], cases[2], cases[5]), workers=1, cache=cache))
    assert counted == ["case2", "case5"]


def test_a_cache_that_cannot_be_written_is_done_without(cases, tmp_path, caplog):
    cache = tmp_path / "no folder" / "kept.jsonl"
    (survey,) = survey_cases(cases[:1], workers=1, cache=cache)
    assert survey.case == "case0"
    assert "cannot be kept" in caplog.text
    assert not cache.parent.exists()


def test_a_cache_of_bytes_that_are_no_text_is_empty(tmp_path):
    (tmp_path / "kept.jsonl").write_bytes(b"\xff\xfe\n{}\nnull\n[]\n")
    assert SurveyCache(tmp_path / "kept.jsonl").get("key", "a") is None
