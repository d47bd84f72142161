"""Train one recipe after another with the same budget, score each on scans it has not seen, and print a table.

    python scripts/screen_recipe.py DATA WORK --steps 440
    python scripts/screen_recipe.py DATA WORK --seconds 220 --rows base chest --folds 1 2 --seeds 0 1 2
    python scripts/screen_recipe.py DATA WORK --steps 440 --print

DATA holds verse-mini/ (sub-verse005 to 008), auto-labelled/ (chest_ct) and masks-only/ (VerSe masks without their CT).
A row is ``unet3d-cpu`` without a scout and with one or two changes. A budget is that of a training: ``--steps``
of ``base``, and as many of the others as take the same processor time; or ``--seconds`` of it. What a step takes is
measured first and kept in WORK/pace.json, so measure on the machine that trains. Pretraining takes a third of the
budget. Drawing scans and preparing cases are not counted.

     fold 1   train: 005, 007    score: 006, 008
     fold 2   train: 006, 008    score: 005, 007

The last weights are scored: there is no scan to choose an epoch by. What has been scored before is not trained again.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import verse3d

FOLDS = {1: ("sub-verse006", "sub-verse008"), 2: ("sub-verse005", "sub-verse007")}
"""The subjects that are scored; the other two are learnt from."""
CHEST, RARELY = "chest_ct", "chest_ct-rarely"
DRAWN, PHANTOMS = "drawn", "phantoms"
SYNTHETIC = 9
"""Scans of either kind. Their seeds are those of the starter weights."""
PRETRAINING = 1 / 3
EPOCHS = 10
PACE_STEPS = (10, 40)
"""A training of each length; what the second one takes longer is due to its steps."""
Command = list[str]


@dataclass(frozen=True)
class Row:
    """What is changed."""

    settings: tuple[str, ...] = ()
    also: str = ""
    """Learnt from beside the expert scans: CHEST, then a third of the samples; RARELY, a fifth of them; or DRAWN."""
    first: str = ""
    """Learnt from before them: DRAWN or PHANTOMS."""


ROWS = {
    "base": Row(),
    "spacing-1.25": Row(("grid.spacing_mm=1.25",)),
    "spacing-1.0": Row(("grid.spacing_mm=1.0",)),
    "chest": Row(also=CHEST),
    "chest-rarely": Row(also=RARELY),
    "first-drawn": Row(first=DRAWN),
    "first-phantoms": Row(first=PHANTOMS),
    "also-drawn": Row(also=DRAWN),
    "ignore-cut": Row(("labels.cut_vertebrae=ignore",)),
    "no-margin": Row(("sampling.margin_voxels=0",)),
    "negatives": Row(("sampling.foreground_fraction=0.3",)),
    "thick-slices": Row(("augment.thick_slices=0.3", "augment.low_resolution=0.1")),
    "noise": Row(("augment.noise=0.5", "augment.noise_std=0.05", "augment.gain=0.3")),
    "six-levels": Row(("network.channels=[16,32,64,128,256,256]",)),
    "no-residual-units": Row(("network.residual_units=0",)),
    "no-residual-units-1.25": Row(("network.residual_units=0", "grid.spacing_mm=1.25")),
    "narrow-bottom": Row(("network.channels=[16,32,64,128,128]",)),
    "batch-2": Row(("sampling.batch_size=2",)),
    "large-patches": Row(("sampling.patch_voxels=[80,80,128]", "sampling.batch_size=2")),
    "large-patches-1.25": Row(("grid.spacing_mm=1.25", "sampling.patch_voxels=[80,80,128]", "sampling.batch_size=2")),
}


def main() -> None:
    """Write indexes, measure paces, train, score, tabulate."""
    options = arguments()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    write_indexes(options.data, work)
    steps = {name: budget_of(name, options) for name in options.rows}
    trials = [
        Trial(name, fold, seed, work) for seed in options.seeds for fold in options.folds for name in options.rows
    ]
    for trial in trials:
        for command in trial.commands(steps[trial.name]):
            if options.print:
                print(shlex.join(command))
            elif not trial.scores.exists():
                run(command)
    if not options.print:
        print(table(trials, steps))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, default=[1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int)
    budget.add_argument("--seconds", type=float)
    parser.add_argument("--print", action="store_true", help="only print the commands")
    return parser.parse_args()


def write_indexes(data: Path, work: Path) -> None:
    """Draw the synthetic scans, and list what each row learns from, unless that has been done."""
    if (work / "fold1.jsonl").exists():
        return
    verse3d.phantom(work / DRAWN, masks=[data / "masks-only"], cases=SYNTHETIC, seed=5)
    verse3d.phantom(work / PHANTOMS, cases=SYNTHETIC, seed=77)
    drawn, phantoms = (learnt_from([work / name], work, f"{name}-") for name in (DRAWN, PHANTOMS))
    write(work / f"{DRAWN}.jsonl", drawn)
    write(work / f"{PHANTOMS}.jsonl", phantoms)
    real = learnt_from([data / "verse-mini", data / "auto-labelled"], work, "")
    chest = [case for case in real if case["case"] == CHEST]
    for fold in reversed(FOLDS):  # fold1.jsonl last: it says that all is there
        experts = experts_of(fold, real)
        write(work / f"fold{fold}-{CHEST}.jsonl", [*experts, *chest])
        write(work / f"fold{fold}-{RARELY}.jsonl", [*experts, *again(experts), *chest])
        write(work / f"fold{fold}-{DRAWN}.jsonl", [*experts, *drawn])
        write(work / f"fold{fold}.jsonl", experts)


def experts_of(fold: int, real: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The scans with masks by experts, those of the fold's subjects for scoring only."""
    experts = [case for case in real if any(case["subject"] in subjects for subjects in FOLDS.values())]
    return [{**case, "split": "test" if case["subject"] in FOLDS[fold] else "train"} for case in experts]


def again(cases: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The training cases under other names: every case is drawn equally often, so these are drawn twice as often."""
    return [{**case, "case": f"{case['case']}-again"} for case in cases if case["split"] == "train"]


def learnt_from(folders: Sequence[Path], work: Path, prefix: str) -> list[dict[str, str]]:
    """The cases of some folders, all for training; the prefix keeps drawn scans and phantoms of the same name apart."""
    out = work / f"{prefix or 'real-'}all.jsonl"
    verse3d.index(*folders, out=out)
    cases = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    renamed = ({**case, "case": prefix + case["case"], "subject": prefix + case["subject"]} for case in cases)
    return [{**case, "split": "train"} for case in renamed if case.get("mask") and case.get("image")]


def write(path: Path, cases: Iterable[Mapping[str, str]]) -> None:
    """An index."""
    path.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")


def budget_of(name: str, options: argparse.Namespace) -> int:
    """How many steps of a row are its budget."""
    given: int | None = options.steps
    if given and same_step(name):
        return given
    seconds = given * pace("base", options.work) if given else options.seconds
    return round(seconds / pace(name, options.work))


def same_step(name: str) -> bool:
    """Whether a step takes what it takes in ``base``: neither network, nor patches, nor augmentation differ."""
    changed = ("network.", "sampling.batch_size", "sampling.patch_voxels", "augment.")
    return not any(setting.startswith(changed) for setting in ROWS[name].settings)


def pace(name: str, work: Path) -> float:
    """Processor time of a step in s, as measured on this machine the first time it was asked for."""
    name = "base" if same_step(name) else name
    kept = work / "pace.json"
    paces: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if name not in paces:
        few, many = PACE_STEPS
        trial = Trial(name, 1, 0, work)
        # The first training also prepares the cases, so it is none of the two that are compared.
        _, short, long = (timed(trial.training("fold1", steps, "pace")) for steps in (few, few, many))
        paces[name] = (long - short) / (many - few)
        kept.write_text(json.dumps(paces, indent=1), encoding="utf-8")
    return paces[name]


def timed(command: Command) -> float:
    """Run it; its processor time in s, that of its workers included."""
    before = os.times()
    run(command)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@dataclass(frozen=True)
class Trial:
    """A row, trained once and scored on the subjects of a fold."""

    name: str
    fold: int
    seed: int
    work: Path

    @property
    def run_name(self) -> str:
        """Of the run folder, the folder of masks and the scores."""
        return f"{self.name}-fold{self.fold}-seed{self.seed}"

    @property
    def scores(self) -> Path:
        """Where the scores are, when they are."""
        return self.work / "scores" / f"{self.run_name}.json"

    def commands(self, steps: int) -> list[Command]:
        """Train (twice, if the row begins with synthetic scans), predict, score."""
        return [*self.trainings(steps), *self.scoring()]

    def trainings(self, steps: int) -> list[Command]:
        """One, or one on synthetic scans and one from its weights."""
        row = ROWS[self.name]
        data = f"fold{self.fold}-{row.also}" if row.also else f"fold{self.fold}"
        if not row.first:
            return [self.training(data, steps, self.run_name)]
        # |<- a third ->|<------ the rest ------>|   each with its own warm-up and fall of the rate
        before, first = round(steps * PRETRAINING / EPOCHS) * EPOCHS, f"{self.run_name}-first"
        then = self.training(data, steps - before, self.run_name)
        return [self.training(row.first, before, first), [*then, "--from", str(self.work / "runs" / first)]]

    def training(self, data: str, steps: int, run_name: str) -> Command:
        """A training of ``base`` with the row's changes, for so many steps, rounded down to whole epochs."""
        settings = (
            "scout.enabled=false",
            f"runtime.seed={self.seed}",
            f"optim.epochs={EPOCHS}",
            f"optim.steps_per_epoch={steps // EPOCHS}",
            *ROWS[self.name].settings,
        )
        changes = [word for setting in settings for word in ("--set", setting)]
        index, out, store = self.work / f"{data}.jsonl", self.work / "runs" / run_name, self.work / "store"
        places = ["--data", str(index), "--out", str(out), "--store", str(store)]
        return program("train", "--mode", "3d", "--config", "unet3d-cpu", *places, *changes, "--overwrite")

    def scoring(self) -> list[Command]:
        """Masks of the fold's subjects on their own grids, and what they are worth."""
        index, masks = str(self.work / f"fold{self.fold}.jsonl"), str(self.work / "masks" / self.run_name)
        model = str(self.work / "runs" / self.run_name / "best.pt")
        return [
            program("predict", index, "--split", "test", "--model", model, "--out", masks, "--overwrite"),
            program("evaluate", "--pred", masks, "--truth", index, "--split", "test", "--out", str(self.scores)),
        ]


def program(*words: str) -> Command:
    """A call of verse3d; the environment variable VERSE3D may name another program."""
    return [*shlex.split(os.environ.get("VERSE3D", "verse3d")), *words]


def run(command: Command) -> None:
    """Run it, quietly; what it says is shown if it fails, and then this is the end."""
    print(shlex.join(command), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)


def table(trials: Sequence[Trial], steps: Mapping[str, int]) -> str:
    """Dice (HD95) of every scan, means over seeds; the mean of all scans, and how far seeds differ in it."""
    folds = sorted({trial.fold for trial in trials})
    subjects = [subject for fold in folds for subject in FOLDS[fold]]
    lines = [
        f"| row | steps | {' | '.join(subjects)} | mean | sd over seeds |",
        "|---" * (len(subjects) + 4) + "|",
    ]
    for name in dict.fromkeys(trial.name for trial in trials):
        scored = [(trial.seed, scores_of(trial.scores)) for trial in trials if trial.name == name]
        cells = [
            f"{mean(scores[subject].dice for _, scores in scored if subject in scores):.3f}"
            f" ({mean(scores[subject].hd95_mm for _, scores in scored if subject in scores):.1f})"
            for subject in subjects
        ]
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
