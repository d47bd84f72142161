"""Workers that read inputs, and the watch over them: each input has its own limits of time and memory.

campaign ── ticket ──> worker: write the input, say "begun", read it, say what came of it
    └── looks at /proc every 20 ms, kills the worker that goes over its limits, and starts another one
"""

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import random
import resource
import shutil
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from fuzz.target import Input, Limits, Room, Target
from verse3d.core.errors import Verse3dError

LONGEST_MESSAGE = 6000
"""Characters of an error: a few dozen problems of a file may be listed, but never the file itself."""
_MOST_ADDRESSES = 16 * 2**30
_LARGEST_FILE = 2**30
_IDLE_S = 5
"""A worker that has used no processor time for so long hangs: it waits for somebody who writes to a pipe."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAST, _INTACT = "past", "intact"
_FROM_TRACEBACK = 2500

Outcome = Literal["right", "refused", "finding"]


@dataclass(frozen=True)
class Ticket:
    """The name of an input: ``TARGET:SEED:NUMBER``, or ``TARGET:past:NAME``."""

    target: str
    seed: str
    what: str

    def __str__(self) -> str:
        return f"{self.target}:{self.seed}:{self.what}"

    @classmethod
    def parsed(cls, text: str) -> "Ticket":
        """Undo of ``str``."""
        target, seed, what = text.split(":", 2)
        return cls(target, seed, what)

    @classmethod
    def of_past(cls, target: str, name: str) -> "Ticket":
        """One of the inputs that once went wrong."""
        return cls(target, _PAST, name)

    @classmethod
    def of_intact(cls, target: str) -> "Ticket":
        """The undamaged original."""
        return cls(target, _PAST, _INTACT)

    @property
    def is_intact(self) -> bool:
        """Whether it is an undamaged original."""
        return (self.seed, self.what) == (_PAST, _INTACT)

    def write(self, target: Target, room: Room) -> Input:
        """Make the input; the same ticket makes the same input, on any machine and in any order."""
        if self.is_intact:
            return target.intact(room)
        if self.seed == _PAST:
            return target.past()[self.what](room)
        return target.write(random.Random(str(self)), room)


@dataclass(frozen=True)
class Verdict:
    """What came of an input.

    Attributes:
        ticket: which input.
        outcome: "right", "refused" (a clear error) or "finding".
        words: what was done to the original.
        reason: the error, or what is wrong.
        cpu_s: processor time of reading it.
        memory_mb: how much the worker's resident memory rose.
    """

    ticket: Ticket
    outcome: Outcome
    words: str = ""
    reason: str = ""
    cpu_s: float = 0.0
    memory_mb: float = 0.0


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
        self._process = context.Process(target=_serve, args=(theirs, self._kinds, self._base), daemon=True)
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


def _serve(pipe: Connection, kinds: Mapping[str, type[Target]], base: Path) -> None:
    """The life of a worker."""
    _settle()
    targets: dict[str, Target] = {}

    def target(name: str) -> Target:
        if name not in targets:
            originals = base / "originals" / name
            originals.mkdir(parents=True)
            targets[name] = kinds[name](originals)
        return targets[name]

    with contextlib.suppress(EOFError):
        while True:
            wanted: Ticket | str = pipe.recv()
            if isinstance(wanted, str):
                pipe.send(list(target(wanted).past()))
            else:
                pipe.send(judged(wanted, target(wanted.target), base, begun=pipe.send))


def _settle() -> None:
    """Quiet, with limits that keep the machine alive whatever an input does, and gone when the parent is."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def judged(ticket: Ticket, target: Target, base: Path, *, begun: Callable[[str], object] = lambda _: None) -> Verdict:
    """Make an input, read it, and look at what that left behind; ``begun`` is told when the reading begins."""
    # Deep below the base, so that a name with a few ".." still lands where it is seen.
    number = ticket.what if ticket.seed != _PAST else f"past{zlib.crc32(ticket.what.encode())}"
    home = base / "rooms" / "deep" / "deeper" / number
    room = Room(home / "in", home / "out")
    for folder in (room.inputs, room.outputs):
        folder.mkdir(parents=True)
    try:
        made = ticket.write(target, room)
        before, open_before = _files(base), _open_files()
        begun(made.words)
        peak, start = _Peak(), time.process_time()
        outcome, reason = _read(target, room, made)
        cpu_s = time.process_time() - start
        problem = reason if outcome == "finding" else _left_behind(base, room, before, open_before)
        if ticket.is_intact and outcome == "refused":
            problem = f"the undamaged original is refused: {reason}"
        if not problem and peak.mb() > target.limits.memory_mb:
            problem = f"{peak.mb():.0f} MB more memory, allowed are {target.limits.memory_mb:g}"
        return Verdict(ticket, "finding" if problem else outcome, made.words, problem or reason, cpu_s, peak.mb())
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _read(target: Target, room: Room, made: Input) -> tuple[Outcome, str]:
    try:
        target.read(room, made)
    except Verse3dError as error:
        return _refusal(error, target)
    except BaseException as error:  # also SystemExit and the like: nothing may end a program from within
        shown = traceback.format_exc()
        return "finding", f"{type(error).__name__}: {str(error)[:300]}\n{shown[-_FROM_TRACEBACK:]}"
    return "right", ""


def _refusal(error: Verse3dError, target: Target) -> tuple[Outcome, str]:
    told = str(error)
    if not isinstance(error, target.refusals):
        return "finding", f"{type(error).__name__} (exit code {error.exit_code}) is not what is expected: {told[:300]}"
    if not error.message.strip():
        return "finding", f"{type(error).__name__} without a message"
    if len(told) > LONGEST_MESSAGE:
        return "finding", f"a message of {len(told)} characters: {told[:300]} ..."
    return "refused", told


def _left_behind(base: Path, room: Room, before: frozenset[str], open_before: int) -> str:
    """What is wrong with the files after an input was read, or ""."""
    new = _files(base) - before
    outputs = str(room.outputs) + os.sep
    if outside := sorted(name for name in new if not name.startswith(outputs)):
        return f"written outside of the output folder: {outside[:5]}"
    if leftovers := sorted(name for name in new if Path(name).name.startswith(".verse3d-")):
        return f"left behind: {leftovers[:5]}"
    if _open_files() > open_before:
        gc.collect()  # an exception keeps its frames, and they their files, until the cycle is found
    if (still := _open_files()) > open_before:
        return f"{still - open_before} files left open"
    return ""


def _files(base: Path) -> frozenset[str]:
    """Every path below, folders too."""
    found = []
    for folder, folders, names in os.walk(base):
        found += [os.path.join(folder, name) for name in (*folders, *names)]  # noqa: PTH118 - thousands of times
    return frozenset(found)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - thousands of times


class _Peak:
    """How far the resident memory of this process rises from now on, as the kernel counts it."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        self._before = self._read("VmRSS")

    def mb(self) -> float:
        return max(0.0, self._read("VmHWM") - self._before)

    @staticmethod
    def _read(name: str) -> float:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) * 1024 / 1e6
