"""Preparing cases for training ahead of it, and looking after what is prepared. Loads no PyTorch."""

from collections.abc import Sequence
from pathlib import Path

from verse3d.core.config import load_config
from verse3d.core.files import PathOrText
from verse3d.core.logs import Progress, no_progress
from verse3d.data.index.discover import load_cases
from verse3d.data.samples.listing import StoredState, list_store, prune_store
from verse3d.data.samples.preparation import Preparation, prepare_cases
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import SampleStore, open_store, store_beside


def prepare(
    data: PathOrText,
    *,
    config: PathOrText = "unet3d",
    overrides: Sequence[str] = (),
    store: PathOrText | None = None,
    workers: int | None = 1,
    progress: Progress = no_progress,
) -> Preparation:
    """Carry the cases to the network grid, once, and keep them in a store that ``train`` reads.

    These are all with scan and mask that are not in the "test" split, which is predicted from the files themselves.
    What is prepared already is compared with its checksums, and made again if it is damaged. A preparation that was
    stopped goes on where it was.

    Args:
        data: an index or a folder.
        config: path or name of a YAML file; only the network grid counts: its section ``grid``, and the pixels that
            ``slices.spacing_mm`` asks for.
        overrides: ``"grid.key=value"`` on top of it.
        store: the folder to keep them in; None for ``cases.store`` beside ``cases.jsonl``.
        workers: processes; 1 prepares in this one, None takes as many as cores and memory allow. With more than one, a
            script needs the usual ``if __name__ == "__main__":`` around its calls.
        progress: told about every case.

    Returns:
        What was made, kept and repaired, and the cases that cannot be prepared.

    Raises:
        ConfigError: the config holds mistakes, or asks for pixels that do not suit its mode.
        DataError: there is no such index or folder, or no case in it; the store is of a newer version, or no store.
        OutputError: the disk is too small, or cannot be written to. What is prepared stays.
    """
    source = Path(data)
    settings = load_config(Path(config), overrides)
    if settings.slices.spacing_mm is not None:
        # A grid made of pixels is of use only to a mode that has them. The modes load PyTorch, which all else does not.
        from verse3d.model.modes import require_suitable

        require_suitable(settings)
    cases = load_cases(source)
    place = _store(source, store)
    # What killed preparations have left is in nobody's way, but takes room.
    place.tidy()
    wanted = [case for case in cases if case.image and case.mask and case.split != "test"]
    jobs = [Job.of(place, settings.grid, case) for case in wanted]
    return prepare_cases(jobs, workers, progress)


def prepared(data: PathOrText, *, store: PathOrText | None = None) -> list[StoredState]:
    """What a store holds, and whether the cases can still use it.

    Args:
        data: the index or the folder whose cases it holds.
        store: the folder; None for the one beside ``data``.

    Raises:
        DataError: there is no such index or folder; the store is of a newer version, or no store.
    """
    source = Path(data)
    return list_store(_store(source, store), load_cases(source).cases)


def prune(data: PathOrText, *, store: PathOrText | None = None) -> list[StoredState]:
    """Remove from a store what the cases cannot use any more: entries of changed files, damaged ones, leftovers.

    Args:
        data: the index or the folder whose cases it holds. What belongs to none of them is removed, so do not name a
            smaller index than trainings that share the store use.
        store: the folder; None for the one beside ``data``.

    Returns:
        What was removed.

    Raises:
        DataError: there is no such index or folder; the store is of a newer version, or no store.
        OutputError: the store cannot be written.
    """
    source = Path(data)
    return prune_store(_store(source, store), load_cases(source).cases)


def _store(data: Path, store: PathOrText | None) -> SampleStore:
    return open_store(store_beside(data) if store is None else Path(store))
