"""What a training has learnt from, for its model file."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from verse3d.core.caseerrors import CASE_ERRORS
from verse3d.core.phantom_sidecar import is_phantom
from verse3d.core.volume import read_geometry
from verse3d.data.samples.measures import grid_measures
from verse3d.data.samples.stored import StoredCase, StoredCases
from verse3d.model.trained_on import TrainedOn
from verse3d.training.session import Session


def seen_by(session: Session) -> TrainedOn | None:
    """What the training cases of a run are like; None if they do not come from scans."""
    cases = session.dataset.cases
    return seen_in(cases.each()) if isinstance(cases, StoredCases) else None


def seen_in(cases: Iterable[StoredCase]) -> TrainedOn | None:
    """Measures of the training cases that can be used; None if there is none. Headers are read once.

    Grey values are told once all cases are prepared: before, they would depend on how fast that goes.
    """
    used = [case for case in cases if not case.failure]
    measured = []
    for case in used:
        # A case whose file has gone is prepared all the same, but tells nothing about its grid.
        if grid := _grid(case.files.image_path()):
            measured.append({**grid, **(case.tissue_hu() or {})})
    if not measured:
        return None
    return TrainedOn.of(measured, phantoms=sum(is_phantom(case.files.image_path()) for case in used))


@lru_cache(maxsize=10_000)
def _grid(image: Path) -> dict[str, float]:
    """Nothing if the scan has gone meanwhile: a run goes on with what is prepared."""
    try:
        return grid_measures(read_geometry(image)[0])
    except CASE_ERRORS:
        return {}
