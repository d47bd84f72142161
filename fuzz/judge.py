"""What a worker does: make an input, let it be read, and look at what came of it and what was left behind."""

import contextlib
import ctypes
import gc
import logging
import os
import resource
import shutil
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.target import Input, Room, Target
from fuzz.ticket import PAST, Outcome, Ticket, Verdict
from verse3d.core.errors import Verse3dError

LONGEST_MESSAGE = 6000
"""Characters of an error: a few dozen problems of a file may be listed, but never the file itself."""
_MOST_ADDRESSES = 16 * 2**30
_LARGEST_FILE = 2**30
_FROM_TRACEBACK = 2500


def serve(pipe: Connection, kinds: Mapping[str, type[Target]], base: Path) -> None:
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
    number = ticket.what if ticket.seed != PAST else f"past{zlib.crc32(ticket.what.encode())}"
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
