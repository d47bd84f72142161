"""A scan as one file that stays the same while it is read, and one that is read while the program still loads."""

import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from verse3d.core.errors import DataError
from verse3d.core.volume import StoredVoxels, Volume, read_image, stored_voxels

_SWITCH_SECONDS = 0.0005
"""How soon a thread that wants Python's lock gets it, usually 5 ms: for each megabyte of voxels, which takes 4 ms."""


@dataclass(frozen=True, eq=False)
class ReadScan:
    """A scan in memory.

    Attributes:
        stored: what its header told before.
        volume: its voxels.
        seconds: that reading them took.
    """

    stored: StoredVoxels
    volume: Volume
    seconds: float


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

    def read(self) -> ReadScan:
        """Read the voxels.

        Raises:
            DataError: it was replaced meanwhile, or as for ``read_image``.
            MemoryLimitError: it would not fit into the memory that is free.
        """
        start = time.perf_counter()
        volume = read_image(self.path)
        # A download that still runs would give half a scan.
        if _identity(self.path) != self.identity or volume.header.binaryblock != self.stored.header.binaryblock:
            raise DataError(f"{self.path} was replaced while it was read", hint="predict it again when it is complete")
        return ReadScan(self.stored, volume, time.perf_counter() - start)


class ReadAhead:
    """A scan that is being read in a thread of its own, for which the end of the program does not wait.

    ::

        main thread     import PyTorch ..., read the model, build the network
        this thread     unpack the scan

    Args:
        path: of the scan.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: Future[ReadScan] | None = Future()
        threading.Thread(target=_read, args=(path, self._begun), name="read ahead", daemon=True).start()

    def take(self, path: Path) -> Future[ReadScan] | None:
        """The scan of that path, whose ``result`` raises as ``ScanFile``; None if it is another, or was taken before.

        It is not held here any more.
        """
        if path != self._path:
            return None
        begun, self._begun = self._begun, None
        return begun


def _read(path: Path, into: Future[ReadScan]) -> None:
    usual = sys.getswitchinterval()
    # An import holds Python's lock nearly all the time, and unpacking asks for it after each piece.
    sys.setswitchinterval(min(usual, _SWITCH_SECONDS))
    try:
        into.set_result(ScanFile.opened(path).read())
    except Exception as error:
        into.set_exception(error)
    finally:
        if usual > _SWITCH_SECONDS:  # else another one that is being read has shortened it, and will undo that
            sys.setswitchinterval(usual)


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
