"""What a conversion may overwrite, and what is left when it cannot go on."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.convert.conftest import tree, write_case
from tests.scans import fill_disk, leftovers
from verse3d.core.errors import DataError, OutputError
from verse3d.data.cases import CaseIndex
from verse3d.data.convert import convert_cases, nnunet_format, verse_format


@pytest.fixture(params=["nnunet", "verse"])
def convert(request, tmp_path):
    """Convert into ``tmp_path/out``; the folder of the data set is ``convert.folder``."""

    def run(cases, *, out=tmp_path / "out", **options):
        form = nnunet_format(cases, out) if request.param == "nnunet" else verse_format(cases, out)
        return convert_cases(cases, form, **options)

    run.folder = tmp_path / "out" / ("Dataset001_VerSe" if request.param == "nnunet" else "")
    return run


def manifest(folder: Path) -> dict:
    return json.loads((folder / "conversion.json").read_text())


def test_the_manifest_tells_of_every_case_and_every_file(convert, cases):
    result = convert(cases)
    told = manifest(result.folder)
    assert told["finished"] is True and told["options"]["links"] is True
    assert [row["case"] for row in told["cases"]] == [case.case for case in cases]
    for row, case in zip(told["cases"], cases, strict=True):
        assert row["status"] == "written" and (row["subject"], row["split"]) == (case.subject, case.split)
        assert row["files"][0]["source"] == str(case.image)
        assert row["files"][0]["how"] == ("compressed" if case.image.suffix == ".nii" else "link")
    assert {file["path"] for file in told["files"]} == set(tree(result.folder)) - {"conversion.json"}


def test_an_earlier_conversion_is_kept_unless_overwriting_is_asked_for(convert, cases):
    convert(cases)
    before = tree(convert.folder)
    with pytest.raises(OutputError, match="already holds a conversion") as caught:
        convert(cases)
    assert caught.value.option == "overwrite" and tree(convert.folder) == before
    convert(cases, overwrite=True)
    assert tree(convert.folder).keys() == before.keys()


def test_overwriting_removes_what_the_new_index_has_no_more_and_empty_folders(convert, cases):
    convert(cases)
    fewer = CaseIndex((cases.cases[0], cases.cases[2]))
    convert(fewer, overwrite=True, links=False)
    with_links = tree(convert.folder)
    shutil.rmtree(convert.folder)
    convert(fewer, links=False)
    assert tree(convert.folder).keys() == with_links.keys()
    assert not [path for path in convert.folder.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_a_folder_with_other_files_is_never_touched(convert, cases):
    convert.folder.mkdir(parents=True)
    (convert.folder / "precious.txt").write_text("years of work")
    for content in (None, "no JSON", "[]", '{"files": []}', '{"finished": true, "files": [{"path": "../../in"}]}'):
        if content is not None:
            (convert.folder / "conversion.json").write_text(content)
        before = tree(convert.folder)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="files that no conversion wrote"):
                convert(cases, overwrite=overwrite)
        assert tree(convert.folder) == before
    assert all(case.image.exists() for case in cases)


def test_files_that_somebody_put_beside_ours_survive_overwriting(convert, cases):
    convert(cases)
    beside = next(path for path in convert.folder.rglob("*.nii.gz")).parent / "notes.txt"
    beside.write_text("mine")
    convert(cases, overwrite=True)
    assert beside.read_text() == "mine"


def test_a_file_of_ours_that_was_edited_since_is_never_replaced(convert, cases):
    result = convert(cases, links=False)
    mask = result.folder / result.cases[0].files[1].path
    mask.write_bytes(b"corrected by hand")
    before = tree(result.folder)
    with pytest.raises(OutputError, match="has changed since") as caught:
        convert(cases, overwrite=True)
    assert mask.name in str(caught.value) and tree(result.folder) == before


def test_a_file_of_somebody_where_a_new_one_belongs_is_never_replaced(convert, cases, tmp_path):
    convert(CaseIndex(cases.cases[1:]))
    taken = convert.folder / next(iter(convert(cases, out=tmp_path / "other").cases[0].files)).path
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_text("mine")
    with pytest.raises(OutputError, match="was not written by the earlier conversion"):
        convert(cases, overwrite=True)
    assert taken.read_text() == "mine"


def test_a_folder_of_ours_that_was_replaced_by_a_link_is_not_followed(convert, cases, tmp_path):
    result = convert(cases, links=False)
    inside = (result.folder / result.cases[0].files[0].path).parent
    shutil.move(inside, tmp_path / "elsewhere")
    inside.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="was not written"):
        convert(cases, overwrite=True)
    assert tree(tmp_path / "elsewhere") == before


def test_the_sources_are_never_deleted_by_converting_a_conversion_into_itself(convert, cases):
    result = convert(cases, links=False)
    own = replace(
        cases.cases[0],
        image=result.folder / result.cases[0].files[0].path,
        mask=result.folder / result.cases[0].files[1].path,
    )
    before = tree(result.folder)
    with pytest.raises(DataError, match=r"which is to be read, lies in"):
        convert(CaseIndex((own,)), overwrite=True)
    assert tree(result.folder) == before


def test_a_file_where_the_folder_belongs_is_refused(convert, cases):
    convert.folder.parent.mkdir(exist_ok=True)
    convert.folder.write_text("a file")
    with pytest.raises(OutputError, match="is a file, but a folder is needed"):
        convert(cases)


# --- interrupted and refused by the disk


def test_an_interrupted_conversion_is_made_whole_by_the_next_one(convert, cases, tmp_path):
    def interrupt(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(cases, progress=interrupt)
    assert manifest(convert.folder)["finished"] is False and not leftovers(convert.folder)
    with pytest.raises(OutputError, match="an unfinished conversion"):
        convert(cases)
    convert(cases, overwrite=True)
    assert manifest(convert.folder)["finished"] is True
    other = convert(cases, out=tmp_path / "other").folder
    assert tree(convert.folder).keys() == tree(other).keys()


def test_a_full_disk_ends_the_conversion_with_nothing_half_written(convert, cases, monkeypatch):
    fill_disk(monkeypatch, "sub-verse500")  # the one that must be compressed
    with pytest.raises(OutputError, match="No space left on device"):
        convert(cases)
    assert not leftovers(convert.folder) and manifest(convert.folder)["finished"] is False
    assert not [path for path in tree(convert.folder) if "sub-verse500" in path]
    monkeypatch.undo()
    convert(cases, overwrite=True)
    assert manifest(convert.folder)["finished"] is True


def test_temporary_files_of_a_killed_conversion_are_removed_by_the_next_one(convert, cases):
    result = convert(cases)
    (result.folder / result.cases[0].files[0].path).with_name(".verse3d-1-x.nii.gz").write_text("half")
    convert(cases, overwrite=True)
    assert not leftovers(convert.folder)


def refuse(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_disk_without_links_is_told_to_copy(convert, cases, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", refuse(errno.ENOTSUP))
    with pytest.raises(OutputError, match="cannot write") as caught:
        convert(cases)
    assert "links=False" in caught.value.hint
    convert(cases, links=False, overwrite=True)


def test_a_read_only_folder_is_refused_before_any_case_is_read(convert, cases, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", refuse(errno.EROFS))
    with pytest.raises(OutputError, match="Read-only file system") as caught:
        convert(cases)
    assert "read-only" in caught.value.hint


def test_files_that_cannot_be_removed_are_told(convert, cases, monkeypatch):
    convert(cases)
    monkeypatch.setattr(Path, "unlink", refuse(errno.EACCES))
    with pytest.raises(OutputError, match="Permission denied"):
        convert(cases, overwrite=True)


def test_sources_that_change_nothing_else_are_only_read(convert, cases, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*")}
    convert(cases)
    convert(cases, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*")} == before


def test_a_link_leads_to_the_file_itself_even_through_other_links(convert, tmp_path):
    case = write_case(tmp_path / "in", "sub-verse001", split="train")
    (tmp_path / "way").mkdir()
    (tmp_path / "way" / "scan.nii.gz").symlink_to(case.image)
    result = convert(CaseIndex((replace(case, image=tmp_path / "way" / "scan.nii.gz"),)))
    shutil.rmtree(tmp_path / "way")
    assert (result.folder / result.cases[0].files[0].path).resolve() == case.image.resolve()
