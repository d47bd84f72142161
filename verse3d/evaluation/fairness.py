"""Who is compared: runs under a name, and whether a comparison of them would be fair."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verse3d.core.errors import ConfigError
from verse3d.core.files import PathOrText
from verse3d.core.wording import listed
from verse3d.data.cases import SPLITS, Case, CaseIndex, Split
from verse3d.data.splits import held_out
from verse3d.evaluation.seen_cases import seen_in
from verse3d.model.locate import named_path
from verse3d.training.runfolder import fold_folders, setting_differences
from verse3d.training.trained import TrainedModel, load_trained

_MAY_DIFFER = ("runtime.", "validation.")
"""Settings in which the runs of one name may differ: seed, precision, workers, how often it was validated."""


@dataclass(frozen=True, eq=False)
class Member:
    """One trained model of a contestant; ``name`` is unique inside of it."""

    name: str
    model: TrainedModel


@dataclass(frozen=True, eq=False)
class Contestant:
    """An approach: one run, or several that differ in their seed (or fold) and are averaged case by case."""

    name: str
    members: tuple[Member, ...]

    def full_name(self, member: Member) -> str:
        """The contestant's name, and the member's behind it if there are several."""
        return self.name if len(self.members) == 1 else f"{self.name}/{member.name}"


def load_contestants(runs: Sequence[PathOrText], *, folds: bool = False) -> tuple[Contestant, ...]:
    """Read what is to be compared.

    Args:
        runs: ``PATH`` or ``NAME=PATH[,PATH ...]`` each; a path is a run folder, a checkpoint, or the
            word "starter". Without a name it is that of the run folder.
        folds: a path may also be the folder of a cross-validation, which stands for its folds.

    Raises:
        ConfigError: there are fewer than two, two have the same name, or a name cannot be that of a folder.
        CheckpointError: a path leads to no model, or a damaged one.
        DataError: a file of a run folder is damaged.
    """
    parsed = [_parse(str(run)) for run in runs]
    if len(parsed) < 2:
        raise ConfigError("a comparison needs at least two runs", hint="verse3d compare runs/3d runs/2d ...")
    if twice := _repeated([name for name, _ in parsed]):
        raise ConfigError(
            f"several runs would be called {', '.join(twice)}", hint="give them names: 3d=runs/a/model 2d=runs/b/model"
        )
    if folds:
        parsed = [(name, [run for path in paths for run in fold_folders(path) or (path,)]) for name, paths in parsed]
    return tuple(Contestant(name, _members(paths)) for name, paths in parsed)


def _parse(run: str) -> tuple[str, list[Path]]:
    name, equals, listed = run.partition("=")
    # A path may hold "=" itself; if it is there, it is meant.
    if not equals or Path(run).exists():
        path = named_path(run)
        return _run_name(path), [path]
    parts = [part for part in listed.split(",") if part]
    if not parts or not name or name in (".", "..") or set(name) & set('/\\"'):
        raise ConfigError(f"{run!r} is not of the form NAME=PATH[,PATH ...] with a name that can be a folder's")
    return name, [named_path(part) for part in parts]


def _run_name(path: Path) -> str:
    absolute = path.absolute()
    if absolute.suffix != ".pt":
        return absolute.name
    if absolute.stem in ("best", "last"):  # the folder says more
        return absolute.parent.name
    return absolute.stem


def _members(paths: Sequence[Path]) -> tuple[Member, ...]:
    names = [_run_name(path) for path in paths]
    several = _repeated(names)
    members = []
    for number, (name, path) in enumerate(zip(names, paths, strict=True), 1):
        # The names become folders, so seeds in a/run, b/run, c/run are 1-run, 2-run, 3-run.
        unique = f"{number}-{name}" if name in several else name
        members.append(Member(unique, load_trained(path)))
    return tuple(members)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def cases_of(member: Member, cases: Sequence[Case], *, folds: bool) -> tuple[Case, ...]:
    """The cases that a member is scored on: all, or of several folds those that its own run has not seen.

    These are the cases of the fold that was held out of its index, or else its test cases.
    """
    if not folds:
        return tuple(cases)
    own = member.model.cases or CaseIndex(())
    # Of fold 2 of 5: what run 2 has never seen. Over all folds each case is scored once.
    unseen = held_out(own) or own.in_split("test")
    kept = {case.case for case in unseen}
    return tuple(case for case in cases if case.case in kept)


def leaks(contestants: Sequence[Contestant], cases: Sequence[Case], *, folds: bool) -> list[str]:
    """Every run that was trained on a case it would be scored on, or on another scan of the same subject."""
    return [f"{name} was trained on {listed(seen)}" for name, seen in _seen(contestants, cases, "train", folds=folds)]


def chosen_by(contestants: Sequence[Contestant], cases: Sequence[Case], *, folds: bool) -> list[str]:
    """Every run whose best epoch was chosen by cases it would be scored on: its scores flatter a little."""
    seen_by = _seen(contestants, cases, "validation", folds=folds)
    return [f"the epoch of {name} was chosen by cases it is scored on: {listed(seen)}" for name, seen in seen_by]


def _seen(
    contestants: Sequence[Contestant], cases: Sequence[Case], split: Split, *, folds: bool
) -> Iterator[tuple[str, list[str]]]:
    for contestant, member in _everyone(contestants):
        index = member.model.cases or CaseIndex(())
        own = cases_of(member, cases, folds=folds)
        seen = [case.case for case in seen_in(own, index, split)]
        if seen:
            yield contestant.full_name(member), seen


def differences(contestants: Sequence[Contestant], *, folds: bool) -> list[str]:
    """Everything that should be equal and is not, one line each."""
    found = [*_split_differences(contestants, folds=folds)]
    for what, value in _EQUAL.items():
        # Network, mode and training may differ: they are what is compared.
        values = {contestant.full_name(member): value(member.model) for contestant, member in _everyone(contestants)}
        if len(set(values.values())) > 1:
            owners: dict[str, list[str]] = {}
            for name, its_value in values.items():
                owners.setdefault(its_value, []).append(name)
            # "spacing: a, b: 1.5; c: 2": who has what
            found.append(f"{what}: " + "; ".join(f"{', '.join(who)}: {its_value}" for its_value, who in owners.items()))
    for contestant in contestants:
        found += _member_differences(contestant)
    return found


_EQUAL: Mapping[str, Callable[[TrainedModel], str]] = {
    "labels": lambda model: model.config.labels.scheme,
    "network grid": lambda model: f"spacing {list(model.config.grid.spacing_mm)} mm",
    "grey values": lambda model: f"window {list(model.config.grid.window_hu)} HU",
    "smallest component": lambda model: f"{model.config.inference.min_component_ml:g} ml",
    "components": lambda model: "the largest only" if model.config.inference.largest_component_only else "all",
}


def _split_differences(contestants: Sequence[Contestant], *, folds: bool) -> Iterator[str]:
    everyone = list(_everyone(contestants))
    unknown = [contestant.full_name(member) for contestant, member in everyone if member.model.cases is None]
    if unknown:
        yield (
            f"split: unknown for {listed(unknown)} (no cases.jsonl beside the checkpoint), "
            "so that it may have been trained on the very cases"
        )
        return
    if folds:
        # All folds of a name together: which fold is called first does not matter.
        signatures = {
            contestant.name: "\n".join(sorted(_signature(member) for member in contestant.members))
            for contestant in contestants
        }
        if len(set(signatures.values())) > 1:
            yield f"split: the folds of {listed(list(signatures))} are not the same"
        return
    for split in SPLITS:
        names = {contestant.full_name(member): _names(member, split) for contestant, member in everyone}
        if only := _only_in_one(names):
            yield f"{split} cases: {only}"


def _only_in_one(names: Mapping[str, Sequence[str]]) -> str:
    """Who has which names that not all others have, too; "" if all have the same."""
    shared = set.intersection(*map(set, names.values()))
    only = {who: [name for name in found if name not in shared] for who, found in names.items()}
    return "; ".join(f"only {who}: {listed(found)}" for who, found in only.items() if found)


def _signature(member: Member) -> str:
    return "\n".join(f"{split}: " + "\n".join(_names(member, split)) for split in SPLITS)


def _names(member: Member, split: Split) -> list[str]:
    return sorted(case.case for case in (member.model.cases or CaseIndex(())).in_split(split))


def _member_differences(contestant: Contestant) -> Iterator[str]:
    """Runs of one name are one method: only seed and the like may differ."""
    first, *others = contestant.members
    settings = first.model.config.to_dict()
    for other in others:
        keys = setting_differences(settings, other.model.config.to_dict())
        changed = [key for key in keys if not key.startswith(_MAY_DIFFER)]
        if changed:
            yield f"{contestant.name}: {first.name} and {other.name} differ in {', '.join(changed)}"


def _everyone(contestants: Sequence[Contestant]) -> Iterator[tuple[Contestant, Member]]:
    for contestant in contestants:
        for member in contestant.members:
            yield contestant, member
