"""What was measured is kept until a file changes, and never taken for what it is not."""

import json
import os
from dataclasses import fields, replace

import pytest

from tests.data.quality.surveyed import SHAPE, write_case
from tests.mutants import json_mutants
from verse3d.data.quality import survey as surveys
from verse3d.data.quality import survey_cache
from verse3d.data.quality.record import CaseSurvey
from verse3d.data.quality.survey import (
    cache_path,
    survey_case,
    survey_cases,
)
from verse3d.data.quality.survey_cache import SurveyCache, cache_key


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
    assert "1 damaged line" in caplog.text
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
