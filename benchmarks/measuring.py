"""Used by the benchmarks of prediction: run a program and take its time and memory, compare masks, write tables.

Every measured program writes a JSON note of its own: ``{"seconds": from its imports to its file, "peak_rss_mb": ...}``.
Memory is in MB and GB of 10^6 and 10^9 bytes.
"""

import contextlib
import fcntl
import json
import math
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_SECONDS = 0.05
NO_MEMORY = ("MemoryError", "can't allocate memory", "Unable to allocate", "not enough memory")
"""What Python, NumPy and PyTorch say when the system refuses memory."""


def medians_in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of two jobs, after one call that is not counted; in turn, so that other load meets both alike."""
    ours()
    theirs()
    turns = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats)]
    return statistics.median(turn[0] for turn in turns), statistics.median(turn[1] for turn in turns)


def _seconds(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


@contextlib.contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Make the folder and keep other benchmarks out of it: they would share its masks, and time each other."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemExit(f"another benchmark is at work in {work}: wait for it, or give another --work") from error
        yield


@dataclass(frozen=True)
class Outcome:
    """What one run of a program took.

    Attributes:
        seconds: from the end of its imports until its file is written; NaN if it did not get there.
        wall_seconds: of the whole process, imports and all.
        peak_mb: largest resident memory of the process, or of it and those it started if they were larger together.
        trouble: empty, or why there is no result.
    """

    seconds: float
    wall_seconds: float
    peak_mb: float
    trouble: str = ""


def run_program(command: Sequence[str], note: Path, *, limit_gb: float | None = None) -> Outcome:
    """Run a program to its end; it is stopped when it and what it started hold more than ``limit_gb``."""
    note.unlink(missing_ok=True)
    log = note.with_suffix(".log")
    start = time.perf_counter()
    with log.open("wb") as handle:
        process = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            peak_mb = _peak_until_end(process, math.inf if limit_gb is None else limit_gb * 1e3)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what the program may have left behind
            process.wait()
    wall_seconds = time.perf_counter() - start
    told = json.loads(note.read_text()) if note.is_file() else {}
    peak_mb = max(peak_mb, told.get("peak_rss_mb", 0.0))
    trouble = _trouble(process.returncode, log.read_text(errors="replace"), peak_mb, limit_gb)
    trouble = trouble or ("" if "seconds" in told else "it left no note of its time")
    return Outcome(math.nan if trouble else told.get("seconds", math.nan), wall_seconds, peak_mb, trouble)


def _trouble(code: int, said: str, peak_mb: float, limit_gb: float | None) -> str:
    if code == 0:
        return ""
    if limit_gb is not None and peak_mb > limit_gb * 1e3:
        return f"does not fit in {limit_gb:.1f} GB"
    if code == -signal.SIGKILL:
        return "does not fit: killed by the system"
    if any(words in said for words in NO_MEMORY):
        return "does not fit: the system refused memory"
    return f"failed with exit code {code}: {' | '.join(said.strip().splitlines()[-3:])}"


def _peak_until_end(process: "subprocess.Popen[bytes]", limit_mb: float) -> float:
    peak_mb = 0.0
    while process.poll() is None:
        peak_mb = max(peak_mb, peak_of_tree_mb(process.pid))
        if peak_mb > limit_mb:
            break
        time.sleep(SAMPLE_SECONDS)
    return peak_mb


def peak_of_tree_mb(pid: int) -> float:
    """Resident MB of a process and all that it started, or the peak that the kernel noted of the one, if larger.

    Mapped files and shared memory are counted once, where they are largest: the true sum may be a little higher.
    """
    rows = [_status(one) for one in _tree(pid)]
    if not rows or not rows[0]:
        return 0.0
    together = sum(row.get("RssAnon", 0.0) for row in rows)
    together += sum(max(row.get(name, 0.0) for row in rows) for name in ("RssFile", "RssShmem"))
    return max(rows[0].get("VmHWM", 0.0), together)


def _tree(pid: int) -> Iterable[int]:
    yield pid
    with contextlib.suppress(OSError):
        for children in sorted(Path(f"/proc/{pid}/task").glob("*/children")):
            with contextlib.suppress(OSError):
                for child in children.read_text().split():
                    yield from _tree(int(child))


def _status(pid: int) -> dict[str, float]:
    """The memory rows of /proc/<pid>/status in MB; none if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: float(line.split()[1]) * 1024 / 1e6 for line in lines if line.endswith(" kB")}


def alternate(jobs: Mapping[str, Callable[[], Outcome]], runs: int) -> dict[str, list[Outcome]]:
    """Run all jobs in turn, ``runs`` times, so that other load on the machine meets all alike; one line for each.

    A job that came to no result is not tried again.
    """
    outcomes: dict[str, list[Outcome]] = {name: [] for name in jobs}
    for number in range(runs):
        for name, job in jobs.items():
            if any(outcome.trouble for outcome in outcomes[name]):
                continue
            outcomes[name].append(job())
            print(f"  run {number + 1} of {runs}: {name:14} {described(outcomes[name][-1])}", flush=True)
    return outcomes


def described(outcome: Outcome) -> str:
    """One outcome in words."""
    if outcome.trouble:
        return f"{outcome.trouble} (after {outcome.wall_seconds:.1f} s, peak {outcome.peak_mb / 1e3:.2f} GB)"
    return (
        f"{outcome.seconds:8.2f} s   whole process {outcome.wall_seconds:8.2f} s   peak {outcome.peak_mb / 1e3:.2f} GB"
    )


def median(outcomes: Sequence[Outcome]) -> Outcome:
    """The median of every figure; the first trouble, if there is any."""
    return Outcome(
        statistics.median(outcome.seconds for outcome in outcomes),
        statistics.median(outcome.wall_seconds for outcome in outcomes),
        statistics.median(outcome.peak_mb for outcome in outcomes),
        next((outcome.trouble for outcome in outcomes if outcome.trouble), ""),
    )


@dataclass(frozen=True)
class Agreement:
    """How alike two masks of one grid are.

    Attributes:
        dice: of every label that either mask holds.
        pooled: Dice of all labels together; large ones count more, and a voxel counts as shared if its label is.
        different: voxels that differ.
        voxels: of a mask.
    """

    dice: dict[int, float]
    pooled: float
    different: int
    voxels: int

    def __str__(self) -> str:
        if not self.dice:
            return "both masks are empty: nothing was compared"
        values = list(self.dice.values())
        worst = min(self.dice, key=lambda label: self.dice[label])
        return (
            f"Dice mean {statistics.mean(values):.5f}, smallest {min(values):.5f} (label {worst}), "
            f"of all {len(values)} together {self.pooled:.5f}; {self.different} of {self.voxels} voxels differ"
        )


def agreement(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Agreement:
    """Compare two label maps of the same shape; ids below 32."""
    table = np.zeros((32, 32), np.int64)
    for one, other in zip(first, second, strict=True):  # plane by plane, because counting widens to 64 bit
        pairs = one.astype(np.int64).ravel() * 32 + other.ravel()
        table += np.bincount(pairs, minlength=32 * 32).reshape(32, 32)
    sizes, both = table.sum(axis=0) + table.sum(axis=1), np.diag(table)
    dice = {label: float(2 * both[label] / sizes[label]) for label in range(1, 32) if sizes[label]}
    pooled = float(2 * both[1:].sum() / sizes[1:].sum()) if dice else math.nan
    return Agreement(dice, pooled, int(table.sum() - both.sum()), int(table.sum()))


def ratio(theirs: float, ours: float) -> str:
    """How many times faster or smaller ours is; a dash where one of them is missing."""
    value = theirs / ours
    return f"{value:.2f}" if math.isfinite(value) else "-"


def machine() -> str:
    """The processor and how many of its threads this process may use."""
    model = "unknown processor"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {len(os.sched_getaffinity(0))} threads to use"


def record_of(folder: Path) -> dict[str, Any]:
    """What verse3d's ``predictions.json`` says of the only scan in a folder of masks."""
    content = json.loads((folder / "predictions.json").read_text())
    record: dict[str, Any] = content["cases"][0]
    return record
