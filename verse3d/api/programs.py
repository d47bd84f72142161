"""verse3d's own command line, started as a program of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from verse3d.core.errors import OutputError

_POLL_SECONDS = 0.5


def command_line(*words: object, **options: object) -> list[str]:
    """A command as a shell takes it: ``("predict", "a.nii", out="masks", overwrite=True)`` becomes five words.

    Args:
        words: the command and its arguments.
        options: by name, with ``_`` for ``-``; True for one that takes no value, and None or False for one left out.
    """
    line = [str(word) for word in words]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            line.append(flag)
        elif value is not None and value is not False:
            line += [flag, str(value)]
    return line


def run_predict(scans: Path, watch: Callable[[], None], *, model: Path, out: Path, device: str) -> tuple[int, str]:
    """Predict in a new process, one scan after the other, and replace the masks that are there.

    Args:
        scans: an index.
        watch: called now and then meanwhile.
        model: the model file.
        out: the folder of the masks.
        device: where to compute.

    Returns:
        The exit code (negative: killed by that signal), and what was written to stderr.

    Raises:
        OutputError: it cannot be started.
        KeyboardInterrupt: it was interrupted.
    """
    options = {"model": model, "out": out, "device": device, "overwrite": True, "one_by_one": True, "no_preview": True}
    return run_verse3d(command_line("-q", "predict", scans, **options), watch)


def run_verse3d(arguments: Sequence[str], watch: Callable[[], None]) -> tuple[int, str]:
    """Run the command line in a new process; its exit code (negative: killed by a signal) and what it complained about.

    Raises:
        OutputError: it cannot be started.
        KeyboardInterrupt: it was interrupted.
    """
    package = str(Path(__file__).absolute().parents[2])
    # The program must be this very checkout, whatever is installed and whatever folder it starts in.
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    # A file, not a pipe: a program that complains a lot would fill a pipe and wait for ever.
    with TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "verse3d", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            raise OutputError(f"cannot start {sys.executable}: {error}") from error
        code = _wait(process, watch)
        complaints.seek(0)
        complaint = complaints.read().decode(errors="replace").strip()
    # It was interrupted by the same Ctrl-C, which reaches all programs of a terminal.
    if code == 130:
        raise KeyboardInterrupt
    return code, complaint


def _wait(process: "subprocess.Popen[bytes]", watch: Callable[[], None]) -> int:
    try:
        # Waits in short turns, so that ``watch`` can tell how far it is.
        while True:
            try:
                return process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                watch()
    finally:
        # Whatever ends the waiting ends the program as well: no orphan goes on writing masks.
        if process.poll() is None:
            process.kill()
            process.wait()
