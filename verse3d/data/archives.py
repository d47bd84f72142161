"""The release as downloaded: zips that are looked into, and unpacked without trusting them.

A member is refused, with its reason, if it would land outside of the target folder, is a link or any other special
file, is encrypted, or has the name of another member. A zip is refused if what it says it holds does not fit on the
disk, or swells as no scan does: ``.nii.gz`` files hardly shrink, so a zip of them that grows manyfold is a trap.
"""

import contextlib
import errno
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import whole_file
from verse3d.core.logs import Progress, logger, no_progress

ARCHIVE_SUFFIX = ".zip"
MAX_MEMBERS = 200_000
MAX_DEPTH = 3
"""Zips within zips: the release nests them once."""
MAX_GROWTH = 50
"""How many times larger than the zip its content may be, once it is larger than ``GROWTH_FREE_BYTES``."""
GROWTH_FREE_BYTES = 2**30
_PIECE_BYTES = 2**20
_ENCRYPTED = 0x1
_ZIP_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)

_log = logger(__name__)


@dataclass(frozen=True)
class Member:
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


def list_members(archive: Path) -> tuple[Member, ...]:
    """The files in a zip (and in zips in it) that may be unpacked; only the directories of the zips are read.

    Raises:
        DataError: the file is no zip, or is damaged.
    """
    with _opened(archive) as opened:
        return tuple(member for member, _, _ in _walk(opened, PurePosixPath(), 1, set()) if not member.problem)


def unpack(archive: Path, folder: Path, progress: Progress = no_progress) -> Unpacked:
    """Write the content of a zip below ``folder``. Files that are there with the same content are kept.

    Every file is written whole or not at all and its checksum compared, so an interrupted call can be repeated.

    Raises:
        DataError: the file is no zip, is damaged, or is refused as a whole; or another file is in the way.
        OutputError: the disk is full or not writable.
    """
    with _opened(archive) as opened:
        entries = list(_walk(opened, PurePosixPath(), 1, set()))
        refused = [(str(member.path), member.problem) for member, _, _ in entries if member.problem]
        good = [entry for entry in entries if not entry[0].problem]
        _refuse_trap(archive, [member for member, _, _ in good])
        missing = [entry for entry in good if not _is_there(folder / entry[0].path, entry[0])]
        _require_space(archive, [member for member, _, _ in missing], folder)
        for number, (member, holder, info) in enumerate(missing):
            progress(f"unpacking {archive.name}", number, len(missing))
            try:
                _write(folder / member.path, member, holder, info)
            except OutputError as error:
                if not _is_about_the_file(error):
                    raise
                refused.append((str(member.path), f"cannot be written: {error.message}"))
            except DataError as error:
                refused.append((str(member.path), error.message))
        progress(f"unpacking {archive.name}", len(missing), len(missing))
    kept = len(good) - len(missing)
    return Unpacked(archive, folder, len(entries) - kept - len(refused), kept, tuple(refused))


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


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        opened = zipfile.ZipFile(archive)
    except _ZIP_ERRORS as error:
        raise DataError(f"{archive} cannot be read as a zip: {error}", hint="download it again") from error
    with opened:
        yield opened


_Entry = tuple[Member, zipfile.ZipFile, zipfile.ZipInfo]


def _walk(opened: zipfile.ZipFile, above: PurePosixPath, depth: int, taken: set[str]) -> Iterator[_Entry]:
    """Every file of a zip, depth first, with what is wrong with it."""
    infos = [info for info in opened.infolist() if not info.is_dir()]
    if len(infos) > MAX_MEMBERS:
        raise DataError(f"{opened.filename} holds {len(infos)} files, at most {MAX_MEMBERS} are unpacked")
    for info in infos:
        path = above / PurePosixPath(info.filename)
        problem = _problem(info) or ("has the name of another file in the zip" if str(path).lower() in taken else "")
        taken.add(str(path).lower())
        inner = path.suffix.lower() == ARCHIVE_SUFFIX
        if inner and not problem:
            yield from _walk_inner(opened, info, path, depth, taken)
        else:
            yield Member(path, info.file_size, info.CRC, problem), opened, info


def _walk_inner(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: PurePosixPath, depth: int, taken: set[str]
) -> Iterator[_Entry]:
    if depth >= MAX_DEPTH:
        yield Member(path, info.file_size, info.CRC, f"is a zip in more than {MAX_DEPTH} zips"), opened, info
        return
    try:
        inner = zipfile.ZipFile(opened.open(info))
    except _ZIP_ERRORS as error:
        yield Member(path, info.file_size, info.CRC, f"cannot be read as a zip: {error}"), opened, info
        return
    yield from _walk(inner, path.with_suffix(""), depth + 1, taken)


def _problem(info: zipfile.ZipInfo) -> str:
    """Why a member must not be unpacked, or ""."""
    name, mode = info.filename, info.external_attr >> 16
    path, foreign = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or foreign.drive or foreign.root or ".." in foreign.parts:
        return "leads out of the target folder"
    if "\\" in info.orig_filename:
        return "has a backslash in its name, which is no separator in a zip"
    if "\0" in info.orig_filename or not path.parts:
        return "has no usable name"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link" if stat.S_ISLNK(mode) else "is a special file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    return ""


def _refuse_trap(archive: Path, members: list[Member]) -> None:
    total, packed = sum(member.bytes for member in members), archive.stat().st_size
    if total > max(GROWTH_FREE_BYTES, MAX_GROWTH * packed):
        raise DataError(
            f"{archive} ({packed / 1e6:.1f} MB) says that it holds {total / 1e9:.1f} GB: refused as a zip bomb",
            hint="scans hardly shrink in a zip; if you trust it, unpack it yourself",
        )


def _require_space(archive: Path, missing: list[Member], folder: Path) -> None:
    needed, free = sum(member.bytes for member in missing), shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise DataError(
            f"{archive} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free",
            hint="free some space or choose another folder with --unpack",
        )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())


def _is_there(target: Path, member: Member) -> bool:
    """Whether the file is there with the member's content.

    Raises:
        DataError: something else stands in its place.
    """
    if not target.exists():
        return False
    if target.is_file() and target.stat().st_size == member.bytes and _crc(target) == member.crc:
        return True
    raise DataError(
        f"{target} exists and is not the {member.path} of the zip", hint="move it away, or unpack into another folder"
    )


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as handle:
        while piece := handle.read(_PIECE_BYTES):
            value = zlib.crc32(piece, value)
    return value


def _write(target: Path, member: Member, holder: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    with whole_file(target) as part, part.open("wb") as out:
        for piece in _pieces(holder, info):
            out.write(piece)


def _pieces(holder: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content; zipfile compares the checksum at its end, and never gives more bytes than the zip announced."""
    try:
        with holder.open(info) as source:
            while piece := source.read(_PIECE_BYTES):
                yield piece
    except _ZIP_ERRORS as error:
        raise DataError(f"is damaged: {error}") from error
