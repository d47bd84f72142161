"""Which scans the recipes of ``screen_recipe.py`` learn from, and which they are scored on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recipe_rows import CHEST, DRAWN, PHANTOMS, RARELY

import verse3d

SUBJECTS = ("sub-verse005", "sub-verse006", "sub-verse007", "sub-verse008")
FOLDS = {
    "1": ("sub-verse006", "sub-verse008"),
    "2": ("sub-verse005", "sub-verse007"),
    **{subject: (subject,) for subject in SUBJECTS},
}
"""The subjects that are scored; the others are learnt from."""
SYNTHETIC = 9
"""Scans of either kind. Their seeds are those of the starter weights."""


def write_indexes(data: Path, work: Path) -> None:
    """Draw the synthetic scans, and list what each row learns from, unless that has been done."""
    if (work / "fold1.jsonl").exists():
        return
    verse3d.phantom(work / DRAWN, masks=[data / "masks-only"], cases=SYNTHETIC, seed=5, workers=None)
    verse3d.phantom(work / PHANTOMS, cases=SYNTHETIC, seed=77, workers=None)
    drawn, phantoms = (learnt_from([work / name], work, f"{name}-") for name in (DRAWN, PHANTOMS))
    write(work / f"{DRAWN}.jsonl", drawn)
    write(work / f"{PHANTOMS}.jsonl", phantoms)
    real = learnt_from([data / "verse-mini", data / "auto-labelled"], work, "")
    chest = [{**case, "automatic": True} for case in real if case["case"] == CHEST]
    for fold in reversed(FOLDS):  # fold1.jsonl last: it says that all is there
        experts = experts_of(fold, real)
        write(work / f"fold{fold}-{CHEST}.jsonl", [*experts, *chest])
        write(work / f"fold{fold}-{RARELY}.jsonl", [*experts, *again(experts), *chest])
        write(work / f"fold{fold}-{DRAWN}.jsonl", [*experts, *drawn])
        write(work / f"fold{fold}.jsonl", experts)


def experts_of(fold: str, real: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The scans with masks by experts, those of the fold's subjects for scoring only."""
    experts = [case for case in real if case["subject"] in SUBJECTS]
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


def write(path: Path, cases: Iterable[Mapping[str, object]]) -> None:
    """An index."""
    path.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
