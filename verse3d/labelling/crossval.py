"""Cross-validation of the naming by patient, and the threshold below which a reading is called ambiguous."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verse3d.labelling.fitting import fit_priors
from verse3d.labelling.keypoints import SpineDetections
from verse3d.labelling.naming import NamedSpine, name_spines
from verse3d.labelling.optimise import Recipe
from verse3d.labelling.scoring import ScanScore, score_names

FOLDS = 5
AMBIGUOUS_SHARE = 0.095
"""So many scans may be called ambiguous."""


@dataclass(frozen=True)
class Judged:
    """One scan as named by priors that never saw its patient."""

    spine: SpineDetections
    named: tuple[NamedSpine, ...]

    @property
    def certainty(self) -> float:
        """The least sure of its spines; 1 where nothing is named."""
        return min((each.probability for each in self.named if each.names), default=1.0)

    def score(self, certain: float) -> ScanScore:
        """Score with another threshold than the one that was used for naming."""
        return score_names(self.spine, [replace(each, ambiguous=self.certainty < certain) for each in self.named])


def fold_of(subject: str, folds: int = FOLDS) -> int:
    """The fold of a patient, from a hash of the name: the same for all scans of the patient, on every machine."""
    # Python's own hash of a text is another one in every process.
    return int(hashlib.sha256(subject.encode()).hexdigest(), 16) % folds


def judge_by_folds(
    spines: Sequence[SpineDetections],
    recipe: Recipe | None = None,
    folds: int = FOLDS,
    report: Callable[[int, float, int], None] = lambda fold, certain, scans: None,
) -> list[list[Judged]]:
    """Name every scan with priors fitted on the other folds.

    Args:
        spines: scans with truth.
        recipe: how looks are fitted.
        folds: how many.
        report: called after each fold with its number, the mean certainty and the number of scans.
    """
    judged = []
    for fold in range(folds):
        priors = fit_priors([spine for spine in spines if fold_of(spine.subject, folds) != fold], recipe)
        held_out = [spine for spine in spines if fold_of(spine.subject, folds) == fold]
        judged.append([Judged(spine, tuple(name_spines(spine.found, priors))) for spine in held_out])
        report(fold, float(np.mean([each.certainty for each in judged[-1]] or [0.0])), len(held_out))
    return judged


def threshold(judged: Sequence[Judged], share: float = AMBIGUOUS_SHARE) -> float:
    """The certainty that ``share`` of the scans do not reach."""
    return float(np.quantile([each.certainty for each in judged], share)) if judged else 1.0


def scores_by_folds(judged: Sequence[Sequence[Judged]], share: float = AMBIGUOUS_SHARE) -> list[ScanScore]:
    """Scores of all scans, each fold with the threshold that the other folds ask for."""
    scores = []
    for fold, held_out in enumerate(judged):
        # The threshold is a number that is fitted, too, so it may not see the scans that it is judged on.
        others = [each for number, fold_judged in enumerate(judged) if number != fold for each in fold_judged]
        certain = threshold(others, share)
        scores += [each.score(certain) for each in held_out]
    return scores
