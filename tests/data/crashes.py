"""Tasks that go wrong in ways that a test cannot survive in its own process. Started in processes that load no more."""

import os
import signal
import sys
import time


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
