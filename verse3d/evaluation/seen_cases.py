"""Why scores may say less than they seem to: a model has learnt from the cases, or a program made their truth."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from verse3d.core.errors import Verse3dError
from verse3d.core.files import is_file, resolved, sha256_of
from verse3d.core.wording import listed
from verse3d.data.cases import Case, CaseIndex, Split, read_index

_WHAT_IT_MEANS: Mapping[Split, str] = {
    "train": "{model} was trained on {cases}: these scores say nothing about new scans",
    "validation": "the best epoch of {model} was chosen by {cases}: these scores are too good",
}


def seen_in(cases: Sequence[Case], index: CaseIndex, split: Split) -> list[Case]:
    """The cases whose scan, or another one of whose subject, stands in a split of ``index``.

    Names count unless the index gives the case's name to another scan: then it lists another data set, in which the
    same names mean other people.
    """
    among = index.in_split(split)
    images = {resolved(other.image) for other in among if other.image}
    names = {other.case for other in among}
    subjects = {other.subject for other in among}
    listed = {other.case: other for other in index if other.image}

    def is_seen(case: Case) -> bool:
        # The same file is the same scan, whatever either index calls it.
        if case.image and resolved(case.image) in images:
            return True
        if case.image and case.case in listed:
            # Both call something sub-01, and it is not the same: names of another data set. What is no longer there
            # may have been the same.
            first, second = case.image, listed[case.case].image_path()
            both_there = resolved(first) != resolved(second) and is_file(first) and is_file(second)
            if both_there and sha256_of(first) != sha256_of(second):
                return False
        return case.case in names or case.subject in subjects

    return [case for case in cases if is_seen(case)]


def notes_on_seen_cases(cases: Sequence[Case], records: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """A sentence for each model that has learnt from cases whose masks it made, or whose best epoch was chosen by them.

    Args:
        cases: what is scored.
        records: by case, what ``predictions.json`` says, as ``inference.records.PredictionRecord`` holds it.
    """
    by_model: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        for model in records.get(case.case, {}).get("models", ()):
            by_model[str(model)].append(case)
    notes: list[str] = []
    for model, made in by_model.items():
        notes += _notes_on_model(Path(model), made)
    return tuple(notes)


def notes_on_automatic_truth(cases: Sequence[Case]) -> tuple[str, ...]:
    """A sentence on the cases whose truth a program made, if there are any."""
    made = [case.case for case in cases if case.automatic]
    return (f"a program made the truth of {listed(made)}: these scores say how alike two programs are",) if made else ()


def _notes_on_model(model: Path, made: Sequence[Case]) -> Iterator[str]:
    beside = model.with_name("cases.jsonl")
    if not is_file(beside):
        return  # a model file by itself does not say what it has learnt from
    try:
        index = read_index(beside)
    except Verse3dError as error:
        yield f"whether {model} has seen these cases is unknown: {error.message}"
        return
    for split, sentence in _WHAT_IT_MEANS.items():
        if seen := [case.case for case in seen_in(made, index, split)]:
            yield sentence.format(model=model, cases=listed(seen))
