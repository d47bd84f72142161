"""A page of HTML that needs nothing beside it."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from verse3d.core.errors import DataError, OutputError
from verse3d.report.page import PagePicture, PageSection, Table, write_page


class Seen(HTMLParser):
    """Texts and tags as a browser would see them; a tag that is not closed is an error."""

    def __init__(self, content):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_pictures_are_inside_of_the_page_as_they_were(tmp_path, picture):
    content = picture.read_bytes()
    page = write_page(
        tmp_path / "x.html", "t", "i", [PageSection("s", pictures=[PagePicture(picture, "what it shows")])]
    )
    picture.unlink()
    [image] = [attributes for tag, attributes in Seen(page.read_text()).tags if tag == "img"]
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == content
    assert image["alt"] == "what it shows"


def test_texts_are_shown_as_they_are_and_never_acted_upon(tmp_path):
    evil = '<script>alert(1)</script> & "quoted" Müller\x1b[2J'
    section = PageSection(evil, [evil], [Table([evil], [[evil]])], (), [evil])
    seen = Seen(write_page(tmp_path / "x.html", evil, evil, [section]).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in seen.tags}
    shown = "".join(seen.texts)
    assert shown.count('<script>alert(1)</script> & "quoted" Müller\\x1b[2J') == 9  # heading, introduction, link, ...
    assert "\x1b" not in shown


def test_every_section_has_a_link_and_its_table_all_rows(tmp_path):
    sections = [PageSection("one", tables=[Table(("a", "b"), [("1", "2"), ("3", "4")])]), PageSection("two")]
    content = write_page(tmp_path / "x.html", "t", "i", sections).read_text()
    targets = re.findall(r'href="#(\w+)"', content)
    assert targets == re.findall(r'section id="(\w+)"', content) and len(targets) == 2
    assert "<tr><td>1</td><td>2</td></tr>\n<tr><td>3</td><td>4</td></tr>" in content


def test_a_picture_that_is_missing_or_no_file_is_refused_and_nothing_is_written(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError):
            write_page(tmp_path / "x.html", "t", "i", [PageSection("s", pictures=[PagePicture(path, "")])])
    assert not (tmp_path / "x.html").exists()


def test_a_picture_too_large_for_a_page_is_refused(tmp_path, picture, monkeypatch):
    monkeypatch.setattr("verse3d.report.page._MOST_PICTURE_BYTES", 10)
    with pytest.raises(DataError, match="too much for a page"):
        write_page(tmp_path / "x.html", "t", "i", [PageSection("s", pictures=[PagePicture(picture, "")])])


def test_a_page_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_page(tmp_path / "file" / "x.html", "t", "i", [])
