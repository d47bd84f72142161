"""Zips are looked into and unpacked, byte for byte."""

import pytest

from tests.data.index.zips import PART, pack, tree
from tests.releases import tiny_scan
from verse3d.core.errors import DataError
from verse3d.core.volume import read_image
from verse3d.data.index.archives import archive_above, list_members, unpack
from verse3d.data.index.build import IndexOptions, build_index


def test_a_zipped_release_is_indexed_without_unpacking(zipped):
    report = build_index([zipped.parent], IndexOptions(validation=0.0))
    assert len(report.cases) == report.packed == 5
    assert {case.split for case in report.cases} == {"train"}
    assert all(case.image and case.mask and case.centroids for case in report.cases)
    assert report.release[0].scans == 5
    assert [path.name for path in zipped.parent.iterdir()] == [zipped.name]


def test_the_zip_alone_says_the_split_where_its_content_does_not(tmp_path, release):
    inner = {name.removeprefix(f"{PART}/"): content for name, content in release.items()}
    report = build_index([pack(tmp_path / "dataset-02validation.zip", inner)], IndexOptions())
    assert {case.split for case in report.cases} == {"validation"}


def test_a_packed_scan_says_how_to_unpack_it_when_it_is_read(zipped):
    path = build_index([zipped.parent], IndexOptions()).cases.cases[0].image_path()
    assert archive_above(path) == zipped
    with pytest.raises(DataError, match=rf"still packed in {PART}\.zip\n.*unpack=FOLDER"):
        read_image(path)


def test_a_zip_in_the_zip_is_looked_into(tmp_path, release):
    inner = pack(tmp_path / "inner.zip", release).read_bytes()
    outer = pack(tmp_path / "outer.zip", {f"again/{PART}.zip": inner})
    names = {str(member.path) for member in list_members(outer)}
    assert names == {f"again/{PART}/{name}" for name in release}
    assert unpack(outer, tmp_path / "out").written == len(release)
    assert tree(tmp_path / "out" / "again" / PART) == release


def test_a_file_that_is_no_zip_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    tiny_scan(tmp_path / "a.nii.gz", "a")
    assert len(build_index([tmp_path], IndexOptions()).cases) == 1
    assert "broken.zip cannot be read as a zip" in caplog.text


def test_unpacking_gives_the_files_byte_for_byte_and_an_index_that_can_be_read(tmp_path, zipped, release):
    report = build_index([zipped.parent], IndexOptions(unpack_to=tmp_path / "data"))
    assert tree(tmp_path / "data" / PART) == release
    assert report.packed == 0
    assert len(report.cases) == 5
    assert {read_image(case.image_path()).geometry.axis_codes for case in report.cases} == {("P", "I", "R")}
    assert report.left_out == ()
    (done,) = report.unpacked
    assert (done.written, done.kept, done.refused) == (len(release), 0, ())


def test_unpacking_again_keeps_what_is_there_and_writes_only_what_is_missing(tmp_path, zipped, release):
    unpack(zipped, tmp_path / "data")
    lost = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())[3]
    lost.unlink()
    again = unpack(zipped, tmp_path / "data")
    assert (again.written, again.kept) == (1, len(release) - 1)
    assert tree(tmp_path / "data") == release


def test_a_file_of_other_content_is_never_replaced(tmp_path, zipped, release):
    mine = tmp_path / "data" / next(iter(release))
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own work")
    with pytest.raises(DataError, match="exists and is not the"):
        unpack(zipped, tmp_path / "data")
    assert tree(tmp_path / "data") == {next(iter(release)): b"my own work"}


def test_a_damaged_member_is_refused_and_nothing_is_left_of_it(tmp_path):
    scan = tiny_scan(tmp_path / "a.nii.gz", "a").read_bytes()
    path = pack(tmp_path / "x.zip", {"good.nii.gz": scan, "bad.nii.gz": b"#" * 500})
    path.write_bytes(path.read_bytes().replace(b"#" * 500, b"#" * 250 + b"!" * 250))
    done = unpack(path, tmp_path / "out")
    assert [name for name, _ in done.refused] == ["bad.nii.gz"]
    assert "is damaged" in done.refused[0][1]
    assert tree(tmp_path / "out") == {"good.nii.gz": scan}


def test_one_bad_zip_does_not_stop_the_others(tmp_path, zipped):
    (zipped.parent / "a-broken.zip").write_bytes(b"not a zip")
    report = build_index([zipped.parent], IndexOptions(unpack_to=tmp_path / "data"))
    assert len(report.cases) == 5
    assert [path.name for path, _ in report.failures] == ["a-broken.zip"]
