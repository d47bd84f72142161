"""A folder of prepared cases, shared by all trainings that want it, also at the same time and over a network.

    cases.store/
        store.json                     that this is a store, and of which version
        sub-verse004-1f0c.../          an entry, complete and never changed
        sub-verse005-77ab....claim     somebody is preparing it
        sub-verse006-90e2....failed    why it cannot be prepared
        .verse3d-node7-812-sub-.../    what is being written

No locks are used, which network disks do not keep reliably: an entry appears by renaming its folder, so it is there or
it is not, and of two that prepare the same case the second finds it done. Claims only save them the work.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import output_error, write_json
from verse3d.core.paths import TEMPORARY_PREFIX
from verse3d.core.readers import MEGABYTE, Record, Text, Whole, read_record
from verse3d.core.system import flush_file, flush_folder, is_running
from verse3d.data.samples.entry import Entry, read_entry

STORE_VERSION = 1
"""Raised when the folder is laid out in another way. Entries have a version of their own."""

_MARKER = "store.json"
_CLAIM, _FAILED = ".claim", ".failed"
_SILENT_SECONDS = 120
"""A claim of another computer that was not renewed for so long is given up."""
_ABANDONED_SECONDS = 24 * 3600


class _Marker(Record):
    """What ``store.json`` says."""

    version: Whole


class _Claim(Record):
    """Who is preparing a case."""

    computer: Text
    process: Annotated[int, Field(ge=1, lt=2**31, strict=True)]


class _Failure(Record):
    """Why a case cannot be prepared."""

    reason: Text


@dataclass(frozen=True)
class SampleStore:
    """A store that exists. Cheap to send to another process."""

    folder: Path

    def entry_folder(self, name: str) -> Path:
        """Where the entry of that name is, if it is."""
        return self.folder / name

    def entry(self, name: str) -> Entry | None:
        """The entry of that name; None if it is not prepared.

        Raises:
            DamagedEntryError: it is there and not what was written.
        """
        return read_entry(self.entry_folder(name))

    def failure(self, name: str) -> str:
        """Why the case cannot be prepared; "" if that is not known."""
        try:
            return read_record(self.folder / f"{name}{_FAILED}", _Failure, max_bytes=MEGABYTE).reason
        except DataError:
            return ""

    def note_failure(self, name: str, reason: str) -> None:
        """Remember why the case cannot be prepared, for the other processes of a training.

        Raises:
            OutputError: the store cannot be written.
        """
        write_json(self.folder / f"{name}{_FAILED}", {"reason": reason})

    def forget_failure(self, name: str) -> None:
        """Let the case be tried again."""
        with contextlib.suppress(OSError):
            (self.folder / f"{name}{_FAILED}").unlink()

    @contextlib.contextmanager
    def new_entry(self, name: str) -> Iterator[Path]:
        """A temporary folder to fill; it becomes the entry if the block ends well and nobody was faster.

        Raises:
            OutputError: the file system refuses (disk full, not writable ...).
        """
        # .part-<computer>-<process>-<name>/      filled by one process, seen by none
        #     | flushed, then renamed             at once, or not at all
        # <name>/                                 never changed again
        temporary = self.folder / f"{TEMPORARY_PREFIX}{_computer()}-{os.getpid()}-{name}"
        try:
            try:
                temporary.mkdir()
                yield temporary
                # Before the rename: after a power cut a name must never stand for half an entry.
                for path in temporary.iterdir():
                    flush_file(path)
                flush_folder(temporary)
                try:
                    temporary.rename(self.entry_folder(name))
                except OSError:
                    if not self.entry_folder(name).is_dir():  # else another process was faster, with the same voxels
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OutputError:
            raise
        except OSError as error:
            raise output_error(self.entry_folder(name), error) from error

    def remove_entry(self, name: str) -> None:
        """Take an entry away at once, so that nobody meets half of it.

        Raises:
            OutputError: the file system refuses.
        """
        away = self.folder / f"{TEMPORARY_PREFIX}{_computer()}-{os.getpid()}-{name}-removed"
        try:
            # Renamed first: removing file by file would leave half an entry in its place.
            self.entry_folder(name).rename(away)
        except FileNotFoundError:
            return
        except OSError as error:
            raise output_error(self.entry_folder(name), error) from error
        shutil.rmtree(away, ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Whether the case is now this process's to prepare: False while another one is at it.

        Raises:
            OutputError: the store cannot be written.
        """
        path = self.folder / f"{name}{_CLAIM}"
        if _is_given_up(path):
            with contextlib.suppress(OSError):
                path.unlink()
        try:
            # "x" makes the file or fails: of two processes that ask at once the file system lets one in.
            with path.open("x", encoding="utf-8") as handle:
                json.dump({"computer": _computer(), "process": os.getpid()}, handle)
        except FileExistsError:
            yield False
            return
        except OSError as error:
            raise output_error(path, error) from error
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def renew_claim(self, name: str) -> None:
        """Tell other computers that this process is still at it."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / f"{name}{_CLAIM}")

    def tidy(self) -> None:
        """Remove what processes left that were killed while they prepared."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            computer, _, rest = path.name.removeprefix(TEMPORARY_PREFIX).rpartition(f"{_computer()}-")
            process = rest.partition("-")[0]
            # Whether a process lives can be asked on its own computer; of others only how long they are silent.
            ours = not computer and process.isdecimal()
            if (ours and not is_running(int(process))) or _silent_for(path) > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f"*{_CLAIM}"):
            if _is_given_up(path):
                with contextlib.suppress(OSError):
                    path.unlink()

    def names(self) -> list[str]:
        """All entries, of whatever index, grid and version."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def store_beside(data: Path) -> Path:
    """Where the cases of an index (or a folder) are kept unless somebody says otherwise: ``cases.store``."""
    return data.with_suffix(".store") if data.is_file() else data.with_name(f"{data.resolve().name}.store")


def open_store(folder: Path) -> SampleStore:
    """The store in a folder, which is made if it is missing.

    Raises:
        DataError: the folder holds something else, or the store of a newer version.
        OutputError: it is missing and cannot be made.
    """
    marker = folder / _MARKER
    if not marker.exists():
        # In this order: who is making the store at this moment writes the marker before anything else.
        if _holds_files(folder) and not marker.exists():
            raise DataError(
                f"{folder} is no prepared store: it holds other files and no {_MARKER}",
                hint="choose another folder with `store`",
                option="store",
            )
        try:
            write_json(marker, {"verse3d": "prepared store", "version": STORE_VERSION})
        except OutputError as error:
            hint = "the prepared cases need a place to be kept: choose a folder with `store`"
            raise OutputError(error.message, hint=hint, option="store") from error
    _require_known(marker)
    return SampleStore(folder)


def _holds_files(folder: Path) -> bool:
    """Whether there is anything but files that are just being written."""
    return folder.is_dir() and any(not path.name.startswith(TEMPORARY_PREFIX) for path in folder.iterdir())


def _require_known(marker: Path) -> None:
    try:
        version = read_record(marker, _Marker, max_bytes=MEGABYTE).version
    except DataError as error:
        raise DataError(f"{marker} does not say which version of store this is", hint="remove the folder") from error
    if version > STORE_VERSION:
        raise DataError(
            f"the store {marker.parent} is of version {version}, this verse3d knows {STORE_VERSION} at most",
            hint="use a newer verse3d, or another folder with `store`",
            option="store",
        )


def _is_given_up(claim: Path) -> bool:
    """Whether who made a claim has ended, or was not heard of for long."""
    try:
        owner = read_record(claim, _Claim, max_bytes=MEGABYTE)
        if owner.computer == _computer():
            return not is_running(owner.process)
    except DataError:
        pass  # it is gone, is just being written, or is damaged
    return _silent_for(claim) > _SILENT_SECONDS


def _silent_for(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _computer() -> str:
    return socket.gethostname()
