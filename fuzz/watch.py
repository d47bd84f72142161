"""Workers that read inputs, and the watch over them: each input has its own limits of time and memory.

campaign ── ticket ──> worker: write the input, say "begun", read it, say what came of it
    └── looks at /proc every 20 ms, kills the worker that goes over its limits, and starts another one
"""

import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from fuzz.judge import serve
from fuzz.target import Limits, Target
from fuzz.ticket import Ticket, Verdict

_IDLE_S = 5
"""A worker that has used no processor time for so long hangs: it waits for somebody who writes to a pipe."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Worker:
    """A process that reads one input after the other, as its owner sees it."""

    def __init__(self, kinds: Mapping[str, type[Target]], base: Path) -> None:
        self.ticket: Ticket | None = None
        self._kinds, self._base = kinds, base
        self._start()

    def _start(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)
        self._base.mkdir(parents=True)
        # Forked: the libraries are loaded once, and a dead worker is replaced within milliseconds.
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._kinds, self._base), daemon=True)
        self._process.start()
        theirs.close()
        self._begun: tuple[float, float, str] | None = None
        self._busy_at = (0.0, 0.0)

    def past_names(self, target: str) -> list[str]:
        """The past failures of a target, which only a worker knows: originals are made there and nowhere else."""
        self.pipe.send(target)
        names: list[str] = self.pipe.recv()
        return names

    def give(self, ticket: Ticket) -> None:
        """Hand it the next input."""
        self.ticket, self._begun = ticket, None
        self.pipe.send(ticket)

    def verdict(self) -> Verdict | None:
        """What came of the input, if that is known by now: the worker has said it, or died, or went over a limit."""
        ticket = self.ticket
        if ticket is None:
            return None
        try:
            while self.pipe.poll():
                said = self.pipe.recv()
                if isinstance(said, Verdict):
                    self.ticket = None
                    if said.outcome == "finding":
                        self._replace()  # whatever went wrong may have left the process in disorder
                    return said
                self._begun = (*_spent(self._pid), said)
                self._busy_at = time.monotonic(), self._begun[0]
            reason = self._over(self._kinds[ticket.target].limits)
        except (EOFError, OSError):
            self._process.join(5)
            reason = f"the worker died (exit code {self._process.exitcode})"
        if not reason:
            return None
        words = self._begun[2] if self._begun else "while the input was made"
        self._replace()
        return Verdict(ticket, "finding", words, reason)

    @property
    def _pid(self) -> int:
        return self._process.pid or 0

    def _over(self, limits: Limits) -> str:
        if self._begun is None:
            return ""
        cpu_before, mb_before, _ = self._begun
        cpu_s, mb = _spent(self._pid)
        if cpu_s - cpu_before > limits.cpu_s:
            return f"more than {limits.cpu_s:g} s of processor time"
        if cpu_s > self._busy_at[1]:
            self._busy_at = time.monotonic(), cpu_s
        if time.monotonic() - self._busy_at[0] > _IDLE_S:
            return f"hangs: idle for {_IDLE_S} s"
        if mb - mb_before > limits.memory_mb:
            return f"{mb - mb_before:.0f} MB more memory, allowed are {limits.memory_mb:g}"
        return ""

    def _replace(self) -> None:
        self.stop()
        self.ticket = None
        self._start()

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _spent(pid: int) -> tuple[float, float]:
    """Processor seconds and resident MB of a process. Raises ``OSError`` if it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / _TICKS, pages * resource.getpagesize() / 1e6
