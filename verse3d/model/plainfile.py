"""Which files PyTorch may unpickle at all: zips as ``torch.save`` writes them, of bounded size, plain tensors only.

``torch.load(weights_only=True)`` runs no foreign code, but it trusts sizes, unpacks what is compressed, compares no
checksum, and builds byte arrays and sparse tensors of any size. So the file is looked at first.

    best/data.pkl      the nested values; commands to build them are read here, and not run
    best/data/0, 1 ... the bytes of one storage each, as long as data.pkl says
"""

import pickle
import pickletools
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from verse3d.core.errors import CheckpointError
from verse3d.core.filekinds import kind_of
from verse3d.core.memory import free_memory_bytes
from verse3d.core.wording import first_line, how_many

_ZIP_START = b"PK\x03\x04"
_PICKLE = "data.pkl"
_MOST_ENTRIES = 100_000
_MOST_PICKLE_BYTES = 2**24
_CHUNK_BYTES = 2**20
_ELEMENT_BYTES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
}
_KNOWN = {*_ELEMENT_BYTES, "torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
_CONSTRUCTORS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
"""Ways of a pickle to make objects that ``torch.save`` does not take."""
_MEMORISE, _REMEMBER = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_STORAGE_FIELDS = 5
_DOS_FOLDER = 0x10
_MODEL_HINT = "pass a run folder, or the best.pt in it"
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""What Python's reader raises on damaged zips; NotImplementedError and RuntimeError on methods that it doesn't know."""


def load_plain(path: Path) -> Any:  # noqa: ANN401 - plain data of any kind
    """What ``torch.save`` put into a file, on the CPU. About as much memory is taken as the file is long.

    Raises:
        CheckpointError: missing, damaged, compressed, larger than the free memory, or with more than plain data in it.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no model file {path}", hint=_MODEL_HINT)
    try:
        with path.open("rb") as handle:
            # The cheapest look first: length, first bytes, directory, checksums, commands; only then it is loaded.
            _require_room(path)
            _require_zip(handle, path)
            _require_sound_entries(handle, path)
            handle.seek(0)
            return torch.load(handle, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _unsafe(path, first_line(error)) from error
    except Exception as error:  # damaged bytes lead PyTorch's reader anywhere
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, reason: str) -> CheckpointError:
    """The error to raise when the bytes of a model file are not those that were written."""
    return CheckpointError(
        f"{path} cannot be read, it is truncated or damaged: {reason}",
        hint="copy it again from where it is whole, or use another file of the run (best.pt, last.pt)",
    )


def _unsafe(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: it is no plain model file, loading it could run code or fill the memory ({what})",
        hint="use a model file that verse3d wrote",
    )


def _require_room(path: Path) -> None:
    size, free = path.stat().st_size, free_memory_bytes()
    if size > free:
        raise CheckpointError(
            f"{path} has {size / 1e9:.1f} GB, more than the {free / 1e9:.1f} GB of free memory",
            hint="is it a model? One has some hundred MB; else close other programs",
        )


def _require_zip(handle: IO[bytes], path: Path) -> None:
    start = handle.read(len(_ZIP_START))
    if start == _ZIP_START:
        return
    if _ZIP_START.startswith(start):
        raise damaged(path, f"it ends after {how_many(len(start), 'byte')}")
    kind = kind_of(path)
    if kind.name and "pickle" not in kind.name:
        raise CheckpointError(f"{path} is not a model file but {kind.name}", hint=_MODEL_HINT)
    raise _unsafe(path, "it is not the zip archive that torch.save writes")


def _require_sound_entries(handle: IO[bytes], path: Path) -> None:
    """Compare the promises of the zip's directory with the file, then every entry with its checksum (CRC-32)."""
    try:
        with zipfile.ZipFile(handle) as archive:
            entries = archive.infolist()
            _require_bounded(entries, path)
            pickles = [entry for entry in entries if entry.filename.partition("/")[2] == _PICKLE]
            if not pickles and entries:
                raise CheckpointError(f"{path} is not a model file but a zip archive of other files", hint=_MODEL_HINT)
            if len(pickles) != 1:
                raise damaged(path, f"it holds {len(pickles)} entries {_PICKLE} in place of one")
            if pickles[0].file_size > _MOST_PICKLE_BYTES:
                raise _unsafe(path, f"{_PICKLE} has {pickles[0].file_size} bytes, {_MOST_PICKLE_BYTES} are allowed")
            # Each entry is read once, in chunks; nothing of it is kept.
            for entry in entries:
                _compare_checksum(archive, entry)
            sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
            if strange := next(_strange_commands(archive.read(pickles[0]), sizes), None):
                raise _unsafe(path, strange)
    except CheckpointError:
        raise
    except _ZIP_ERRORS as error:
        raise damaged(path, first_line(error)) from error


def _require_bounded(entries: list[zipfile.ZipInfo], path: Path) -> None:
    if len(entries) > _MOST_ENTRIES:
        raise _unsafe(path, f"{len(entries)} entries, {_MOST_ENTRIES} are allowed")
    if len({entry.filename for entry in entries}) < len(entries):
        raise _unsafe(path, "several entries share a name")
    # Stored as they are, entries cannot be larger than the file: no bomb.
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise _unsafe(path, "entries are compressed or encrypted, torch.save stores them as they are")
    if any(entry.external_attr & _DOS_FOLDER for entry in entries):
        raise damaged(path, "an entry says that it is a folder; PyTorch would take memory as it is for its bytes")
    promised, there = sum(entry.file_size for entry in entries), path.stat().st_size
    if promised > there:
        raise damaged(path, f"its directory promises {promised} bytes, the file has {there}")


def _compare_checksum(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as stream:  # raises BadZipFile at the end if they differ
        while stream.read(_CHUNK_BYTES):
            pass


def _strange_commands(content: bytes, sizes: Mapping[str, int]) -> Iterator[str]:
    """What a pickle would make beside dicts, lists, numbers, texts and tensors; its commands are read, not run.

    Args:
        content: of ``data.pkl``.
        sizes: of the zip's entries, without the folder that all of them are in.
    """
    # What came onto the stack last; of a storage "storage", type, key, device and elements, then the tuple of these.
    pushed: deque[object] = deque(maxlen=_STORAGE_FIELDS)
    memo: dict[object, object] = {}
    for command, argument, _ in pickletools.genops(content):
        # A pickle is a program for a stack: what matters is what it names, how it calls it, and its storages.
        if command.name == "GLOBAL" and argument not in _KNOWN:
            yield f"it names {str(argument)[:100]!r}"
        elif command.name in _CONSTRUCTORS:
            yield f"it makes objects ({command.name})"
        elif command.name == "BINPERSID":
            if not _is_storage(pushed[-1], sizes):
                yield f"it names a storage that is not there as it says ({str(pushed[-1])[:100]})"
        elif command.name in _MEMORISE:
            memo[argument] = pushed[-1]
        elif command.name in _REMEMBER:
            pushed.append(memo.get(argument))
        else:
            pushed.append(tuple(pushed) if command.name == "TUPLE" else argument)


def _is_storage(fields: object, sizes: Mapping[str, int]) -> bool:
    """Whether ("storage", its type, key, device, elements) is as long as the bytes under that key."""
    match fields:
        case ("storage", str(kind), str(key), str(), int(elements)) if kind in _ELEMENT_BYTES:
            return sizes.get(f"data/{key}") == elements * _ELEMENT_BYTES[kind]
    return False
