"""The release as downloaded: zips that are looked into, and unpacked without trusting them.

A member is refused, with its reason, if it would land outside of the target folder, is a link or any other special
file, is encrypted, or has the name of another member. A zip is refused if what it says it holds does not fit on the
disk, or swells as no scan does: ``.nii.gz`` files hardly shrink, so a zip of them that grows manyfold is a trap.
"""

import errno
import os
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import FileBatch, regular_file
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.paths import name_problem, path_below, same_on_disk
from verse3d.core.zips import CHUNK_BYTES, ZIP_ERRORS, ZipEntry, Zips, opened_zip

ARCHIVE_SUFFIX = ".zip"
MAX_GROWTH = 50
"""How many times larger than the zip its content may be, once it is larger than ``GROWTH_FREE_BYTES``."""
GROWTH_FREE_BYTES = 2**30
_ENCRYPTED = 0x1

_log = logger(__name__)


@dataclass(frozen=True)
class PackedFile:
    """A file in a zip.

    Attributes:
        path: below the zip; members of a zip in the zip lie below the inner zip's name
            without its ending.
        bytes: size when unpacked.
        crc: CRC-32 of the content.
        problem: why it is refused, or "".
    """

    path: PurePosixPath
    bytes: int
    crc: int
    problem: str = ""


@dataclass(frozen=True)
class Unpacked:
    """What became of a zip.

    Attributes:
        archive: the zip.
        folder: where its content is now.
        written: how many files were written.
        kept: how many were there already, with the same content.
        refused: (member, reason).
    """

    archive: Path
    folder: Path
    written: int
    kept: int
    refused: tuple[tuple[str, str], ...]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip by its name."""
    return path.suffix.lower() == ARCHIVE_SUFFIX and path.is_file()


def archive_above(path: Path) -> Path | None:
    """The zip that a path leads through, or None."""
    return next((parent for parent in path.parents if is_archive(parent)), None)


def find_archives(roots: Iterable[Path]) -> tuple[Path, ...]:
    """The zips among ``roots`` and below them, sorted, each once; zips within zips are not looked for."""
    found: dict[str, Path] = {}
    visited: set[str] = set()
    for path in (file for root in roots for file in _files(root, visited)):
        if is_archive(path) and not path.name.startswith("."):
            found.setdefault(os.path.realpath(path), path)
    return tuple(found.values())


def _files(root: Path, visited: set[str]) -> Iterator[Path]:
    """All files below, links followed, no folder twice."""
    if root.is_file():
        yield root
        return
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        yield from (Path(folder) / name for name in sorted(names))


def list_members(archive: Path) -> tuple[PackedFile, ...]:
    """The files in a zip (and in zips in it) that may be unpacked.

    Only the directories of the zips are read. A zip that is packed in the zip is unpacked to a scratch file.

    Raises:
        DataError: the file is no zip, is damaged, or is refused as a whole.
    """
    with opened_zip(archive) as opened:
        return tuple(member for member, _ in _members(opened) if not member.problem)


def unpack(archive: Path, folder: Path, progress: Progress = no_progress) -> Unpacked:
    """Write the content of a zip below ``folder``. Files that are there with the same content are kept.

    Every file is written whole or not at all and its checksum compared, so an interrupted call can be repeated.

    Raises:
        DataError: the file is no zip, is damaged, or is refused as a whole; or another file is in the way.
        OutputError: the disk is full or not writable.
    """
    with opened_zip(archive, scratch=_existing(folder)) as opened:
        # what a zip lists  ->  refused by name or kind  ->  refused together (a bomb)  ->  outside the folder
        #                                                                              ->  there already
        #                                                                              ->  missing: room? then written
        listed = list(_members(opened))
        refused = [(str(member.path), member.problem) for member, _ in listed if member.problem]
        good = [pair for pair in listed if not pair[0].problem]
        _refuse_trap(archive, [member for member, _ in good])
        missing: list[_Target] = []
        for member, entry in good:
            try:
                target = path_below(folder, *member.path.parts)
            except DataError as error:
                refused.append((str(member.path), error.message))
                continue
            # A call that was interrupted goes on here: what is whole is not written again.
            if not _is_there(target, member):
                missing.append(_Target(target, member, entry))
        _require_space(archive, missing, folder)
        kept = len(listed) - len(refused) - len(missing)
        failed = _write_all(archive, missing, progress)
    return Unpacked(archive, folder, len(missing) - len(failed), kept, (*refused, *failed))


@dataclass(frozen=True)
class _Target:
    """A member and the place it is to be written to."""

    path: Path
    member: PackedFile
    entry: ZipEntry


def _write_all(archive: Path, missing: Sequence[_Target], progress: Progress) -> list[tuple[str, str]]:
    """Write what is missing; (member, reason) of what could not be written."""
    failed: list[tuple[str, str]] = []
    with FileBatch() as batch:
        for number, target in enumerate(missing):
            progress(f"unpacking {archive.name}", number, len(missing))
            try:
                # The checksum is compared at the end of the content, and only then the file gets its name.
                with batch.file(target.path) as part, part.open("wb") as out:
                    out.writelines(_chunks(target.entry))
            except OutputError as error:
                if not _is_about_the_file(error):
                    raise
                failed.append((str(target.member.path), f"cannot be written: {error.message}"))
            except DataError as error:
                failed.append((str(target.member.path), error.message))
    progress(f"unpacking {archive.name}", len(missing), len(missing))
    return failed


def _is_about_the_file(error: OutputError) -> bool:
    """Whether the file's name is at fault, and the next file may be written."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
    )


def _members(opened: Zips) -> Iterator[tuple[PackedFile, ZipEntry]]:
    """Every file of a zip with what is wrong with it."""
    taken: set[str] = set()
    for entry in opened.entries():
        # "A.nii" and "a.nii" are one file on some disks.
        info, key = entry.info, same_on_disk(str(entry.path))
        problem = _problem(entry) or ("has the name of another file in the zip" if key in taken else "")
        taken.add(key)
        yield PackedFile(entry.path, info.file_size, info.CRC, problem), entry


def _problem(entry: ZipEntry) -> str:
    """Why a member must not be unpacked, or ""."""
    info, mode = entry.info, entry.info.external_attr >> 16
    if problem := _path_problem(entry):
        return problem
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link" if stat.S_ISLNK(mode) else "is a special file"
    return "is encrypted" if info.flag_bits & _ENCRYPTED else entry.problem


def _path_problem(entry: ZipEntry) -> str:
    # Read both ways: a zip may come from the other kind of system, and lead out there only.
    path, foreign = PurePosixPath(entry.info.filename), PureWindowsPath(entry.info.filename)
    if path.is_absolute() or foreign.drive or foreign.root or ".." in foreign.parts:
        return "leads out of the target folder"
    if "\\" in entry.info.orig_filename:
        return "has a backslash in its name, which is no separator in a zip"
    if "\0" in entry.info.orig_filename or not path.parts:
        return "has no usable name"
    # The whole path, not the member's own name alone: a zip in the zip called "...zip" would add a "..".
    problem = next(filter(None, map(name_problem, entry.path.parts)), "")
    return problem and f"has a name that {problem}"


def _refuse_trap(archive: Path, members: list[PackedFile]) -> None:
    # By what the directory promises, before a byte is unpacked.
    total, packed = sum(member.bytes for member in members), archive.stat().st_size
    if total > max(GROWTH_FREE_BYTES, MAX_GROWTH * packed):
        raise DataError(
            f"{archive} ({packed / 1e6:.1f} MB) says that it holds {total / 1e9:.1f} GB: refused as a zip bomb",
            hint="scans hardly shrink in a zip; if you trust it, unpack it yourself",
        )


def _require_space(archive: Path, missing: Sequence[_Target], folder: Path) -> None:
    needed, free = sum(target.member.bytes for target in missing), shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise DataError(
            f"{archive} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free",
            hint="free some space or choose another folder with `unpack`",
            option="unpack",
        )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())


def _is_there(target: Path, member: PackedFile) -> bool:
    """Whether the file is there with the member's content.

    Raises:
        DataError: something else stands in its place.
    """
    if not target.exists():
        return False
    # The size first: it costs nothing, and mostly decides.
    if target.is_file() and target.stat().st_size == member.bytes and _crc(target) == member.crc:
        return True
    raise DataError(
        f"{target} exists and is not the {member.path} of the zip", hint="move it away, or unpack into another folder"
    )


def _crc(path: Path) -> int:
    value = 0
    with regular_file(path).open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _chunks(entry: ZipEntry) -> Iterator[bytes]:
    """The content; zipfile compares the checksum at its end, and never gives more bytes than the zip announced."""
    try:
        with entry.holder.open(entry.info) as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    except ZIP_ERRORS as error:
        raise DataError(f"is damaged: {error}") from error
