"""What of a run is saved: the best model so far, and everything that is needed to go on."""

import math

from verse3d.model.checkpoint import Checkpoint, TrainedNetwork, save_checkpoint
from verse3d.model.scout import SCOUT
from verse3d.training.learner import best_network, learner_state
from verse3d.training.session import DRAWS, Session
from verse3d.training.validate import ValidationResult


def save_epoch(session: Session, validation: ValidationResult | None) -> None:
    """Write ``best.pt`` if the validation says so (without validation cases always), then ``last.pt``.

    Raises:
        OutputError: a checkpoint cannot be written.
    """
    standing = session.standing
    if session.scout is not None and (validation is not None or not session.validation):
        session.scout.assess()
    if not session.validation:
        standing.best_epoch = standing.epoch
        save_checkpoint(session.folder.best, _checkpoint(session, {}))
    elif validation is not None and _better(validation.mean_dice, standing.best_dice):
        standing.best_dice, standing.best_epoch = validation.mean_dice, standing.epoch
        save_checkpoint(session.folder.best, _checkpoint(session, {"validation_dice": validation.mean_dice}))
    save_last(session)


def save_last(session: Session) -> None:
    """Write ``last.pt``.

    Raises:
        OutputError: it cannot be written.
    """
    standing = session.standing
    state = {
        "learner": learner_state(session.learner),
        "standing": standing.to_dict(),
        "cases": session.case_names,
        "draws": DRAWS,
        "scout": session.scout.to_dict() if session.scout else {},
    }
    weights = best_network(session.learner).state_dict()
    scores = {} if math.isnan(standing.best_dice) else {"best_validation_dice": standing.best_dice}
    save_checkpoint(
        session.folder.last,
        Checkpoint(session.config, weights, standing.epoch, scores, state, networks=_further(session)),
    )


def _better(new: float, best: float) -> bool:
    """An undefined Dice is better than nothing and worse than any number."""
    return math.isnan(best) or (not math.isnan(new) and new > best)


def _checkpoint(session: Session, scores: dict[str, float]) -> Checkpoint:
    weights = best_network(session.learner).state_dict()
    return Checkpoint(session.config, weights, session.standing.epoch, scores, networks=_further(session))


def _further(session: Session) -> dict[str, TrainedNetwork]:
    """The scout as it was last assessed, if it was."""
    assessed = session.scout.assessed if session.scout else None
    return {} if assessed is None else {SCOUT: assessed}
