"""How much the background's logit of the starter weights is lowered, and what that gives on subjects left out.

    python scripts/lower_background.py DATA/verse-mini WORK/starter-sub-verse005 ... --work WORK

A small network that is trained for minutes is unsure about the rim of a bone, and says background where it is unsure:
its masks are too small. Subtracting one number from the background's bias makes them larger; nothing is learnt anew.
Each folder given holds a ``best.pt`` that has not seen the subject in the folder's name. Every one predicts its subject
with every number of ``STEPS``. For each subject the number is the one with the best mean Dice on the *others*, so its
score is not one that was chosen by itself; the last line of output, JSON, has these scores and the number by all of
them.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean

import verse3d
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
ALIKE = 0.001
"""Numbers whose mean Dice differs by no more are equally good; then the smallest is taken."""
PREFIX = "starter-"


def main() -> None:
    """Predict with every number, choose, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the scans and masks of the subjects")
    parser.add_argument("models", type=Path, nargs="+", help="folders named starter-SUBJECT, each with a best.pt")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and masks")
    options = parser.parse_args()
    dice: dict[str, dict[float, float]] = {}
    for folder in options.models:
        subject = folder.name.removeprefix(PREFIX)
        dice[subject] = {
            step: dice_of(folder / "best.pt", step, subject, options.data, options.work / "background")
            for step in STEPS
        }
        print(subject, *(f"{step:g}: {score:.4f}" for step, score in dice[subject].items()), sep="  ")
    chosen = {subject: best_step({name: row for name, row in dice.items() if name != subject}) for subject in dice}
    left_out = {subject: dice[subject][step] for subject, step in chosen.items()}
    result = {
        "lower_by": best_step(dice),
        "chosen_by_the_others": chosen,
        "dice": {subject: round(score, 4) for subject, score in left_out.items()},
        "mean": round(mean(left_out.values()), 4),
        "mean_as_trained": round(mean(row[0.0] for row in dice.values()), 4),
    }
    print(json.dumps(result))


def best_step(dice: Mapping[str, Mapping[float, float]]) -> float:
    """The smallest number whose mean Dice over subjects is about the best one."""
    means = {step: mean(row[step] for row in dice.values()) for step in STEPS}
    return min(step for step in STEPS if means[step] >= max(means.values()) - ALIKE)


def dice_of(model: Path, by: float, subject: str, data: Path, work: Path) -> float:
    """Dice of all vertebrae together on one subject, on the scan's own grid, with the background lowered."""
    name = f"{subject}-{by:g}"
    work.mkdir(parents=True, exist_ok=True)
    save_checkpoint(work / f"{name}.pt", lowered(load_checkpoint(model), by))
    (scan,) = data.rglob(f"{subject}_ct.nii.gz")
    verse3d.predict(scan, model=work / f"{name}.pt", out=work / name, overwrite=True)
    (scores,) = verse3d.evaluate(pred=work / name, truth=data, out=work / f"{name}.json", scheme="binary").cases
    return float(next(iter(scores.labels.values())).dice)


def lowered(checkpoint: Checkpoint, by: float) -> Checkpoint:
    """The same weights with ``by`` subtracted from the background's bias, the first of the last layer."""
    name = [key for key in checkpoint.network if key.endswith("bias")][-1]
    bias = checkpoint.network[name].clone()
    if len(bias) < 2:
        raise SystemExit(f"{name} has {len(bias)} channel: a network with a channel for the background is needed")
    bias[0] -= by
    return replace(checkpoint, network={**checkpoint.network, name: bias}, training={})


if __name__ == "__main__":
    main()
