"""Who is trained on, chosen by and tested on. Always by subject, so that nobody stands on both sides."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from verse3d.core.errors import DataError
from verse3d.core.paths import composed
from verse3d.core.wording import how_many
from verse3d.data.cases import SPLITS, Case, CaseIndex, Split

_DRAWN = "seed"
"""Begins the ``split_origin`` of cases that were placed at random."""
_FOLD = "fold"
"""Begins the ``split_origin`` of all cases of an index of which a fold was held out."""


def split_by_subject(
    index: CaseIndex, *, seed: int = 0, validation: float = 0.2, test: float = 0.0, resplit: bool = False
) -> CaseIndex:
    """Divide the complete cases (CT and mask) by subject; the seed is stored with every case it placed.

    Splits that came with the release are kept. Only what is missing is drawn: subjects without a split are divided by
    the two fractions, and if then nobody is in "validation", that share of the "train" subjects moves there.

    Args:
        index: the cases.
        seed: decides who goes where; the same seed and subjects give the same answer in any order.
        validation: share of subjects for choosing the best epoch.
        test: share of undivided subjects that are kept away from training altogether.
        resplit: forget all earlier splits first.

    Raises:
        DataError: the fractions do not leave anything to train on.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise DataError(f"validation ({validation}) and test ({test}) must be shares that leave something to train on")
    cases = [replace(case, split=None, split_origin="") if resplit else case for case in index]
    # Subjects are drawn, not cases: two scans of one patient on both sides would score what was learnt by heart.
    chosen = {case.subject: case.split for case in cases if case.split and case.image and case.mask}
    undivided = _shuffled({case.subject for case in cases if case.image and case.mask} - chosen.keys(), seed)
    drawn = _divide(undivided, {"test": test, "validation": validation})
    # A data set with a test split alone: some of those to train on have to choose the epoch.
    if not any(split == "validation" for split in (*chosen.values(), *drawn.values())):
        trained_on = _shuffled({subject for subject, split in chosen.items() if split == "train"}, seed)
        moved = _divide(trained_on, {"validation": validation})
        drawn |= {subject: split for subject, split in moved.items() if split == "validation"}
    return CaseIndex(tuple(_placed(case, drawn, f"{_DRAWN} {seed}") for case in cases))


def assign_splits(index: CaseIndex, assignments: Mapping[str, Split]) -> CaseIndex:
    """Put named subjects (or the subjects of named cases) into splits.

    Raises:
        DataError: a name is neither a subject nor a case of the index; a split is unknown; or a subject is put into
            two splits.
    """
    subject_of = {case.case: case.subject for case in index} | {case.subject: case.subject for case in index}
    spelt = {composed(name): name for name in subject_of}
    unknown = sorted(name for name in assignments if composed(name) not in spelt)
    if unknown:
        raise DataError(
            f"no case or subject is called {', '.join(unknown)}; there are: {', '.join(sorted(subject_of))}"
        )
    drawn: dict[str, Split] = {}
    for name, split in assignments.items():
        if split not in SPLITS:
            raise DataError(f"{name}: split {split!r} is none of {', '.join(SPLITS)}")
        subject = subject_of[spelt[composed(name)]]
        if drawn.setdefault(subject, split) != split:
            raise DataError(f"the subject {subject} is put into both {drawn[subject]} and {split}")
    return CaseIndex(tuple(_placed(case, drawn, "assigned") for case in index))


def _placed(case: Case, drawn: Mapping[str, Split], origin: str) -> Case:
    if case.subject not in drawn:
        return case
    return replace(case, split=drawn[case.subject], split_origin=origin)


def _shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    # Sorted first, so that the order in which files were found decides nothing.
    ordered = sorted(subjects)
    random.Random(seed).shuffle(ordered)
    return ordered


def _divide(subjects: Sequence[str], shares: Mapping[Split, float]) -> dict[str, Split]:
    """Give each split its share (at least one subject if the share is above 0), the rest to training."""
    result: dict[str, Split] = {}
    rest = list(subjects)
    for split, share in shares.items():
        wanted = max(1, round(share * len(subjects))) if share > 0 else 0
        # Somebody has to be left to train on.
        for _ in range(min(wanted, len(rest) - 1)):
            result[rest.pop(0)] = split
    return result | dict.fromkeys(rest, "train")


def assign_folds(index: CaseIndex, folds: int, *, seed: int = 0) -> CaseIndex:
    """Number the cases 0 ... folds - 1 for cross-validation, subject by subject, each fold with as many cases as fit.

    Divided are the complete cases that may be trained on: those of "train", and those that only this program drew into
    "validation". Test cases and the validation cases of a release keep out of it. The same seed and subjects give the
    same folds in any order.

    Raises:
        DataError: ``folds`` is below 2 or above the number of subjects to divide.
    """
    size = Counter(case.subject for case in index if _may_be_trained_on(case))
    if not 2 <= folds <= len(size):
        raise DataError(
            f"cannot make {how_many(folds, 'fold')} of {how_many(len(size), 'subject')} to train on",
            hint="choose at least 2 folds and at most one per subject",
        )
    cases_in = [0] * folds
    fold_of: dict[str, int] = {}
    for subject in sorted(_shuffled(size, seed), key=lambda name: -size[name]):  # large subjects first; stable
        # Where the fewest cases are yet: large subjects first, small ones even it out.
        fold = cases_in.index(min(cases_in))
        fold_of[subject] = fold
        cases_in[fold] += size[subject]
    return CaseIndex(
        tuple(replace(case, fold=fold_of[case.subject] if _may_be_trained_on(case) else None) for case in index)
    )


def known_folds(index: CaseIndex) -> tuple[int, ...]:
    """The numbers of the folds of an index, in order; nothing if it has none."""
    return tuple(sorted({case.fold for case in index if case.fold is not None}))


def held_out(index: CaseIndex) -> tuple[Case, ...]:
    """The cases of the fold that was held out of an index by ``hold_out_fold``; nothing if none was."""
    return tuple(case for case in index.in_split("validation") if case.split_origin.startswith(_FOLD))


def hold_out_fold(index: CaseIndex, fold: int) -> CaseIndex:
    """The index for training with that fold as validation: the other folds are trained on, test cases stay so.

    Raises:
        DataError: the index has no such fold.
    """
    known = known_folds(index)
    if fold not in known:
        raise DataError(
            f"there is no fold {fold}: the index has {f'folds {known[0]} to {known[-1]}' if known else 'none'}",
            hint="number the folds with `verse3d.index(DATA, out='cases.jsonl', folds=5)`",
        )
    held_out = {case.subject for case in index if case.fold == fold}
    trained_on = {case.subject for case in index if case.fold is not None} - held_out

    def split(case: Case) -> Split | None:
        if case.subject in held_out:
            return "validation"
        if case.subject in trained_on:
            return "train"
        return "test" if case.split == "test" else None

    return CaseIndex(
        tuple(replace(case, split=split(case), split_origin=f"{_FOLD} {fold} of the index") for case in index)
    )


def _may_be_trained_on(case: Case) -> bool:
    drawn = case.split == "validation" and case.split_origin.startswith(_DRAWN)
    return bool(case.image and case.mask) and (case.split == "train" or drawn)
