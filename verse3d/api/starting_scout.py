"""Which scout a training begins with: that of the model it goes on from, or that of the starter weights."""

from functools import cache
from typing import NamedTuple

from verse3d.core.config import Config
from verse3d.core.errors import Verse3dError
from verse3d.core.wording import listed
from verse3d.data.cases import CaseIndex, read_index
from verse3d.evaluation.seen_cases import seen_in
from verse3d.model.modes import Method
from verse3d.model.starter import starter_file, starter_folder
from verse3d.training.initial import InitialScout, InitialWeights, read_initial
from verse3d.training.runfolder import RunFolder


class StartingScout(NamedTuple):
    """What a new run begins with.

    Attributes:
        scout: None for one as it is drawn.
        remark: why it is not that of the starter weights, although that was wanted; for the log of the run. Else "".
    """

    scout: InitialScout | None
    remark: str = ""


def starting_scout(settings: Config, initial: InitialWeights | None, cases: CaseIndex) -> StartingScout:
    """The scout that a new run begins with.

    A scout needs thousands of steps, and most runs give it a few dozen. The one of the starter weights has had them,
    but it has seen a few scans: where one of these is held out for validation or test, a run that begins with it would
    know what it must not know.

    Args:
        settings: of the run.
        initial: the model that it begins with, if any. Its scout goes before the starter's.
        cases: of the run, with their splits.
    """
    if not (settings.scout.enabled and Method(settings).has_scout):
        return StartingScout(None)
    if initial is not None and initial.scout is not None:
        return StartingScout(initial.scout)
    if settings.scout.begin_with != "starter":
        return StartingScout(None)
    try:
        scout, known = _starter_scout()
    except Verse3dError as error:  # a copy of verse3d without weights trains as well
        return StartingScout(None, f"the scout begins anew: {error.message}")
    held_out = [case for case in cases if case.split != "train"]
    if seen := sorted({case.case for split in ("train", "validation") for case in seen_in(held_out, known, split)}):
        known_here = f"that of the starter weights has seen {listed(seen, 3)}, held out here"
        return StartingScout(None, f"the scout begins anew: {known_here}")
    return StartingScout(scout)


@cache
def _starter_scout() -> tuple[InitialScout | None, CaseIndex]:
    """The scout of the starter weights and what they have seen. Read once: several folds begin with the same."""
    scout = read_initial(starter_file()).scout
    return scout, read_index(RunFolder(starter_folder()).cases)
