"""Train one recipe after another with the same budget, score each on scans it has not seen, and print a table.

    python scripts/screen_recipe.py DATA WORK --steps 440
    python scripts/screen_recipe.py DATA WORK --seconds 220 --rows base chest --folds 1 2 --seeds 0 1 2
    python scripts/screen_recipe.py DATA WORK --steps 440 --print
    python scripts/screen_recipe.py DATA WORK --config unet3d --device cuda --steps 900 --jobs 4 --workers 3 \
        --rows base spacing-1.5 spacing-1.5+dice-ce --folds sub-verse005 sub-verse006 sub-verse007 sub-verse008

DATA holds verse-mini/ (sub-verse005 to 008), auto-labelled/ (chest_ct) and masks-only/ (VerSe masks without their CT).
A row is the config without a scout and with one or two changes; rows are joined by ``+``. A budget is that of a
training: ``--steps`` of ``base``, and as many of the others as take the same time; or ``--seconds`` of it. What a step
takes is measured first and kept in WORK/pace.json, so measure on the machine that trains: processor time on a CPU, on a
GPU the time of a step by itself, without augmentation. Another config, device or budget wants another WORK.
Pretraining takes a third of the budget. Drawing scans and preparing cases are not counted.

     fold 1             train: 005, 007         score: 006, 008
     fold 2             train: 006, 008         score: 005, 007
     fold sub-verse005  train: 006, 007, 008    score: 005            and so for each of the others

The last weights are scored: there is no scan to choose an epoch by. What has been scored before is not trained again.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from recipe_pace import Command, Paces, on_gpu, slope
from recipe_rows import BASE, Row, row_of, rows_of, step_of
from recipe_scans import FOLDS, write_indexes

from verse3d.core.config import load_config

PRETRAINING = 1 / 3
EPOCHS = 10


def main() -> None:
    """Write indexes, measure paces, train, score, tabulate."""
    options = arguments()
    screening = Screening(options.config, options.work, options.device, options.workers)
    options.work.mkdir(parents=True, exist_ok=True)
    screening.require_same(options.steps, options.seconds)
    write_indexes(options.data, options.work)
    names = options.rows or list(rows_of(options.config))
    steps = {name: screening.budget_of(name, options.steps, options.seconds) for name in names}
    trials = [Trial(name, fold, seed, screening) for seed in options.seeds for fold in options.folds for name in names]
    if options.print:
        print("\n".join(shlex.join(command) for trial in trials for command in trial.commands(steps[trial.name])))
        return
    with ThreadPoolExecutor(options.jobs) as jobs:
        failures = [failure for failure in jobs.map(lambda trial: trial.failure(steps[trial.name]), trials) if failure]
    print(table([trial for trial in trials if trial.scores.exists()], steps))
    if failures:
        sys.exit("\n".join(failures))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--config", default="unet3d-cpu", help="which base is")
    parser.add_argument("--rows", nargs="+", help="all that the config has by default")
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=["1"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int)
    budget.add_argument("--seconds", type=float)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--workers", default="auto", help="processes that read patches, of each training")
    parser.add_argument("--print", action="store_true", help="only print the commands")
    return parser.parse_args()


@dataclass(frozen=True)
class Screening:
    """What all trials have in common."""

    config: str
    work: Path
    device: str = "cpu"
    workers: str = "auto"

    def require_same(self, steps: int | None, seconds: float | None) -> None:
        """Note what is in the folder; exit if it holds scores of something else, which must not stand beside these."""
        about = {"config": self.config, "device": self.device, "steps": steps, "seconds": seconds}
        note = self.work / "screening.json"
        if note.exists():
            before = json.loads(note.read_text(encoding="utf-8"))
        else:
            before = "an older screening" if (self.work / "fold1.jsonl").exists() else about
        if before != about:
            sys.exit(f"{self.work} is for {before}, not {about}: name another folder")
        note.write_text(json.dumps(about), encoding="utf-8")

    def budget_of(self, name: str, steps: int | None, seconds: float | None) -> int:
        """How many steps of a row are its budget: ``steps`` of ``base``, or ``seconds``."""
        if steps is not None and self.same_step(name):
            return steps
        wanted = seconds if seconds is not None else (steps or 0) * self.pace(BASE)
        return round(wanted / self.pace(name))

    def same_step(self, name: str) -> bool:
        """Whether a step takes what it takes in ``base``: network, loss, patches and augmentation are the same."""
        changes, base = row_of(name, self.config), Row()
        # On a GPU augmentation is not in the pace: it runs beside the step, in a stream of its own.
        of = partial(step_of, config=self.config, augmented=self.device == "cpu")
        return of(changes) == of(base)

    def pace(self, name: str) -> float:
        """What a step takes in s, as measured on this machine the first time it was asked for."""
        name = BASE if self.same_step(name) else name
        return Paces(self.work / "pace.json").of(name, lambda: self.measured(name))

    def measured(self, name: str) -> float:
        """The same, measured now."""
        if self.device == "cuda":
            row = row_of(name, self.config)
            return on_gpu(row.config or self.config, row.settings)
        trial = Trial(name, "1", 0, self)
        return slope(lambda steps: trial.training("fold1", steps, "pace"))


@dataclass(frozen=True)
class Trial:
    """A row, trained once and scored on the subjects of a fold."""

    name: str
    fold: str
    seed: int
    of: Screening

    @property
    def run_name(self) -> str:
        """Of the run folder, the folder of masks and the scores."""
        return f"{self.name}-fold{self.fold}-seed{self.seed}"

    @property
    def scores(self) -> Path:
        """Where the scores are, when they are."""
        return self.of.work / "scores" / f"{self.run_name}.json"

    def failure(self, steps: int) -> str:
        """Do all of it, unless that has been done; what a command said that failed, or ""."""
        if self.scores.exists():
            return ""
        for command in self.commands(steps):
            print(shlex.join(command), flush=True)
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode:
                return f"{self.run_name} failed:\n{done.stdout}"
        return ""

    def commands(self, steps: int) -> list[Command]:
        """Train (twice, if the row begins with synthetic scans), predict, score."""
        return [*self.trainings(steps), *self.scoring()]

    def trainings(self, steps: int) -> list[Command]:
        """One, or one on synthetic scans and one from its weights."""
        row = row_of(self.name, self.of.config)
        data = f"fold{self.fold}-{row.also}" if row.also else f"fold{self.fold}"
        if not row.first:
            return [self.training(data, steps, self.run_name)]
        # |<- a third ->|<------ the rest ------>|   each with its own warm-up and fall of the rate
        before, first = round(steps * PRETRAINING / EPOCHS) * EPOCHS, f"{self.run_name}-first"
        then = self.training(data, steps - before, self.run_name)
        return [self.training(row.first, before, first), [*then, "--from", str(self.of.work / "runs" / first)]]

    def training(self, data: str, steps: int, run_name: str) -> Command:
        """A training of ``base`` with the row's changes, for so many steps, rounded down to whole epochs."""
        row = row_of(self.name, self.of.config)
        config = row.config or self.of.config
        settings = (
            "scout.enabled=false",
            f"runtime.seed={self.seed}",
            f"runtime.workers={self.of.workers}",
            f"optim.epochs={EPOCHS}",
            f"optim.steps_per_epoch={steps // EPOCHS}",
            *row.settings,
        )
        changes = [word for setting in settings for word in ("--set", setting)]
        work = self.of.work
        places = ["--data", str(work / f"{data}.jsonl"), "--out", str(work / "runs" / run_name)]
        places += ["--store", str(work / "store"), "--device", self.of.device]
        method = ["--mode", load_config(config).mode, "--config", config]
        return program("train", *method, *places, *changes, "--overwrite")

    def scoring(self) -> list[Command]:
        """Masks of the fold's subjects on their own grids, and what they are worth."""
        work = self.of.work
        index, masks = str(work / f"fold{self.fold}.jsonl"), str(work / "masks" / self.run_name)
        model = ["--model", str(work / "runs" / self.run_name / "best.pt"), "--device", self.of.device]
        return [
            program("predict", index, "--split", "test", *model, "--out", masks, "--overwrite"),
            program("evaluate", "--pred", masks, "--truth", index, "--split", "test", "--out", str(self.scores)),
        ]


def program(*words: str) -> Command:
    """A call of verse3d; the environment variable VERSE3D may name another program."""
    return [*shlex.split(os.environ.get("VERSE3D", "verse3d")), *words]


def table(trials: Sequence[Trial], steps: Mapping[str, int]) -> str:
    """Dice (HD95) of every scan, means over seeds; the mean of all scans, and how far seeds differ in it."""
    subjects = list(dict.fromkeys(subject for trial in trials for subject in FOLDS[trial.fold]))
    lines = [
        f"| row | steps | {' | '.join(subjects)} | mean | sd over seeds |",
        "|---" * (len(subjects) + 4) + "|",
    ]
    for name in dict.fromkeys(trial.name for trial in trials):
        scored = [(trial.seed, scores_of(trial.scores)) for trial in trials if trial.name == name]
        cells = [cell([scores[subject] for _, scores in scored if subject in scores]) for subject in subjects]
        means = means_by_seed(scored)
        spread = f"{stdev(means):.3f}" if len(means) > 1 else ""
        lines.append(f"| {name} | {steps[name]} | {' | '.join(cells)} | {mean(means):.3f} | {spread} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Score:
    """Of a mask."""

    dice: float
    hd95_mm: float
    """NaN where the mask is empty."""


def cell(scores: Sequence[Score]) -> str:
    """The means of one scan's scores; nothing where it was not scored."""
    if not scores:
        return ""
    return f"{mean(score.dice for score in scores):.3f} ({mean(score.hd95_mm for score in scores):.1f})"


def scores_of(path: Path) -> dict[str, Score]:
    """The scores of every case."""
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    labels = {case["case"]: case["labels"]["vertebrae"] for case in cases}
    return {
        case: Score(label["dice"], math.nan if label["hd95_mm"] is None else label["hd95_mm"])
        for case, label in labels.items()
    }


def means_by_seed(scored: Sequence[tuple[int, Mapping[str, Score]]]) -> list[float]:
    """The mean Dice of all scans of all folds, for each seed."""
    by_seed: dict[int, list[float]] = {}
    for seed, scores in scored:
        by_seed.setdefault(seed, []).extend(score.dice for score in scores.values())
    return [mean(dice) for dice in by_seed.values()]


if __name__ == "__main__":
    main()
