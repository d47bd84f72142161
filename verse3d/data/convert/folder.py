"""The folder that a conversion fills: never over somebody's files, each file whole, and a manifest of what is ours."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import (
    make_folder,
    output_error,
    regular_file,
    resolved,
    whole_file,
)
from verse3d.core.nifti_bytes import copy_with_head
from verse3d.core.paths import TEMPORARY_PREFIX, name_problem, path_below
from verse3d.data.converted import MANIFEST, read_conversion, write_conversion


@dataclass(frozen=True)
class OutputFolder:
    """A folder to put files into.

    Attributes:
        root: the folder.
        links: link to the sources rather than copy them.
    """

    root: Path
    links: bool = True

    def target(self, path: str) -> Path:
        """Where a file of a plan goes (``path`` has slashes); DataError if that is not below the folder."""
        return path_below(self.root, *PurePosixPath(path).parts)

    def place(self, source: Path, path: str) -> Literal["link", "copy", "compressed"]:
        """Put a NIfTI or JSON file below the folder; a ``.nii`` is compressed on the way to ``.nii.gz``.

        Returns:
            "link", "copy" or "compressed".

        Raises:
            OutputError: the file system refuses.
        """
        target, source = self.target(path), regular_file(source)
        if source.name.lower().endswith(".nii"):
            with whole_file(target) as part:
                copy_with_head(source, part, b"")  # its own head: only the packing is new
            return "compressed"
        if self.links:
            _link(target, source)
            return "link"
        with whole_file(target) as part:
            shutil.copyfile(source, part)
        return "copy"


def _link(target: Path, source: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
    except OSError as error:
        problem = output_error(target, error)
        hint = problem.hint or "this file system may have no links: use `links=False`"
        raise OutputError(problem.message, hint=hint) from error


def claim(root: Path, planned: Sequence[str], *, sources: Iterable[Path], overwrite: bool) -> None:
    """Make the folder ready for the planned files: it is new or empty, or what an earlier conversion wrote is removed.

    A manifest that names all planned files is written before any of them, so that an interrupted conversion can be
    told from somebody's files and made again.

    Args:
        root: the folder.
        planned: paths below it.
        sources: what will be read; none of it may lie in the folder.
        overwrite: remove an earlier conversion.

    Raises:
        OutputError: the folder holds an earlier conversion and ``overwrite`` is off; or files that no conversion
            wrote, or that were changed since; or it cannot be written to.
        DataError: a source lies in the folder.
    """
    # Before anything is removed: an earlier conversion may hold links to the very files that are to be read.
    _refuse_sources_inside(root, sources)
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file, but a folder is needed", hint="name another folder")
    earlier: dict[str, Any] = {}
    if root.exists() and any(root.iterdir()):
        earlier = _earlier_files(root, overwrite=overwrite)
        _refuse_foreign(root, earlier, planned)
    make_folder(root)
    # Earlier files stay in the list until they are gone: a process that is killed here can be taken up.
    write_conversion(root, [{"path": path} for path in sorted({*earlier, *planned})], finished=False)
    _remove(root, earlier)


def finish(root: Path, written: Iterable[str], content: Mapping[str, Any]) -> None:
    """Replace the manifest by one that says what became of every case, and how each file looked when it was written.

    Raises:
        OutputError: it cannot be written.
    """
    files = [{"path": path, **_stamp(root / path)} for path in sorted(written)]
    write_conversion(root, files, finished=True, content=content)


def _stamp(path: Path) -> dict[str, int]:
    status = path.lstat()
    return {"bytes": status.st_size, "modified": int(status.st_mtime)}


def _refuse_sources_inside(root: Path, sources: Iterable[Path]) -> None:
    real = root.resolve()
    inside = sorted(folder for folder in {path.parent for path in sources} if resolved(folder).is_relative_to(real))
    if inside:
        raise DataError(
            f"{inside[0]}, which is to be read, lies in {root}", hint="choose another folder as `out`", option="out"
        )


def _earlier_files(root: Path, *, overwrite: bool) -> dict[str, Any]:
    """The manifest's files (path -> its row) of the conversion that the folder holds."""
    foreign = OutputError(
        f"{root} holds files that no conversion wrote",
        hint="choose a new or empty folder as `out`; nothing was changed",
        option="out",
    )
    if not (root / MANIFEST).is_file():
        raise foreign
    try:
        manifest = read_conversion(root)
    except DataError as error:
        raise foreign from error
    files = {row.path: row.model_dump(exclude={"path"}, exclude_none=True) for row in manifest.files}
    if any(name_problem(name) for path in files for name in PurePosixPath(path).parts):
        raise foreign
    if not overwrite:
        state = "a conversion" if manifest.finished else "an unfinished conversion"
        hint = "use `overwrite` or another folder as `out`"
        raise OutputError(f"{root} already holds {state}", hint=hint, option="overwrite")
    return files


def _refuse_foreign(root: Path, earlier: Mapping[str, Any], planned: Sequence[str]) -> None:
    """Refuse where a planned file stands that is not ours, or one of ours has changed or was moved elsewhere."""
    # In the way of a planned file, and not of the earlier conversion: somebody put it there.
    foreign = [path for path in planned if path not in earlier and os.path.lexists(root / path)]
    real = root.resolve()
    for path, row in earlier.items():
        file = root / path
        if os.path.lexists(file) and (not file.parent.resolve().is_relative_to(real) or _changed(file, row)):
            foreign.append(path)
    if foreign:
        raise OutputError(
            f"{root / foreign[0]} was not written by the earlier conversion, or has changed since"
            + (f" (and {len(foreign) - 1} more)" if foreign[1:] else ""),
            hint="move such files away, or choose another folder as `out`; nothing was changed",
            option="out",
        )


def _changed(file: Path, row: Mapping[str, Any]) -> bool:
    # A folder where a file was written is somebody's.
    if file.is_dir() and not file.is_symlink():
        return True
    return "bytes" in row and any(row.get(key) != value for key, value in _stamp(file).items())


def _remove(root: Path, paths: Iterable[str]) -> None:
    folders = {root}
    try:
        for path in paths:
            (root / path).unlink(missing_ok=True)
            folders.update(folder for folder in (root / path).parents if folder.is_relative_to(root))
        # The deepest first, so that each is empty when it is its turn.
        for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
            for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
                leftover.unlink()
            with contextlib.suppress(OSError):  # not empty, or not there
                if folder != root:
                    folder.rmdir()
    except OSError as error:
        raise output_error(root, error) from error
