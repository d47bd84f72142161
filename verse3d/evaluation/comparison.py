"""An honest comparison: the same cases, scored alike on the grids of their scans, in pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from verse3d.core.errors import ConfigError, DataError
from verse3d.core.logs import Progress, no_progress
from verse3d.core.paths import path_below
from verse3d.core.runtime import DeviceName
from verse3d.data.cases import Case, CaseIndex
from verse3d.evaluation.case_values import METRICS, OF_NAMES, Metric, case_values, mean_of_defined
from verse3d.evaluation.fairness import Contestant, Member, cases_of, chosen_by, differences, leaks
from verse3d.evaluation.isolated_predict import RunPredict, predict_missing
from verse3d.evaluation.paired_tests import PairedDifference, paired_difference
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.evaluation.seen_cases import notes_on_automatic_truth


class RunPainter(Protocol):
    """What draws a run's pictures; it stands on a floor above."""

    def __call__(
        self, cases: Sequence[Case], masks: Path, folder: Path, *, titles: Mapping[str, str], model: Path, scheme: str
    ) -> tuple[Path, ...]:
        """Draw ``cases`` with their ``masks`` into ``folder``, and the loss curve of ``model``; what was written."""


Values = Mapping[str, Mapping[str, float]]
"""Metric values by case."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How to compare.

    Attributes:
        allow_different: compare although something differs, and say so.
        folds: the runs of a name are folds: each is scored on the test cases of its own split.
        pictures: cases drawn per run.
        run: starts ``verse3d predict`` as a program of its own.
        painter: draws the pictures.
        device: where to predict.
        progress: told about every scan.
    """

    allow_different: bool = False
    folds: bool = False
    pictures: int = 2
    run: RunPredict
    painter: RunPainter
    device: DeviceName = "auto"
    progress: Progress = no_progress


@dataclass(frozen=True, eq=False)
class ContestantScores:
    """How one contestant did.

    Attributes:
        contestant: who.
        values: by case and metric, averaged over the runs that are scored on the case; NaN where none is defined.
        undefined: per metric, how many values (of a case and a run) were NaN.
        run_sd: per metric, the sample sd over the runs of their means over the cases; NaN for fewer than two runs.
        devices: where its masks were made.
    """

    contestant: Contestant
    values: Values
    undefined: Mapping[str, int]
    run_sd: Mapping[str, float]
    devices: tuple[str, ...]

    def column(self, metric: str) -> list[float]:
        """One value per case, in the order of the cases."""
        return [values[metric] for values in self.values.values()]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All contestants on the cases that each of them could be scored on.

    Attributes:
        cases: their names.
        standings: one per contestant, in the order given.
        pairs: by contestant (all but the first) and metric: that contestant minus the first.
        left_out: (case, reason) of every case that some run could not be scored on.
        differences: what is not equal between the runs, if that was allowed.
        notes: what else a reader should know.
        folds: whether each run was scored on the test cases of its own split.
        pictures: the cases and loss curves drawn.
        written: tables and figure, once they are.
    """

    cases: tuple[str, ...]
    standings: tuple[ContestantScores, ...]
    pairs: Mapping[str, Mapping[str, PairedDifference]]
    left_out: tuple[tuple[str, str], ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    folds: bool = False
    pictures: tuple[Path, ...] = ()
    written: tuple[Path, ...] = field(default_factory=tuple)

    @property
    def metrics(self) -> dict[str, Metric]:
        """What is worth telling: names only where some run gives vertebrae names."""
        columns = [standing.column(metric) for standing in self.standings for metric in OF_NAMES]
        named = any(not math.isnan(value) for column in columns for value in column)
        return {key: metric for key, metric in METRICS.items() if named or key not in OF_NAMES}


@dataclass(frozen=True, eq=False)
class _Scored:
    """One run: its values by case, and why cases have none."""

    values: Values
    failures: tuple[tuple[str, str], ...]
    device: str
    pictures: tuple[Path, ...] = ()


def check_fairness(
    contestants: Sequence[Contestant], cases: Sequence[Case], *, allow_different: bool = False, folds: bool = False
) -> list[str]:
    """What differs between the runs; empty, unless that is allowed.

    Raises:
        ConfigError: something differs and that is not allowed (all of it is listed), or, whatever is allowed, a run
            was trained on a case that it would be scored on.
    """
    if leaking := leaks(contestants, cases, folds=folds):
        raise ConfigError(
            _listed("a model must not be scored on what it was trained on:", leaking),
            hint="choose other cases with `split` or `data`; this cannot be overridden",
        )
    different = differences(contestants, folds=folds)
    if different and not allow_different:
        raise ConfigError(
            _listed("the runs cannot be compared, they differ in more than their approach:", different),
            hint="`allow_different` compares them all the same and writes this list into the table",
            option="allow_different",
        )
    return different


def compare_contestants(
    contestants: Sequence[Contestant], cases: Sequence[Case], out: Path, options: CompareOptions
) -> Comparison:
    """Predict what is missing, score every run and compare them case by case.

    Args:
        contestants: at least two.
        cases: with scan and mask.
        out: gets ``<name>/masks``, ``<name>/scores.json``, ``<name>/pictures`` (below ``<name>/<run>`` for several).
        options: what is allowed, and how it is computed.

    Raises:
        ConfigError: the runs may not be compared, see ``check_fairness``.
        DataError: no case could be scored for every contestant.
        OutputError: a folder cannot be written to.
    """
    different = check_fairness(contestants, cases, allow_different=options.allow_different, folds=options.folds)
    scored = {
        contestant.name: [_score(contestant, member, cases, out, options) for member in contestant.members]
        for contestant in contestants
    }
    left_out = _left_out(cases, scored)
    common = _scored_everywhere(cases, scored, left_out)
    judged = [case for case in cases if case.case in common]
    # The first contestant is what all others are compared with.
    standings = tuple(_standing(contestant, scored[contestant.name], common) for contestant in contestants)
    first, *others = standings
    return Comparison(
        cases=tuple(common),
        standings=standings,
        pairs={
            other.contestant.name: {key: paired_difference(first.column(key), other.column(key)) for key in METRICS}
            for other in others
        },
        left_out=tuple(left_out.items()),
        differences=tuple(different),
        notes=(*chosen_by(contestants, cases, folds=options.folds), *notes_on_automatic_truth(judged)),
        folds=options.folds,
        pictures=tuple(picture for runs in scored.values() for run in runs for picture in run.pictures),
    )


def _score(
    contestant: Contestant, member: Member, cases: Sequence[Case], out: Path, options: CompareOptions
) -> _Scored:
    own = cases_of(member, cases, folds=options.folds)
    folder = path_below(out, contestant.name, *([member.name] if len(contestant.members) > 1 else []))
    if not own:
        return _Scored({}, (), "")
    name, masks = contestant.full_name(member), folder / "masks"
    predictions = predict_missing(
        own,
        member.model.path,
        masks,
        run=options.run,
        device=options.device,
        what=f"predicting with {name}",
        progress=options.progress,
    )
    # What has no mask is left out of the pairs, not scored as 0: it says nothing about the approach.
    made = [case for case in own if case.case in predictions.records]
    if not made:
        return _Scored({}, predictions.failures, predictions.device)
    scheme = member.model.config.labels.scheme
    evaluation = evaluate_folder(
        masks, CaseIndex(tuple(made)), folder / "scores.json", scheme=scheme, progress=options.progress
    )
    values = case_values(evaluation, predictions.records)
    # The first ones, in the order of the index: nobody chose them by how they look.
    drawn = [case for case in made if case.case in values][: options.pictures]
    titles = {case.case: f"{case.case}, {name}: Dice {values[case.case]['dice']:.3f}" for case in drawn}
    pictures = options.painter(drawn, masks, folder / "pictures", titles=titles, model=member.model.path, scheme=scheme)
    return _Scored(values, predictions.failures + evaluation.failures, predictions.device, pictures)


def _left_out(cases: Sequence[Case], scored: Mapping[str, Sequence[_Scored]]) -> dict[str, str]:
    """Why cases are not compared: one run that failed is enough, or the pairs would not be pairs."""
    failures: dict[str, list[str]] = {}
    for name, runs in scored.items():
        for case, reason in (failure for run in runs for failure in run.failures):
            failures.setdefault(case, []).append(f"{name}: {reason}")
    return {case.case: "; ".join(failures[case.case]) for case in cases if case.case in failures}


def _scored_everywhere(
    cases: Sequence[Case], scored: Mapping[str, Sequence[_Scored]], left_out: Mapping[str, str]
) -> list[str]:
    """The cases that every contestant has a value of. With folds that is one of its runs, else all of them.

    Raises:
        DataError: there is none.
    """
    common = [case.case for case in cases if case.case not in left_out]
    for runs in scored.values():
        common = [case for case in common if any(case in run.values for run in runs)]
    if not common:
        reasons = [f"{case}: {reason}" for case, reason in left_out.items()]
        raise DataError(
            _listed("no case could be scored for every run:", reasons or ["no run has a case to be tested on"])
        )
    return common


def _standing(contestant: Contestant, runs: Sequence[_Scored], common: Sequence[str]) -> ContestantScores:
    values: dict[str, dict[str, float]] = {}
    undefined = dict.fromkeys(METRICS, 0)
    for case in common:
        # Runs that differ in their seed make one value of a case steadier; they do not make more cases.
        of_case = [run.values[case] for run in runs if case in run.values]
        values[case] = {metric: mean_of_defined([one[metric] for one in of_case]) for metric in METRICS}
        for metric in METRICS:
            undefined[metric] += sum(math.isnan(one[metric]) for one in of_case)
    run_sd = {metric: _run_sd(metric, runs, common) for metric in METRICS}
    return ContestantScores(contestant, values, undefined, run_sd, tuple(sorted({run.device for run in runs} - {""})))


def _run_sd(metric: str, runs: Sequence[_Scored], common: Sequence[str]) -> float:
    """Sample sd over the runs of their means; undefined unless all of them are scored on the same cases."""
    if len(runs) < 2 or any(case not in run.values for run in runs for case in common):
        return math.nan
    means = [mean_of_defined([run.values[case][metric] for case in common]) for run in runs]
    return float(np.std(means, ddof=1))


def _listed(head: str, lines: Sequence[str]) -> str:
    return "\n".join([head, *(f"  - {line}" for line in lines)])
