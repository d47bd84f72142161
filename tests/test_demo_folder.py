"""The demo moves into a folder of its own only, and takes nothing for its own that it did not write."""

import pytest

from verse3d.api import journey
from verse3d.api.journey import DEMO_MARKER, _clear_demo, demo
from verse3d.core.errors import DataError


def entries(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.docx", ".git", "data", DEMO_MARKER])
def test_a_folder_that_holds_other_things_is_left_alone(tmp_path, monkeypatch, name, overwrite):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("years of work")
    monkeypatch.setattr(journey, "phantom", lambda *_, **__: pytest.fail("it moved in"))
    with pytest.raises(DataError, match="which no demo wrote"):
        demo(out=tmp_path / "mine", overwrite=overwrite)
    assert entries(tmp_path / "mine") == {name}


def test_the_marker_names_what_is_the_demos_and_nothing_else_is_deleted(tmp_path):
    folder = tmp_path / "demo"
    _clear_demo(folder, overwrite=False)
    (folder / "run").mkdir()
    (folder / "run" / "best.pt").write_bytes(b"x")
    (folder / "overlay.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("my own")
    text = (folder / DEMO_MARKER).read_text()
    assert "Everything here" not in text
    assert "notes.txt" not in text and "overlay.png" in text
    with pytest.raises(DataError, match="already holds a demo"):
        _clear_demo(folder, overwrite=False)
    _clear_demo(folder, overwrite=True)
    assert entries(folder) == {DEMO_MARKER, "notes.txt"}


def test_what_lies_behind_a_link_is_not_deleted(tmp_path):
    folder = tmp_path / "demo"
    _clear_demo(folder, overwrite=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("kept")
    (folder / "run").symlink_to(tmp_path / "elsewhere")
    _clear_demo(folder, overwrite=True)
    assert entries(folder) == {DEMO_MARKER}
    assert entries(tmp_path / "elsewhere") == {"x"}


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_new_or_empty_folder_is_fine(tmp_path, make):
    make(tmp_path / "demo")
    _clear_demo(tmp_path / "demo", overwrite=False)
    assert entries(tmp_path / "demo") == {DEMO_MARKER}
