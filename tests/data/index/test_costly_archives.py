"""What a small zip may cost: sizes, files and zips in zips are counted before they are paid for."""

import os
import zipfile
from pathlib import Path

import pytest

from tests.data.index.zips import pack, tree
from verse3d.core import zips
from verse3d.core.errors import DataError
from verse3d.core.files import FileBatch
from verse3d.data.index.archives import list_members, unpack


def packed_zeros(path: Path, count: int) -> Path:
    """A zip that is packed in a zip, and holds so many zeros."""
    inner = pack(path.with_name("inner.zip"), {"a.nii": bytes(count)}).read_bytes()
    return pack(path, {"inner.zip": inner, "fine.nii.gz": b"fine"}, zipfile.ZIP_DEFLATED)


def test_a_packed_zip_in_a_zip_that_would_grow_large_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "INNER_FREE_BYTES", 10_000)
    path = packed_zeros(tmp_path / "x.zip", 1_000_000)
    read = []
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, *_: read.append(self.name))
    assert [str(member.path) for member in list_members(path)] == ["fine.nii.gz"]
    assert read == []


def test_many_packed_zips_share_one_allowance(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "INNER_FREE_BYTES", 25_000)
    inner = pack(tmp_path / "inner.zip", {"a.nii": bytes(10_000)}).read_bytes()
    path = pack(tmp_path / "x.zip", {f"{number}.zip": inner for number in range(9)}, zipfile.ZIP_DEFLATED)
    done = unpack(path, tmp_path / "out")
    assert done.written == 2
    assert len(done.refused) == 7
    assert "is a packed zip of 0 MB, too much" in done.refused[0][1]


def test_a_packed_zip_in_a_packed_zip_gives_its_files_byte_for_byte(tmp_path, release):
    inner = pack(tmp_path / "inner.zip", release, zipfile.ZIP_DEFLATED).read_bytes()
    middle = pack(tmp_path / "m.zip", {"two.zip": inner, "three.zip": inner}, zipfile.ZIP_DEFLATED).read_bytes()
    outer = pack(tmp_path / "outer.zip", {"one.zip": middle}, zipfile.ZIP_DEFLATED)
    assert unpack(outer, tmp_path / "out").written == 2 * len(release)
    assert tree(tmp_path / "out" / "one" / "two") == tree(tmp_path / "out" / "one" / "three") == release


def test_a_packed_zip_that_is_damaged_is_refused_alone(tmp_path):
    path = packed_zeros(tmp_path / "x.zip", 50_000)
    content = bytearray(path.read_bytes())
    content[content.index(b"inner.zip") + 20] ^= 0xFF
    path.write_bytes(content)
    done = unpack(path, tmp_path / "out")
    assert tree(tmp_path / "out") == {"fine.nii.gz": b"fine"}
    assert "cannot be read as a zip" in done.refused[0][1]


def sharing(path: Path, count: int) -> Path:
    """A zip whose directory names one packed file many times."""
    pack(path, {"a.nii": bytes(100_000)}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as packed:
        for number in range(1, count):
            info = packed.infolist()[0].__class__(f"{number}.nii")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(info, name, getattr(packed.infolist()[0], name))
            packed.filelist.append(info)
        packed._didModify = True
    return path


def test_files_that_share_bytes_are_refused_as_a_bomb(tmp_path):
    path = sharing(tmp_path / "x.zip", 40)
    assert len(zipfile.ZipFile(path).infolist()) == 40
    with pytest.raises(DataError, match="zip bomb: files in it share bytes"):
        list_members(path)


def test_an_inner_zip_whose_files_share_bytes_is_refused_alone(tmp_path):
    path = pack(tmp_path / "x.zip", {"i.zip": sharing(tmp_path / "i.zip", 3).read_bytes(), "b.nii.gz": b"y"})
    done = unpack(path, tmp_path / "out")
    assert "share bytes" in done.refused[0][1]
    assert tree(tmp_path / "out") == {"b.nii.gz": b"y"}


def test_files_in_all_inner_zips_together_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MAX_MEMBERS", 10)
    inner = pack(tmp_path / "inner.zip", {f"{number}.nii.gz": b"" for number in range(5)}).read_bytes()
    path = pack(tmp_path / "x.zip", {f"{number}.zip": inner for number in range(3)})
    with pytest.raises(DataError, match="holds 13 files, at most 10"):
        list_members(path)


def test_zips_in_a_zip_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MAX_INNER", 3)
    inner = pack(tmp_path / "inner.zip", {"a": b""}).read_bytes()
    with pytest.raises(DataError, match="more than 3 zips"):
        list_members(pack(tmp_path / "x.zip", {f"{number}.zip": inner for number in range(4)}))


def test_a_directory_is_refused_before_an_object_is_made_for_each_of_its_entries(tmp_path, monkeypatch):
    path = pack(tmp_path / "x.zip", {str(number): b"" for number in range(50)})
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # would be called for every entry
    monkeypatch.setattr(zips, "MAX_MEMBERS", 49)
    with pytest.raises(DataError, match="holds 50 files"):
        list_members(path)
    monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 2000)
    with pytest.raises(DataError, match=r"directory has \d+ bytes, at most 2000"):
        list_members(path)


def test_a_pipe_called_like_a_zip_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(DataError, match="is a pipe"):
        list_members(tmp_path / "x.zip")


def test_thousands_of_small_files_are_flushed_together(tmp_path, monkeypatch):
    path = pack(tmp_path / "x.zip", {f"{number}.json": b"{}" for number in range(2_500)})
    batches = []
    real = FileBatch.settle
    monkeypatch.setattr(FileBatch, "settle", lambda self: (batches.append(len(self._ready)), real(self))[1])
    assert unpack(path, tmp_path / "out").written == 2_500
    assert batches == [1_000, 1_000, 500]
