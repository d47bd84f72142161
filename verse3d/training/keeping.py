"""What of a run is saved: the best model so far, and everything that is needed to go on."""

import math

from verse3d.model.checkpoint import Checkpoint, save_checkpoint
from verse3d.training.learner import best_network, learner_state
from verse3d.training.seen import seen_by
from verse3d.training.session import DRAWS, Session
from verse3d.training.validate import ValidationResult


def save_epoch(session: Session, validation: ValidationResult | None) -> None:
    """Write ``best.pt`` if the validation says so (without validation cases always), then ``last.pt``.

    Raises:
        OutputError: a checkpoint cannot be written.
    """
    standing = session.standing
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
    }
    weights = best_network(session.learner).state_dict()
    scores = {} if math.isnan(standing.best_dice) else {"best_validation_dice": standing.best_dice}
    last = Checkpoint(session.config, weights, standing.epoch, scores, state, trained_on=seen_by(session))
    save_checkpoint(session.folder.last, last)


def _better(new: float, best: float) -> bool:
    """An undefined Dice is better than nothing and worse than any number."""
    return math.isnan(best) or (not math.isnan(new) and new > best)


def _checkpoint(session: Session, scores: dict[str, float]) -> Checkpoint:
    weights = best_network(session.learner).state_dict()
    return Checkpoint(session.config, weights, session.standing.epoch, scores, trained_on=seen_by(session))
