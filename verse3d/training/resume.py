"""Going on with a run from its ``last.pt``: what may have changed meanwhile is said, each thing by its name."""

import math
from collections.abc import Iterator, Mapping

import torch

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import CheckpointError, DataError, TrainingError
from verse3d.core.logs import logger
from verse3d.core.readers import checked
from verse3d.core.runtime import restore_random_state
from verse3d.core.wording import how_many, listed
from verse3d.model.checkpoint import Checkpoint, installed_versions, load_checkpoint
from verse3d.model.scout import SCOUT
from verse3d.training.keeping import is_better
from verse3d.training.learner import restore_learner
from verse3d.training.session import DRAWS, Session, Standing, StoredRun
from verse3d.training.source_code import code_sha256

_log = logger(__name__)
_BAD_STATE: tuple[type[Exception], ...] = (AttributeError, *CASE_ERRORS)
_START_ANEW = "start a new run in another folder; best.pt can still be predicted with"
_SHOWN = 5


def restore(session: Session) -> None:
    """Set a session to where its run stands.

    Raises:
        CheckpointError: ``last.pt`` is damaged, of another mode, or no training.
        DataError: the run used other cases.
        TrainingError: a deterministic run would not end as it would have, because the files or the program changed.
    """
    path = session.folder.last
    checkpoint = load_checkpoint(path)
    if checkpoint.method.mode != session.method.mode:
        raise CheckpointError(
            f"{session.folder.last} is a model of mode {checkpoint.method.mode}, "
            f"the run in {session.folder.path} is of mode {session.method.mode}",
            hint="was it copied from another run?",
        )
    if not checkpoint.training:
        raise CheckpointError(
            f"{path} can be predicted with but not trained on", hint="was best.pt copied over last.pt?"
        )
    try:
        state = checked(checkpoint.training, StoredRun, f"what {path} says about its training")
    except DataError as error:
        raise CheckpointError(error.message, hint=_START_ANEW) from error
    for split, names in state.cases.items():
        if names != session.case_names[split]:
            raise DataError(
                f"the run in {session.folder.path} used other {split} cases ({', '.join(names) or 'none'})",
                hint=f"resume it with the index that it has used: {session.folder.cases}",
            )
    try:
        _restore_state(session, checkpoint, state)
    except _BAD_STATE as error:  # whatever PyTorch makes of a state that is none
        raise CheckpointError(
            f"{path} cannot be gone on with, it is damaged or was trained by another version or config: "
            f"{reason_of(error)}",
            hint=_START_ANEW,
        ) from error
    _keep_newer_best(session)
    _tell_changes(session, state, checkpoint.versions)


def _keep_newer_best(session: Session) -> None:
    """A run that was killed may have written ``best.pt`` after its last save: only a better one may take its place.
    Where it is lost, any one may.

    ::

        last.pt     epoch 4                     the run goes on from here, and epochs 5, 6 ... are trained once more
        best.pt              epoch 6: 0.91      not the same weights again, and perhaps no better ones
    """
    standing = session.standing
    try:
        best = load_checkpoint(session.folder.best)
    except CheckpointError as error:
        if not math.isnan(standing.best_dice):  # else there was none to lose
            _log.warning("%s: the next validation makes a new one", error.message)
            standing.best_dice = math.nan
        return
    dice = best.scores.get("validation_dice", math.nan)
    if best.epoch <= standing.epoch or not 0 <= dice <= 1 or not is_better(dice, standing.best_dice):
        return
    standing.best_dice, standing.best_epoch = dice, best.epoch
    _log.info(
        "best.pt is newer than last.pt: that of epoch %d, which is trained once more, with a validation Dice of %.4f; "
        "it stays until there is a better one",
        best.epoch,
        dice,
    )


def _restore_state(session: Session, checkpoint: Checkpoint, state: StoredRun) -> None:
    standing = Standing()
    # Tried on an empty one first, so that the session is as it was if something does not fit.
    standing.restore(state.standing)
    # Otherwise a run that is not finished could be taken for one that is, or train an epoch twice.
    if standing.epoch != checkpoint.epoch:
        raise DataError(
            f"its state is that after epoch {standing.epoch}, its weights are those after epoch {checkpoint.epoch}"
        )
    standing.require_fitting(session.optim.steps_per_epoch)
    restore_learner(session.learner, state.learner)
    if session.learner.schedule.step != standing.step:
        raise DataError(f"its schedule is at step {session.learner.schedule.step}, the run at step {standing.step}")
    if session.scout is not None and state.scout:
        session.scout.restore(state.scout, checkpoint.networks.get(SCOUT))
    session.standing.restore(state.standing)
    _restore_random(session, state)


def _restore_random(session: Session, state: StoredRun) -> None:
    """A process beside the first has a random state of its own; if there was none, it starts one."""
    ranks = session.options.ranks
    if ranks.is_first:
        return
    if ranks.rank <= len(state.others):
        restore_random_state(state.others[ranks.rank - 1])
    else:
        torch.manual_seed(session.runtime.seed + ranks.rank + state.standing.get("step", 0))


def _tell_changes(session: Session, state: StoredRun, versions: Mapping[str, str]) -> None:
    """Say what is not as it was.

    Raises:
        TrainingError: something changed, and the run was promised to be repeatable.
    """
    if state.draws != DRAWS:
        _log.warning("the run was begun by an older verse3d: it goes on, from here with patches drawn in another way")
    before, now = len(state.others) + 1, session.options.ranks.count
    if before != now:
        others = how_many(before, "process", "processes")
        _log.warning("%s trained this run before, %d now: the same but for rounding", others, now)
    changed = list(_changes(session, state, versions))
    if not changed:
        return
    lines = "\n".join(f"  - {change}" for change in changed)
    if session.runtime.deterministic:
        raise TrainingError(
            f"the run in {session.folder.path} cannot end as it would have, because something has changed:\n{lines}",
            hint="undo the change, or go on all the same with runtime.deterministic=false",
        )
    _log.warning("since the run was saved, something has changed:\n%s", lines)


def _changes(session: Session, state: StoredRun, versions: Mapping[str, str]) -> Iterator[str]:
    """What differs from the time when the run was saved: its data, the packages, the program."""
    data = [case for case, name in state.data.items() if session.data.get(case, name) != name]
    if data:
        yield f"the data: scan, mask, relabelling or who made the mask of {listed(data, _SHOWN)}"
    now = installed_versions()
    for name, before in versions.items():
        if now.get(name, before) != before:
            yield f"{name}: {before} before, {now[name]} now"
    # The same version with other code: somebody works on it.
    if state.code and state.code != code_sha256() and versions.get("verse3d") == now["verse3d"]:
        yield f"the code of verse3d {now['verse3d']} itself"
