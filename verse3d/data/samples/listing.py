"""What a store holds, and what of it nobody can use any more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from verse3d.core.errors import DataError
from verse3d.data.cases import Case
from verse3d.data.samples.blocks import DamagedEntryError
from verse3d.data.samples.keys import entry_name
from verse3d.data.samples.preparation import disk_bytes
from verse3d.data.samples.store import SampleStore

State = Literal["current", "stale", "damaged"]


@dataclass(frozen=True)
class StoredState:
    """An entry of a store.

    Attributes:
        name: of its folder.
        case: name of the case; "" if that cannot be read.
        spacing_mm: of the network grid; () if that cannot be read.
        window_hu: grey values that became 0 and 1; () if that cannot be read.
        disk_bytes: what it takes.
        state: "current"; "stale" if no case of the index has these files and corrections any more, or an older or newer
            verse3d made it; "damaged" if it cannot be read.
    """

    name: str
    case: str
    spacing_mm: tuple[float, ...]
    window_hu: tuple[float, ...]
    disk_bytes: int
    state: State


def list_store(store: SampleStore, cases: Sequence[Case]) -> list[StoredState]:
    """All entries, for whatever grid, and whether the cases can still use them."""
    known = {case.case: case for case in cases}
    return [_state(store, name, known) for name in store.names()]


def prune_store(store: SampleStore, cases: Sequence[Case]) -> list[StoredState]:
    """Remove stale and damaged entries, and what killed processes left; returns what was removed.

    Raises:
        OutputError: the store cannot be written.
    """
    removed = [state for state in list_store(store, cases) if state.state != "current"]
    for state in removed:
        store.remove_entry(state.name)
    store.tidy()
    return removed


def _state(store: SampleStore, name: str, cases: dict[str, Case]) -> StoredState:
    size = disk_bytes(store, name)
    try:
        entry = store.entry(name)
    except DamagedEntryError:
        entry = None
    if entry is None:
        return StoredState(name, "", (), (), size, "damaged")
    try:
        current = entry.case in cases and entry_name(cases[entry.case], entry.grid) == name
    except DataError:  # a file of the case has gone
        current = False
    return StoredState(
        name, entry.case, entry.grid.spacing_mm, entry.grid.window_hu, size, "current" if current else "stale"
    )
