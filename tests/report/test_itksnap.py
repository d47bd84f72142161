import re
import shlex
import sys

import pytest

from verse3d.core.errors import DataError, OutputError
from verse3d.core.labels import VERTEBRAE, Label, label_scheme
from verse3d.report.itksnap import label_description, open_command, write_label_description

ROW = re.compile(r'^ *(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+) +([01]) +([01]) +"(.+)"$')


def rows(text: str) -> list[tuple]:
    """What a program reads: everything but comments and empty lines."""
    found = [ROW.match(line) for line in text.split("\n") if line and not line.startswith("#")]
    return [(int(m[1]), (int(m[2]), int(m[3]), int(m[4])), float(m[5]), m[6], m[7], m[8]) for m in found]


def test_every_label_comes_back_with_id_colour_and_name():
    read = rows(label_description(VERTEBRAE))
    assert read[0] == (0, (0, 0, 0), 0.0, "0", "0", "Clear Label")
    assert read[1:] == [(label.id, label.rgb, 1.0, "1", "1", label.name) for label in VERTEBRAE]


def test_lines_have_the_widths_of_the_program():
    labels = [Label(1, "C1", (255, 0, 0)), Label(28, "T13", (188, 143, 143))]
    assert label_description(labels).split("\n")[-4:] == [
        '    0     0    0    0        0  0  0    "Clear Label"',
        '    1   255    0    0        1  1  1    "C1"',
        '   28   188  143  143        1  1  1    "T13"',
        "",
    ]


def test_the_header_is_the_one_that_is_accepted():
    lines = label_description(label_scheme("binary").labels).split("\n")
    assert lines[1] == "# ITK-SnAP Label Description File"
    assert lines[0] == lines[13] == "#" * 48
    assert lines[2] == "# File format: "
    assert all(line.startswith("#") for line in lines[:14])


def test_the_file_has_unix_line_ends_on_every_system(tmp_path):
    path = tmp_path / "verse.label"
    write_label_description(path, VERTEBRAE)
    assert path.read_bytes() == label_description(VERTEBRAE).encode()
    assert b"\r" not in path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["verse.label"]


def test_an_older_file_is_replaced(tmp_path):
    path = tmp_path / "verse.label"
    path.write_text("old")
    write_label_description(path, VERTEBRAE)
    assert path.read_text().startswith("####")


def test_a_file_that_cannot_be_written_is_reported_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.label", tmp_path / "folder"):
        with pytest.raises(OutputError, match="cannot write"):
            write_label_description(path, VERTEBRAE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Label(0, "background", (0, 0, 0)), "has id 0"),
        (Label(65536, "far", (0, 0, 0)), "has id 65536"),
        (Label(3, 'C"3', (0, 0, 0)), "cannot read"),
        (Label(3, "C3\n", (0, 0, 0)), "cannot read"),
    ],
)
def test_labels_that_the_program_cannot_read_are_refused(label, message):
    with pytest.raises(DataError, match=message):
        label_description([label])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX quoting")
def test_the_command_survives_blanks_and_quotes_in_names(tmp_path):
    image, mask = tmp_path / "a b" / "it's ct.nii.gz", "m$1.nii.gz"
    words = ["itksnap", "-g", str(image), "-s", mask, "-l", "verse.label"]
    assert shlex.split(open_command(image, mask, "verse.label")) == words
