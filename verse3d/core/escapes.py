"""Names and texts from files, made harmless for the place they are shown in.

A name may hold whatever its author liked: escape sequences that rewrite the terminal, marks that turn the reading
direction, halves of characters, formulas, tags. What cannot be shown is written as Python writes it (``\\x1b``), so
that it is seen and different names stay different for the eye.

==================  =========================================================================================
``visible``         terminals, logs: control characters become escapes, line breaks stay
``one_line``        cells, titles, tags: line breaks become escapes, too
``csv_table``        tables for spreadsheets, where a text that begins with ``=`` would be computed
``plain_cell``      undoes what ``csv_table`` did to a cell
``markdown_text``   one line of Markdown, as it is read rather than as it is marked up
``markup_text``     the content of an element or an attribute of HTML or XML
``figure_text``     Matplotlib, where two ``$`` would begin a formula
==================  =========================================================================================
"""

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_INVISIBLE = re.compile(f"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff{_BIDI}]")
"""Controls but the line feed, separators that some programs break lines at, marks of direction, lone surrogates."""
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARKDOWN = re.compile(
    r"[\\`*|~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # "_" inside of a word marks nothing
    r"|\](?=[(\[:])"  # a link; other brackets stay as they are
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # a tag or an entity, but not "p < 0.05"
    r"|^[#>]"
)


def visible(text: str) -> str:
    """The text with escapes in place of what could change a terminal; line feeds stay.

    Example:
        >>> visible("a\\x1b[2Jb")
        'a\\\\x1b[2Jb'
    """
    return _INVISIBLE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    # All of these lie below 0x10000, so four digits are enough.
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """As ``visible``, with line feeds as escapes."""
    return visible(text).replace("\n", "\\x0a")


def csv_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV with LF, the first one the header. Texts that a spreadsheet would compute get a ``'`` before them.

    Numbers stay numbers, also where they are given as text ("-3.5").
    """
    lines = []
    for row in rows:
        # A "'" that stands before a formula already gets another one, so that plain_cell is an exact undo.
        cells = [
            f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell
            for cell in row
        ]
        text = io.StringIO()
        # Only if CR ends the line does the writer put cells that hold one in quotes; without quotes it would end a row.
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def plain_cell(text: str) -> str:
    """The text that ``csv_table`` was given for a cell.

    Example:
        >>> [plain_cell(text) for text in ("'=1+1", "-3.5", "it's")]
        ['=1+1', '-3.5', "it's"]
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def markdown_text(text: str) -> str:
    """A piece of a line that Markdown shows as it is: in paragraphs, lists, headings and cells of tables.

    Example:
        >>> markdown_text("a|b <i>")
        'a\\\\|b \\\\<i>'
    """
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def markup_text(text: str) -> str:
    """The content of an element or of a quoted attribute in HTML or XML; control characters, which XML lacks, escaped.

    Example:
        >>> markup_text('<b a="1">')
        '&lt;b a=&quot;1&quot;&gt;'
    """
    return html.escape(visible(text), quote=True)


def figure_text(text: str) -> str:
    """A text for Matplotlib, which takes what stands between two ``$`` for a formula."""
    return visible(text).replace("$", r"\$")
