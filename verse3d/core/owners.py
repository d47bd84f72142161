"""Which process wrote a file, and whether it may still be at it: several may fill one folder, and any may be killed."""

import hashlib
import os
import platform
import re
import time
from pathlib import Path

from verse3d.core.system import process_start

_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
OWNER = re.compile(r"(?P<pid>[0-9]+)(\.(?P<machine>[0-9a-f]{8}))?")
"""What ``owner`` gives; files of earlier versions lack the machine."""
_CLOCKS_APART_SECONDS = 60
"""A file's time may come from another machine's clock."""
_FORGOTTEN_SECONDS = 86400
"""What a process on another machine has not touched for a day is taken to be left behind."""


def owner() -> str:
    """This process among all that write into a folder, which several machines may share: "number.machine"."""
    return f"{os.getpid()}.{_MACHINE}"


def is_alive(name: str, file: Path) -> bool:
    """Whether the process that calls itself ``name`` (see ``owner``) and wrote ``file`` may still be at it.

    Numbers of processes are given away again: one that began after the file was written is another. What happens on
    another machine cannot be seen, so there a file counts as left behind when it is a day old.
    """
    match = OWNER.fullmatch(name)
    if match is None:
        return True
    written = file.stat().st_mtime
    if match["machine"] not in (None, _MACHINE):
        return time.time() - written < _FORGOTTEN_SECONDS
    started = process_start(int(match["pid"]))
    return started is not None and started <= written + _CLOCKS_APART_SECONDS
