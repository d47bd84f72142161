"""One way to read back what lies on a disk, whoever wrote it: bounded, typed, and wrong in words or not at all.

    path ── read_text ──> text ── parse_json ──> plain values ── checked ──> typed values
             a file of bytes,      depth, numbers,   dict, list ...   every field of the kind
             not too large         double keys                        that is asked for

A format is a type: a pydantic model, a dataclass, or ``dict[str, float]``.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

from verse3d.core.errors import DataError
from verse3d.core.files import regular_file
from verse3d.core.jsontext import parse_json
from verse3d.core.wording import brief, clipped

T = TypeVar("T")
Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Many = Annotated[tuple[T, ...], FailFast()]
"""A list of any length, of which the first wrong element is told: to list a million takes seconds."""

KILOBYTE, MEGABYTE = 2**10, 2**20
RECORD_BYTES = 32 * MEGABYTE
"""About twenty thousand cases in one of our lists."""
LINE_CHARACTERS = MEGABYTE
_SHOWN_PROBLEMS = 3


class Record(BaseModel):
    """What verse3d reads of a file that it, or another program, has written. Keys it does not know are passed over."""

    # Older pydantics warn of every field that begins with "model_", as ``model_sha256`` does.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


RECORD_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
"""For dataclasses that are read back by ``checked``: ``__pydantic_config__ = RECORD_CONFIG``."""


def read_text(path: Path, *, max_bytes: int, encoding: str = "utf-8", what: str = "the file") -> str:
    """The text of a file.

    Raises:
        DataError: it is missing, no file of bytes, larger than ``max_bytes``, or not in that encoding; says ``what``
            could not be read.
    """
    try:
        with regular_file(path).open("rb") as handle:
            content = handle.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise DataError(f"it is larger than {max_bytes / MEGABYTE:g} MB")
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {what} {path}: byte {error.start} is not valid {encoding}") from None
    except DataError as error:
        raise DataError(f"cannot read {what} {path}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror or error}") from error


def read_record(
    path: Path, kind: type[T], *, max_bytes: int = RECORD_BYTES, allow_nan: bool = False, hint: str = ""
) -> T:
    """A JSON file as a value of ``kind``.

    Args:
        path: the file.
        kind: what it has to be, e.g. a ``Record``.
        max_bytes: a larger file is not read.
        allow_nan: ``NaN`` is a number.
        hint: what to do about a file that is not so.

    Raises:
        DataError: it cannot be read, is not JSON, or is something else; names file, place, and what was expected.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "a.json")
        ...     _ = path.write_text('{"dice": 0.9}')
        ...     read_record(path, dict[str, float])
        {'dice': 0.9}
    """
    text = read_text(path, max_bytes=max_bytes)
    return parsed(text, kind, str(path), allow_nan=allow_nan, hint=hint)


def parsed(text: str, kind: type[T], place: str, *, allow_nan: bool = False, hint: str = "") -> T:
    """A JSON text as a value of ``kind``; ``place`` is named in errors.

    Raises:
        DataError: as for ``read_record``.
    """
    try:
        values = parse_json(text, allow_nan=allow_nan)
    except DataError as error:
        raise DataError(f"{place} is {error.message}", hint=hint) from None
    return checked(values, kind, place, hint=hint)


def numbered_lines(
    path: Path, *, max_bytes: int, what: str = "the file", encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not blank. Only line feeds end a line, as JSON wants it.

    Raises:
        DataError: the file cannot be read, or a line has more than a million characters.
    """
    text = read_text(path, max_bytes=max_bytes, what=what, encoding=encoding)
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LINE_CHARACTERS:
            raise DataError(f"{path}, line {number} is too long: {len(line)} characters")
        if line.strip():
            yield number, line


def checked(value: object, kind: type[T], place: str, *, hint: str = "") -> T:
    """A plain value as a value of ``kind``.

    Raises:
        DataError: names ``place``, the field, what was expected there, and what was found.
    """
    adapter: TypeAdapter[T] = _adapters.setdefault(kind, _adapters.get(kind) or TypeAdapter(kind))
    try:
        value_of_kind = adapter.validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        listed = "; ".join(_described(problem) for problem in found[:_SHOWN_PROBLEMS])
        more = f" (and {len(found) - _SHOWN_PROBLEMS} more)" if len(found) > _SHOWN_PROBLEMS else ""
        raise DataError(f"{place} is damaged: {listed}{more}", hint=hint) from None
    return value_of_kind


_adapters: dict[object, TypeAdapter[Any]] = {}
"""Kept, because building one takes milliseconds and an index has thousands of lines."""


def _described(problem: Mapping[str, Any]) -> str:
    place = ".".join(clipped(str(part), 40) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    words = message[:1].lower() + message[1:]
    if problem["type"] != "missing":
        words += f", got {brief(problem['input'])}"
    return f"{place}: {words}" if place else words


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: where it ends in the file.
        cells: by column; empty where the row is too short.
        surplus: how many cells it has more than the table has columns.
    """

    line: int
    cells: dict[str, str]
    surplus: int


def read_table(path: Path, *, needs: Sequence[str], max_bytes: int, what: str, hint: str = "") -> list[Row]:
    """The rows of a CSV file with a header, without blank ones. An empty file has none.

    Args:
        path: the file, in UTF-8, with or without a byte order mark.
        needs: columns that it must have.
        max_bytes: a larger file is not read.
        what: the table is, e.g. "the history".
        hint: what to do about a file that is not so.

    Raises:
        DataError: it cannot be read, is no CSV (the line is named), lacks a column or has one twice.
    """
    text = read_text(path, max_bytes=max_bytes, encoding="utf-8-sig", what=what)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    columns: list[str] = []
    try:
        for cells in lines:
            if not columns:
                columns = _columns(cells, path, needs, hint)
            elif cells:
                named = dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))
                rows.append(Row(lines.line_num, named, max(0, len(cells) - len(columns))))
    except csv.Error as error:
        raise DataError(f"cannot read {what} {path}: line {lines.line_num}: {error}", hint=hint) from error
    return rows


def _columns(cells: list[str], path: Path, needs: Sequence[str], hint: str) -> list[str]:
    if missing := [name for name in needs if name not in cells]:
        found = clipped(", ".join(cells)) or "nothing"
        raise DataError(f"{path} lacks the columns {', '.join(missing)} (found: {found})", hint=hint)
    if len(set(cells)) < len(cells):
        raise DataError(f"{path} has two columns of the same name: {clipped(', '.join(cells))}", hint=hint)
    return cells
