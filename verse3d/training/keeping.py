"""What of a run is saved: the best model so far, and everything that is needed to go on."""

import math
from pathlib import Path

from verse3d.core.errors import CheckpointError, OutputError
from verse3d.core.files import whole_file
from verse3d.core.runtime import random_state
from verse3d.model.checkpoint import Checkpoint, TrainedNetwork, save_checkpoint, verify_checkpoint
from verse3d.model.scout import SCOUT
from verse3d.training.learner import best_network, learner_state
from verse3d.training.seen import seen_by
from verse3d.training.session import DRAWS, Session
from verse3d.training.source_code import code_sha256
from verse3d.training.step_values import require_finite
from verse3d.training.validate import ValidationResult


def save_best(session: Session, epoch: int, validation: ValidationResult | None) -> None:
    """Write ``best.pt`` if the validation says so; without validation cases always.

    Args:
        session: that is trained.
        epoch: the one that has just been trained, or that is being trained.
        validation: of whole scans, if there was one.

    Raises:
        OutputError: it cannot be written.
    """
    standing = session.standing
    if session.scout is not None and (validation is not None or not session.validation):
        session.scout.assess()
    if not session.validation:
        scores: dict[str, float] = {}
    elif validation is not None and is_better(validation.mean_dice, standing.best_dice):
        standing.best_dice = validation.mean_dice
        scores = {"validation_dice": validation.mean_dice}
    else:
        return
    # Known to all processes, written by one.
    standing.best_epoch = epoch
    if session.options.ranks.is_first:
        weights = best_network(session.learner).state_dict()
        further, seen = _further(session), seen_by(session)
        best = Checkpoint(session.config, weights, epoch, scores, networks=further, trained_on=seen)
        replace_checkpoint(session.folder.best, best)


def save_last(session: Session) -> None:
    """Write ``last.pt``: by rank 0, with what the other processes must remember.

    Raises:
        OutputError: it cannot be written; that of before is kept.
        TrainingError: a weight is no longer a number.
    """
    standing, ranks = session.standing, session.options.ranks
    require_finite(best_network(session.learner))
    require_finite(session.learner.network)
    # Every process draws from a state of its own; the first one's is part of the learner's.
    _, *others = ranks.gather(random_state())
    if not ranks.is_first:
        return
    state = {
        "learner": learner_state(session.learner),
        "standing": standing.to_dict(),
        "cases": session.case_names,
        "draws": DRAWS,
        "others": others,
        "data": session.data,
        "code": code_sha256(),
        "scout": session.scout.to_dict() if session.scout else {},
    }
    weights = best_network(session.learner).state_dict()
    scores = {} if math.isnan(standing.best_dice) else {"best_validation_dice": standing.best_dice}
    further, seen = _further(session), seen_by(session)
    last = Checkpoint(session.config, weights, standing.epoch, scores, state, networks=further, trained_on=seen)
    replace_checkpoint(session.folder.last, last)


def replace_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint beside the old one, read it back, and only then let it take the old one's place.

    Raises:
        OutputError: it cannot be written, or is not read back as it was meant; the old one is still there.
        CheckpointError: its weights are no numbers.
    """
    kept = f"; {path.name} is still that of before" if path.exists() else ""
    try:
        with whole_file(path) as part:
            # write beside -> read back -> rename: a run must survive a full disk and a power cut
            checksum = save_checkpoint(part, checkpoint)
            _verify(part, checksum)
    except OutputError as error:
        reason = error.message.rpartition(": ")[2]
        raise OutputError(f"cannot write {path}: {reason}{kept}", hint=error.hint) from error


def _verify(part: Path, checksum: str) -> None:
    try:
        verify_checkpoint(part, checksum)
    except CheckpointError as error:
        raise OutputError(
            f"cannot write {part}: what was written is read back damaged", hint="check the disk, or choose another one"
        ) from error


def is_better(new: float, best: float) -> bool:
    """An undefined Dice is better than nothing and worse than any number."""
    return math.isnan(best) or (not math.isnan(new) and new > best)


def _further(session: Session) -> dict[str, TrainedNetwork]:
    """The scout as it was last assessed, if it was."""
    assessed = session.scout.assessed if session.scout else None
    return {} if assessed is None else {SCOUT: assessed}
