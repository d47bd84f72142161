"""Names that somebody else chose never lead out of the folder they are written to."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse3d.core import paths
from verse3d.core.errors import DataError
from verse3d.core.paths import name_problem, path_below, same_on_disk


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no name"),
        (".", "is no name"),
        ("..", "leads out"),
        ("a/b", "leads out"),
        ("/etc/passwd", "leads out"),
        ("a\\b", "leads out"),
        ("C:", "leads out"),
        ("c:windows", "leads out"),
        (".verse3d-12-mask.nii.gz", "temporary files"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("\x1b[31m", "control characters"),
        ("a\x85b", "control characters"),
        ("\ud800", "lone surrogate"),
        ("n" * 256, "256 bytes"),
        ("ä" * 128, "256 bytes"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_name_that_is_no_file_name_is_refused_wherever_it_stands(tmp_path, name, words, place):
    names = ["good", "good"]
    names[place] = name
    with pytest.raises(DataError, match=words):
        path_below(tmp_path, *names)


@pytest.mark.parametrize("name", ["a", "...", "..a", "a b", "Wirbel_ä", "[red]", "=1", "n" * 255, ".hidden", ":b"])
def test_a_name_that_a_disk_takes_is_allowed_and_can_be_written(tmp_path, name):
    path = path_below(tmp_path, name)
    path.write_bytes(b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_bytes_that_are_no_text_are_a_name_as_the_file_system_has_it(tmp_path):
    name = os.fsdecode(b"scan-\xe4")
    path_below(tmp_path, name).write_bytes(b"x")
    assert [os.fsencode(entry.name) for entry in tmp_path.iterdir()] == [b"scan-\xe4"]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_no_text_whatever_leads_out(names):
    root = Path("/nowhere/root")
    try:
        path = path_below(root, *names)
    except DataError:
        return
    assert os.path.normpath(path) == str(path)
    assert len(path.parts) == len(root.parts) + len(names)
    assert path.is_relative_to(root)


def test_a_link_on_the_way_that_leads_out_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "train").symlink_to("../other")
    with pytest.raises(DataError, match="train is a link that leads out of"):
        path_below(root, "train", "a.png")


def test_links_that_stay_inside_and_a_root_that_is_a_link_are_fine(tmp_path):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "link").symlink_to("inner")
    (tmp_path / "root").symlink_to("real")
    assert path_below(tmp_path / "root", "link", "a") == tmp_path / "root" / "link" / "a"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("con", "device"),
        ("NUL.nii.gz", "device"),
        ("a.", "dot"),
        ("a ", "space"),
        ("a?", "refuses"),
        ("com1", "device"),
    ],
)
def test_windows_refuses_more(monkeypatch, name, words):
    assert name_problem(name) == ""
    monkeypatch.setattr(paths, "_ON_WINDOWS", True)
    assert words in name_problem(name)
    assert name_problem("common") == ""


@pytest.mark.parametrize(
    ("one", "other"), [("a", "A"), ("ß", "SS"), ("é", "e\u0301"), ("É", "e\u0301"), ("\u0345", "\u03b9")]
)
def test_names_that_some_disk_takes_for_one_have_one_key(one, other):
    assert same_on_disk(one) == same_on_disk(other)


def test_other_names_have_other_keys():
    assert len({same_on_disk(name) for name in ("a", "b", "a.b", "ä", "a-b")}) == 5
