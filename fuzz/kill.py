"""``make kill``: trainings and predictions that are killed at random moments, and what they leave behind.

A job is started again and again, each time killed (SIGKILL) somewhere between its first and its last moment, until it
ends by itself; then the next round begins in an empty folder. After every kill each file that has its final name must
be whole, and what was finished must still be there; after the last call everything must be as if nobody had killed it:

    start -- kill -- look -- start again -- kill -- look -- ... -- done -- compare with the undisturbed run

Every other kill waits until the job has come further than where it was started, on however slow a machine: the others
meet it at any moment of its life, and most of a short job is its beginning.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded

import nibabel as nib
import numpy as np
import torch

import verse3d
from fuzz import scans
from verse3d.cli import main as command_line
from verse3d.core.errors import Verse3dError
from verse3d.data.cases import Case, CaseIndex, Split, read_index, write_index
from verse3d.data.predictions import mask_path
from verse3d.model.checkpoint import load_checkpoint
from verse3d.training.runfolder import read_history

_MOST_STARTS = 200
"""In one round: a job that never gets further, however often it is started, has lost what it had done."""


@dataclass(frozen=True)
class Job:
    """What is killed.

    Attributes:
        name: "train" or "predict".
        start: the arguments of the command that begins or goes on in a folder.
        look: complains about a folder after a kill; returns how far the job has come.
        compare: complains if a finished folder differs from the undisturbed one.
    """

    name: str
    start: Callable[[Path], list[str]]
    look: Callable[[Path], int]
    compare: Callable[[Path, Path], None]


@dataclass(frozen=True)
class Kill:
    """When a job is killed: so long after its start or, ``at_work``, after something new was finished."""

    after_s: float
    at_work: bool


@dataclass
class Outcome:
    """What came of a job: how often it was killed, in how many rounds, and what was wrong."""

    kills: int = 0
    rounds: int = 0
    at_work: int = 0
    """Kills after which the job had come further than when it was started."""
    problems: tuple[str, ...] = ()


class BrokenError(Exception):
    """Something is not as it should be after a kill."""


def _require(right: bool, otherwise: str) -> None:
    if not right:
        raise BrokenError(otherwise)


def training(data: Path) -> Job:
    """A training of a few epochs on two tiny scans, repeatable to the last bit."""
    config = data / "config.yaml"
    settings = scans.tiny_config()
    runtime = settings.runtime.model_copy(update={"deterministic": True, "save_minutes": 0.0})
    config.write_text(settings.model_copy(update={"runtime": runtime}).to_yaml())
    arguments = ["-q", "train", "--data", str(data / "cases.jsonl"), "--device", "cpu"]

    def start(out: Path) -> list[str]:
        going_on = ["--resume"] if (out / "last.pt").exists() else ["--config", str(config)]
        return [*arguments, "--out", str(out), *going_on]

    return Job("train", start, _look_at_run, _compare_runs)


def _look_at_run(out: Path) -> int:
    """Steps done, which are saved one by one; every file that is there can be read."""
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            load_checkpoint(out / name)
    if (out / "cases.jsonl").exists():
        read_index(out / "cases.jsonl")
    if (out / "history.csv").exists():
        read_history(out / "history.csv")
    if not (out / "last.pt").exists():
        return 0
    return int(load_checkpoint(out / "last.pt").training["standing"]["step"])


def _compare_runs(out: Path, undisturbed: Path) -> None:
    for name in ("last.pt", "best.pt"):
        found, right = load_checkpoint(out / name), load_checkpoint(undisturbed / name)
        different = [key for key, weight in right.network.items() if not torch.equal(weight, found.network[key])]
        _require(not different, f"{name}: other weights in {different[:3]}")
        _require(found.epoch == right.epoch, f"{name}: epoch {found.epoch} instead of {right.epoch}")
    columns = ("epoch", "step", "train_loss", "validation_dice")
    found_rows, right_rows = (
        [[row[column] for column in columns] for row in read_history(folder / "history.csv")]
        for folder in (out, undisturbed)
    )
    _require(np.array_equal(found_rows, right_rows, equal_nan=True), "history.csv differs")
    _require_no_leftovers(out)


def predicting(data: Path) -> Job:
    """A prediction of a folder of scans."""
    names = [case.case for case in read_index(data / "cases.jsonl")]
    scans.write_model(data / "best.pt", scans.tiny_config())
    arguments = ["-q", "predict", str(data / "cases.jsonl"), "--model", str(data / "best.pt"), "--device", "cpu"]

    def start(out: Path) -> list[str]:
        return [*arguments, "--backend", "torch", "--out", str(out), "--max-ram-gb", "4"]

    def look(out: Path) -> int:
        """Masks done; each is whole."""
        there = [mask_path(out, name) for name in names if mask_path(out, name).exists()]
        for path in there:
            np.asanyarray(nib.load(path).dataobj)
        if (out / "predictions.json").exists():
            json.loads((out / "predictions.json").read_text())
        return len(there)

    def compare(out: Path, undisturbed: Path) -> None:
        for name in names:
            same = mask_path(out, name).read_bytes() == mask_path(undisturbed, name).read_bytes()
            _require(same, f"another mask of {name}")
        listed = json.loads((out / "predictions.json").read_text())["cases"]
        recorded = sorted(record["case"] for record in listed)
        _require(recorded == sorted(names), f"{len(recorded)} records of {len(names)} scans")
        _require_no_leftovers(out)

    return Job("predict", start, look, compare)


def _require_no_leftovers(folder: Path) -> None:
    left = [path.name for path in folder.rglob(".verse3d-*")]
    _require(not left, f"left behind: {left}")


def write_cases(folder: Path, count: int) -> None:
    """So many scans with masks and an index of them; two train, one validates, the others are for testing."""
    splits: tuple[Split, ...] = ("train", "train", "validation")
    cases = []
    for number in range(count):
        name = f"case{number}"
        ct, mask = scans.write_scan(folder, name, number)
        cases.append(Case(name, name, ct, mask, split=splits[number] if number < len(splits) else "test"))
    write_index(folder / "cases.jsonl", CaseIndex(tuple(cases)))


def run(job: Job, kills: int, seed: int, folder: Path) -> Outcome:
    """Kill a job so often, and compare it with an undisturbed run whenever it ends by itself."""
    folder.mkdir(parents=True)
    draw, outcome = random.Random(f"{job.name} {seed}"), Outcome()
    began = time.monotonic()
    if _call(job, folder / "undisturbed") != 0:
        return Outcome(problems=("the undisturbed run fails: " + (folder / "undisturbed.log").read_text()[-500:],))
    longest = time.monotonic() - began
    while outcome.kills < kills and not outcome.problems:
        out = folder / f"round{outcome.rounds}"
        try:
            for _ in range(_MOST_STARTS):
                if _start_and_look(job, out, _next_kill(draw, longest, kills, outcome), outcome):
                    break
            job.compare(out, folder / "undisturbed")
        except (BrokenError, Verse3dError, OSError, ValueError, KeyError) as error:
            outcome.problems += (f"round {outcome.rounds}, kill {outcome.kills}: {error!r}",)
        outcome.rounds += 1
        shutil.rmtree(out, ignore_errors=True)
    return outcome


def _next_kill(draw: random.Random, longest_s: float, kills: int, outcome: Outcome) -> Kill | None:
    """When the job is killed next; None if it has been killed often enough."""
    if outcome.kills >= kills:
        return None
    at_work = outcome.kills % 2 == 1
    return Kill(draw.uniform(0, longest_s / 10 if at_work else longest_s), at_work)


def _start_and_look(job: Job, out: Path, kill: Kill | None, outcome: Outcome) -> bool:
    """Start the job once; whether it ended by itself. Raises ``BrokenError`` if anything is wrong with the folder."""
    before = job.look(out)
    code = _call(job, out, kill)
    now = job.look(out)
    _require(now >= before, f"{before} were done before the kill, {now} are after it")
    if code is None:
        outcome.kills += 1
        outcome.at_work += now > before
        return False
    _require(code == 0, f"exit code {code}: {out.with_suffix('.log').read_text()[-500:]}")
    return True


def _call(job: Job, out: Path, kill: Kill | None = None) -> int | None:
    """The exit code of the command, or None if it was killed.

    It is forked from here, where the libraries are loaded, so that every kill hits the work itself.
    """
    arguments, before = job.start(out), job.look(out)
    child = os.fork()
    if child == 0:
        _be_the_command(arguments, out.with_suffix(".log"))
    code = None
    # A look takes a while and reads what the job may replace meanwhile, which is a test of its own.
    while kill is not None and kill.at_work and code is None and job.look(out) == before:
        code = _ended_within(child, 0.1)
    if code is None:
        code = _ended_within(child, kill.after_s if kill else 3600)
    if code is not None:
        return code
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL else code


def _ended_within(child: int, seconds: float) -> int | None:
    """The exit code of a process that ends by itself within that time, else None."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def _be_the_command(arguments: list[str], log: Path) -> None:
    """Run the command in this (forked) process, and end it."""
    code = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        torch.set_num_threads(1)
        code = command_line(arguments)
    finally:
        os._exit(code)


def main() -> int:
    """Exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.kill", description="Kill jobs at random moments.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100, help="of each job")
    parser.add_argument("--scans", type=int, default=12)
    options = parser.parse_args()
    verse3d.__version__  # noqa: B018 - loads what every child needs
    failed = False
    with TemporaryDirectory(prefix="kill-") as folder:
        data = Path(folder) / "data"
        write_cases(data, options.scans)
        for job in (training(data), predicting(data)):
            began = time.monotonic()
            outcome = run(job, options.kills, options.seed, Path(folder) / job.name)
            took = f"{time.monotonic() - began:.0f} s"
            print(f"{job.name}: {outcome.kills} kills in {outcome.rounds} rounds, {outcome.at_work} of them after")
            print(f"  something new was finished; {len(outcome.problems)} problems; {took}")
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
            failed |= bool(outcome.problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
