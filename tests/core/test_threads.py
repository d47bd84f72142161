import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from verse3d.core.threads import in_ranges, let_waiting_threads_sleep, thread_count


@pytest.fixture(params=[1, 2, 7])
def threads(request, monkeypatch):
    monkeypatch.setattr("verse3d.core.threads.thread_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("size", [1, 2, 5, 14, 100])
@pytest.mark.parametrize("longest", [None, 1, 3, 1000])
def test_the_ranges_make_up_the_whole_once(threads, size, longest):
    found = []
    in_ranges(lambda start, stop: found.append((start, stop)), size, longest)
    assert [index for start, stop in sorted(found) for index in range(start, stop)] == list(range(size))
    assert max(stop - start for start, stop in found) <= (longest or size)
    assert longest is not None or len(found) <= threads


def test_ranges_are_worked_on_at_once(monkeypatch):
    monkeypatch.setattr("verse3d.core.threads.thread_count", lambda: 3)
    together = threading.Barrier(3, timeout=300)  # passed only if three wait
    in_ranges(lambda *_: together.wait(), 3, 1)


def test_an_error_is_raised_and_what_has_not_begun_is_left_out(threads):
    begun = []

    def work(start, stop):
        begun.append(start)
        if start == 3:
            raise ValueError("no good")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="no good"):
        in_ranges(work, 10_000, 1)
    assert len(begun) < 9000


def _count(answer):
    answer.put(thread_count())


def test_a_worker_process_has_one_thread():
    assert thread_count() >= 1
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    process = spawn.Process(target=_count, args=(answer,))
    process.start()
    assert answer.get(timeout=600) == 1
    process.join()


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT")


@pytest.mark.parametrize("name", WAITING)
def test_how_threads_wait_is_left_to_who_has_decided_it(name, monkeypatch):
    for other in WAITING:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "active")
    before = dict(os.environ)
    let_waiting_threads_sleep()
    added = dict(os.environ.items() - before.items())
    of_the_other = {"GOMP_SPINCOUNT": "20000"} if "OPEN" in name else {"OPENBLAS_THREAD_TIMEOUT": "20"}
    assert os.environ[name] == "active" and added == of_the_other


def test_the_program_says_how_threads_wait_before_pytorch_and_numpy_can_read_it():
    program = (
        "import os, sys; from verse3d import cli\n"
        "names = ['GOMP_SPINCOUNT', 'OPENBLAS_THREAD_TIMEOUT']\n"
        "cli.main = lambda: print(*map(os.environ.get, names), {'torch', 'numpy'} & set(sys.modules)) or 0\n"
        "cli.run()"
    )
    unset = {k: v for k, v in os.environ.items() if k not in WAITING}
    done = subprocess.run([sys.executable, "-c", program], env=unset, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["20000", "20", "set()"]
