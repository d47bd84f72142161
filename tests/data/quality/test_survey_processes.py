"""Cases are read in processes that may die."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.core.grids import hounsfield, save_scan
from tests.data import crashes, crashing_surveys
from tests.data.quality.surveyed import MATRIX, ROOT, SHAPE, write_case
from verse3d.core import worker_pool
from verse3d.core.worker_pool import CannotStartError, Failure, each_here, each_in_processes
from verse3d.data.cases import Case
from verse3d.data.quality import survey as surveys
from verse3d.data.quality.survey import (
    fitting_workers,
    survey_case,
    survey_cases,
)


@pytest.mark.slow  # it starts processes, as the test of a check that breaks down does
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
