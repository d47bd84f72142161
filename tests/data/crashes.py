"""Tasks that go wrong in ways that a test cannot survive in its own process."""

import os
import signal
import sys
import time

from verse3d.data.quality.examine import survey_case


def behave(task: str) -> str:
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "exit":
        sys.stdout.flush()
        os._exit(7)
    elif task == "raise":
        raise KeyError("oops")
    elif task == "sleep":
        time.sleep(600)
    return task.upper()


def survey_or_die(case):
    if case.case == "case2":
        os.kill(os.getpid(), signal.SIGKILL)
    return survey_case(case)


def survey_or_raise(case):
    if case.case == "case2":
        raise RuntimeError("no")
    return survey_case(case)
