"""Texts from files do no harm where they are shown, and stay readable."""

import csv
import io
import re
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from verse3d.core.escapes import csv_table, figure_text, markdown_text, markup_text, one_line, plain_cell, visible

ANY = st.text(st.characters(codec=None), max_size=20)  # surrogates, controls, whatever there is
TRICKS = ["\x1b[31mred", "\x1b]0;title\x07", "a\rb", "a\x9b2Jb", "\u202egnp.exe", "\ud800", "a\u2028b", "\x00", "\x7f"]


@pytest.mark.parametrize("text", TRICKS)
def test_what_changes_a_terminal_becomes_an_escape_that_is_seen(text):
    shown = visible(text)
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)
    assert "\\x" in shown or "\\u" in shown


@pytest.mark.parametrize("text", ["Wirbelsäule L4", "脊椎", "a\nb", "[red]x[/red]", "emoji 🦴", "e\u0301", ""])
def test_ordinary_text_stays_as_it_is(text):
    assert visible(text) == text


@given(ANY)
def test_any_text_can_be_encoded_and_is_escaped_once_only(text):
    shown = one_line(text)
    shown.encode("utf-8")
    assert "\n" not in shown
    assert one_line(shown) == shown


FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "-",
    "-inf",
    "'=1",
    "''=1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text):
    ((cell,),) = csv.reader(io.StringIO(csv_table([[text]]), newline=""))
    assert cell == f"'{text}"
    assert plain_cell(cell) == text


@pytest.mark.parametrize("value", ["-3.5", "+1e-4", "-.5", "3", -3.5, -1, None, "a=b", "it's", "'quoted'", "a-1", ""])
def test_numbers_and_ordinary_texts_stay_as_they_are(value):
    ((cell,),) = csv.reader(io.StringIO(csv_table([[value]]), newline=""))
    assert cell == ("" if value is None else str(value))


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_cells_come_back_as_they_were(cells):
    (found,) = csv.reader(io.StringIO(csv_table([cells]), newline=""))
    assert [plain_cell(cell) for cell in found] == cells


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.title = [], "", ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.title = dict(attributes)["title"]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"><img src=x onerror='1'>", "a & b", "]]>", *TRICKS])
def test_html_and_xml_show_the_text_and_nothing_of_it_is_a_tag(text):
    page = f'<p title="{markup_text(text)}">{markup_text(text)}</p>'
    reader = _Reader()
    reader.feed(page)
    assert (reader.tags, reader.text, reader.title) == (["p"], visible(text), visible(text))
    element = ElementTree.fromstring(page)
    assert (element.text, element.get("title"), list(element)) == (visible(text), visible(text), [])


@pytest.mark.parametrize(
    "text", ["a|b", "[x](javascript:1)", "<script>", "**b**", "# a", "`x`", "a\nb", "\\|", "a_b_c", "_a_", "a__"]
)
def test_markdown_marks_nothing_up_and_breaks_no_table(text):
    shown = markdown_text(text)
    assert "\n" not in shown
    marks = r"[|`*]|(?<![a-z])_|_(?![a-z])|\]\(|<[a-z/]|^#"
    assert not re.search(marks, re.sub(r"\\[^a-zA-Z0-9]", "", shown))
    assert re.sub(r"\\([^a-zA-Z0-9])", r"\1", shown) == one_line(text)


@pytest.mark.parametrize("text", ["p < 0.05", "spacing [3.0, 3.0] mm", "sub-verse004_split-verse1", "-0.31", "a & b"])
def test_ordinary_words_stay_readable_in_markdown(text):
    assert markdown_text(text) == text


@pytest.mark.parametrize("text", [r"$\frac$", "a$b", "$$", "\ud800$x$", "\\"])
def test_a_dollar_in_a_name_is_no_formula_for_matplotlib(text):
    figure = Figure()
    figure.text(0, 0, figure_text(text))
    FigureCanvasAgg(figure).draw()  # raises ValueError for a formula that cannot be read
