"""A scan as one file that stays the same while it is read, and one that is read, and may be worked on, meanwhile."""

import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from verse3d.core.errors import DataError, without_frames
from verse3d.core.volume import Arriving, StoredVoxels, Volume, read_image, stored_voxels

_SWITCH_SECONDS = 0.0005
"""How soon a thread that wants Python's lock gets it, usually 5 ms: for each megabyte of voxels, which takes 4 ms."""


@dataclass(frozen=True, eq=False)
class ReadScan:
    """A scan in memory.

    Attributes:
        stored: what its header told before.
        volume: its voxels.
        seconds: that reading them took.
        ended: when that was done, by ``time.perf_counter``.
    """

    stored: StoredVoxels
    volume: Volume
    seconds: float
    ended: float


class ArrivingScan:
    """A scan that another thread still reads, of which more and more is there.

    Args:
        stored: what its header told before.
        volume: of which nothing is there yet.
    """

    def __init__(self, stored: StoredVoxels, volume: Volume) -> None:
        self.stored, self.volume = stored, volume
        self._whole: Future[ReadScan] = Future()
        self._more, self._count = threading.Condition(), 0

    @classmethod
    def arrived(cls, scan: ReadScan) -> Self:
        """One that is there."""
        one = cls(scan.stored, scan.volume)
        one.end(scan)
        return one

    @property
    def megabytes(self) -> float:
        """So much of it is there (10^6 bytes)."""
        return min(self._count, self.volume.array.size) * self.volume.array.itemsize / 1e6

    def reached(self, count: int) -> None:
        """So many voxels are there: the first ones in the order of memory."""
        with self._more:
            self._count = count
            self._more.notify_all()

    def end(self, scan: ReadScan | Exception) -> None:
        """It is there, or will never be."""
        if isinstance(scan, Exception):
            self._whole.set_exception(without_frames(scan))
        else:
            self._whole.set_result(scan)
        self.reached(self.volume.array.size)

    def wait_for(self, count: int) -> None:
        """Return when so many voxels are there. Raises what reading has raised."""
        with self._more:
            self._more.wait_for(lambda: self._count >= count)
        if self._whole.done():
            self.whole()

    def whole(self) -> ReadScan:
        """The scan when all of it is there, and was found to be sound. Raises what reading has raised."""
        # A copy: what is raised holds the frames of those who wait, these hold the scan, and the scan holds its error.
        if (error := self._whole.exception()) is not None:
            raise without_frames(error)
        return self._whole.result()


@dataclass(frozen=True, eq=False)
class ScanFile:
    """A scan whose header was read.

    Attributes:
        path: of the file.
        stored: what the header tells.
        identity: what changes if the file is written to or replaced.
    """

    path: Path
    stored: StoredVoxels
    identity: tuple[int, ...]

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Read the header.

        Raises:
            DataError, GeometryError: as for ``stored_voxels``.
        """
        return cls(path, stored_voxels(path), _identity(path))

    def read(self, arriving: Arriving = lambda volume, count: None) -> ReadScan:
        """Read the voxels.

        Args:
            arriving: see ``read_image``.

        Raises:
            DataError: it was replaced meanwhile, or as for ``read_image``.
            MemoryLimitError: it would not fit into the memory that is free.
        """
        start = time.perf_counter()
        volume = read_image(self.path, arriving)
        # A download that still runs would give half a scan.
        if _identity(self.path) != self.identity or volume.header.binaryblock != self.stored.header.binaryblock:
            raise DataError(f"{self.path} was replaced while it was read", hint="predict it again when it is complete")
        ended = time.perf_counter()
        return ReadScan(self.stored, volume, ended - start, ended)


class ReadAhead:
    """A scan that is being read in a thread of its own, for which the end of the program does not wait.

    ::

        main thread     import PyTorch ..., read the model, build the network
        this thread     unpack the scan
        who takes it                    ...    resample what is there

    Args:
        path: of the scan.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: Future[ArrivingScan] | None = Future()
        threading.Thread(target=_read, args=(path, self._begun), name="read ahead", daemon=True).start()

    def take(self, path: Path) -> Future[ArrivingScan] | None:
        """The scan of that path, as soon as there is any of it; None if it is another, or was taken before.

        Its ``result``, and those of the scan's own methods, raise as ``ScanFile``. It is not held here any more.
        """
        if path != self._path:
            return None
        begun, self._begun = self._begun, None
        return begun


def _read(path: Path, into: Future[ArrivingScan]) -> None:
    with _short_turns:
        try:
            _follow(ScanFile.opened(path), into)
        except Exception as error:
            into.set_exception(error)


def _follow(file: ScanFile, into: Future[ArrivingScan]) -> None:
    """Read a scan, and give it away as soon as there is any of it. Raises what is wrong before that."""

    def arriving(volume: Volume, count: int) -> None:
        if not into.done():
            into.set_result(ArrivingScan(file.stored, volume))
        into.result().reached(count)

    try:
        scan = file.read(arriving)
    except Exception as error:
        if not into.done():
            raise
        into.result().end(error)
        return
    if into.done():
        into.result().end(scan)
    else:
        into.set_result(ArrivingScan.arrived(scan))


class _ShortTurns:
    """While anything is read ahead, threads take turns more often: an import holds Python's lock nearly all the time,
    and unpacking asks for it after each piece. The last one to end puts back what the first one found.
    """

    def __init__(self) -> None:
        self._lock, self._count, self._usual = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._count:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, _SWITCH_SECONDS))
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                sys.setswitchinterval(self._usual)


_short_turns = _ShortTurns()


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
