"""One session of a run, from its first step to its end, whatever ends it."""

import time
from dataclasses import dataclass

from verse3d.core.logs import logger
from verse3d.core.wording import how_many
from verse3d.training.clock import Cost, memory_mb
from verse3d.training.loop import Loop, Stop
from verse3d.training.monitor import Monitor
from verse3d.training.session import Session
from verse3d.training.signals import StopSignals

_log = logger(__name__)


@dataclass(frozen=True)
class Ended:
    """How a session has ended, and what it took."""

    stopped: Stop
    cost: Cost


def run_session(session: Session, monitor: Monitor, signals: StopSignals, started: float) -> Ended:
    """Train until the schedule, a limit or a signal ends it; every whole step is on disk then.

    Args:
        session: what to train.
        monitor: where to show it.
        signals: may stop it.
        started: ``time.monotonic()`` of the call.

    Raises:
        TrainingError: the loss, its gradient or a weight is no longer a number, or a batch does not fit the GPU.
        OutputError: a checkpoint cannot be written.
    """
    standing, options = session.standing, session.options
    is_finished = standing.epoch >= session.optim.epochs
    if is_finished:
        _log.info("nothing is left to do: %s done", how_many(session.optim.epochs, "epoch is", "epochs are"))
    if is_finished or (options.max_epochs is not None and standing.epoch >= options.max_epochs):
        of_nothing = Cost((time.monotonic() - started) / 60, 0, float("nan"), *memory_mb(session.learner.device))
        return Ended("finished" if is_finished else "epochs", of_nothing)
    loop = Loop(session, monitor, signals, started)
    try:
        if standing.step == 0:
            loop.save()  # so that there is something to resume from the first step on
        loop.train()
    except KeyboardInterrupt as stop:
        loop.interrupted(stop)
    finally:
        loop.feed.close()
    cost = loop.cost()
    _log.info("%s: %s", loop.stop, cost)
    return Ended(loop.stop, cost)
