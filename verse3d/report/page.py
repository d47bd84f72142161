"""One page of HTML with everything in it: pictures and style are copied in, so that it opens anywhere."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.escapes import markup_text
from verse3d.core.files import regular_file, write_text

_MOST_PICTURE_BYTES = 20_000_000


@dataclass(frozen=True)
class Table:
    """Rows of texts below the names of their columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PagePicture:
    """A PNG and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class PageSection:
    """A part of a page.

    Attributes:
        title: its heading.
        text: paragraphs.
        tables: below the text.
        pictures: below the tables.
        commands: lines for a terminal, below the pictures.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[PagePicture] = ()
    commands: Sequence[str] = ()


def write_page(path: Path, title: str, introduction: str, sections: Sequence[PageSection]) -> Path:
    """Write a page; all texts are shown as they are, whatever characters they hold.

    Raises:
        DataError: a picture is missing, or larger than 20 MB.
        OutputError: the page cannot be written.
    """
    # Copied in, like the pictures: a page that is sent by mail must not miss a file.
    style = resources.files("verse3d.report").joinpath("page.css").read_text(encoding="utf-8")
    links = "".join(
        f'<a href="#part{number}">{markup_text(section.title)}</a>' for number, section in enumerate(sections)
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{markup_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>",
        f"<h1>{markup_text(title)}</h1>\n<p>{markup_text(introduction)}</p>\n<nav>{links}</nav>",
    ]
    for number, section in enumerate(sections):
        parts += [f'<section id="part{number}">', *_section(section), "</section>"]
    write_text(path, "\n".join([*parts, "</body>\n</html>\n"]))
    return path


def _section(section: PageSection) -> Iterator[str]:
    yield f"<h2>{markup_text(section.title)}</h2>"
    yield from (f"<p>{markup_text(paragraph)}</p>" for paragraph in section.text)
    yield from map(_table, section.tables)
    yield from map(_figure, section.pictures)
    if section.commands:
        yield f"<pre>{markup_text(chr(10).join(section.commands))}</pre>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{markup_text(name)}</th>" for name in table.columns)
    rows = ("".join(f"<td>{markup_text(cell)}</td>" for cell in row) for row in table.rows)
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def _figure(picture: PagePicture) -> str:
    """A picture as text inside of the page: data:image/png;base64,iVBORw0K..."""
    # Base64 makes a third more of it; a page of hundreds of MB opens nowhere.
    file = regular_file(picture.path)
    if file.stat().st_size > _MOST_PICTURE_BYTES:
        raise DataError(f"{picture.path} has {file.stat().st_size / 1e6:.0f} MB, too much for a page")
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    caption = markup_text(picture.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{content}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
