"""Zips are looked into and unpacked; what could do harm is refused with its name and reason."""

import os
import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tests.releases import released_paths, tiny_mask, tiny_scan, write_subject_based
from verse3d.core import zips
from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import FileBatch
from verse3d.core.volume import read_image
from verse3d.data.index import archives
from verse3d.data.index.archives import archive_above, find_archives, list_members, unpack
from verse3d.data.index.build import IndexOptions, build_index

PART = "dataset-verse19training"


def pack(path: Path, files: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> dict[str, bytes]:
    """Five scans of one part, as they lie in its zip."""
    root = tmp_path_factory.mktemp("release")
    return tree(write_subject_based(root, [pair for pair in released_paths() if pair[0].startswith(PART)][:5]))


@pytest.fixture
def zipped(tmp_path, release) -> Path:
    return pack(tmp_path / "downloads" / f"{PART}.zip", release)


# --- listing


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


# --- unpacking


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


# --- refusals


def special(name: str, kind: int, content: bytes = b"../../etc/passwd") -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info, content


ESCAPES = [
    "../outside.nii.gz",
    "a/../../outside.nii.gz",
    "/absolute.nii.gz",
    "C:/windows.nii.gz",
    "C:\\x.nii.gz",
    "..\\outside.nii.gz",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_that_leads_out_of_the_target_is_refused(tmp_path, name):
    path = pack(tmp_path / "in" / "x.zip", {name: b"harm", "fine.nii.gz": b"fine"})
    done = unpack(path, tmp_path / "in" / "deep" / "out")
    assert [reason for _, reason in done.refused] == ["leads out of the target folder"]
    assert tree(tmp_path / "in" / "deep") == {"out/fine.nii.gz": b"fine"}
    assert {path.name for path in tmp_path.rglob("*.gz")} == {"fine.nii.gz"}
    assert [str(member.path) for member in list_members(path)] == ["fine.nii.gz"]


@pytest.mark.parametrize(("kind", "reason"), [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is a special file")])
def test_links_and_special_files_are_refused(tmp_path, kind, reason):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(*special("scan_ct.nii.gz", kind))
    done = unpack(tmp_path / "x.zip", tmp_path / "out")
    assert done.refused == (("scan_ct.nii.gz", reason),)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a.nii.gz", "A.NII.gz"])
def test_the_second_of_two_files_of_one_name_is_refused(tmp_path, second):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("a.nii.gz", b"first")
        packed.writestr(second, b"second")
    done = unpack(tmp_path / "x.zip", tmp_path / "out")
    assert done.refused == ((second, "has the name of another file in the zip"),)
    assert tree(tmp_path / "out") == {"a.nii.gz": b"first"}


def test_an_encrypted_file_is_refused(tmp_path):
    path = pack(tmp_path / "x.zip", {"a.nii.gz": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(content)
    assert unpack(path, tmp_path / "out").refused == (("a.nii.gz", "is encrypted"),)


def test_a_bomb_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "GROWTH_FREE_BYTES", 10_000)
    path = pack(tmp_path / "x.zip", {"a.nii": bytes(3_000_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="refused as a zip bomb"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_in_a_zip_in_the_zip_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "GROWTH_FREE_BYTES", 10_000)
    inner = pack(tmp_path / "inner.zip", {"a.nii": bytes(3_000_000)}, zipfile.ZIP_DEFLATED).read_bytes()
    path = pack(tmp_path / "x.zip", {f"{number}.zip": inner for number in range(9)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="refused as a zip bomb"):
        unpack(path, tmp_path / "out")


def test_zips_are_not_followed_for_ever(tmp_path):
    content = pack(tmp_path / "0.zip", {"a.nii.gz": b"deep"}).read_bytes()
    for level in range(4):
        content = pack(tmp_path / "next.zip", {f"{level}.zip": content}).read_bytes()
    done = unpack(tmp_path / "next.zip", tmp_path / "out")
    assert done.refused == (("3/2/1.zip", "is a zip in more than 3 zips"),)


def test_a_member_that_says_less_than_it_holds_gives_no_more_than_it_said(tmp_path):
    path = pack(tmp_path / "x.zip", {"a.nii": bytes(100_000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + 24
    content[start : start + 4] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    done = unpack(path, tmp_path / "out")
    assert "is damaged" in done.refused[0][1]
    assert tree(tmp_path / "out") == {}


def test_a_disk_that_is_too_small_is_noticed_before_the_start(tmp_path, zipped, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 100))
    with pytest.raises(DataError, match=r"needs 0\.0 GB in .*data, where 0\.0 GB are free"):
        unpack(zipped, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_full_disk_leaves_whole_files_only(tmp_path, zipped, release, monkeypatch):
    real = Path.open

    def full(self, mode="r", *args, **keywords):
        if "w" in mode and self.name.endswith("sub-verse006_ct.nii.gz"):
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **keywords)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="No space left"):
        unpack(zipped, tmp_path / "data")
    written = tree(tmp_path / "data")
    assert written.items() <= release.items()
    assert 0 < len(written) < len(release)


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MAX_MEMBERS", 3)
    path = pack(tmp_path / "x.zip", {f"{number}.nii.gz": b"x" for number in range(4)})
    with pytest.raises(DataError, match="holds 4 files, at most 3"):
        unpack(path, tmp_path / "out")


def test_zips_below_the_roots_are_found_once(tmp_path, zipped):
    assert find_archives([zipped, zipped.parent, tmp_path]) == (zipped,)


def test_a_zip_cut_off_in_transfer_is_no_zip(tmp_path, zipped):
    zipped.write_bytes(zipped.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cannot be read as a zip.*\n.*download it again"):
        list_members(zipped)


def test_junk_in_a_zip_is_skipped(tmp_path):
    scan = tiny_scan(tmp_path / "scan.nii.gz", "a").read_bytes()
    mask = tiny_mask(tmp_path / "mask.nii.gz").read_bytes()
    names = {
        "a_ct.nii.gz": scan,
        "a_seg.nii.gz": mask,
        "__MACOSX/._a_ct.nii.gz": b"x",
        "._b.nii.gz": b"x",
        ".DS_Store": b"",
    }
    report = build_index([pack(tmp_path / "z" / "x.zip", names)], IndexOptions())
    assert [case.case for case in report.cases] == ["a"]


def test_a_backslash_in_a_name_is_refused_for_what_it_is(tmp_path):
    done = unpack(pack(tmp_path / "x.zip", {"folder\\scan.nii.gz": b"x"}), tmp_path / "out")
    assert [reason for _, reason in done.refused] == ["has a backslash in its name, which is no separator in a zip"]


def test_a_file_in_the_zip_and_one_in_a_zip_of_the_same_place_do_not_replace_each_other(tmp_path):
    inner = pack(tmp_path / "inner.zip", {"a.nii.gz": b"from the inner zip"}).read_bytes()
    path = pack(tmp_path / "x.zip", {"scans/a.nii.gz": b"from the outer zip", "scans.zip": inner})
    done = unpack(path, tmp_path / "out")
    assert (done.written, done.refused) == (1, (("scans/a.nii.gz", "has the name of another file in the zip"),))
    assert tree(tmp_path / "out") == {"scans/a.nii.gz": b"from the outer zip"}


def test_a_name_that_the_disk_cannot_hold_stops_only_that_file(tmp_path):
    names = {"fine.nii.gz": b"x", f"{'n' * 300}.nii.gz": b"x", "last.nii.gz": b"x"}
    done = unpack(pack(tmp_path / "x.zip", names), tmp_path / "out")
    assert done.written == 2
    assert done.refused[0][1] == "has a name that has 307 bytes, at most 255 are possible"


def test_zips_of_one_name_get_folders_of_their_own(tmp_path):
    for number, folder in enumerate("pq"):
        (tmp_path / folder).mkdir()
        scan = tiny_scan(tmp_path / "scan.nii.gz", folder).read_bytes()
        pack(tmp_path / "in" / folder / "data.zip", {f"{number}.nii.gz": scan})
    build_index([tmp_path / "in"], IndexOptions(unpack_to=tmp_path / "out"))
    assert sorted(tree(tmp_path / "out")) == ["data-2/1.nii.gz", "data/0.nii.gz"]


def test_zips_behind_a_link_are_unpacked_too(tmp_path, zipped):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(zipped.parent)
    assert build_index([tmp_path / "root"], IndexOptions(unpack_to=tmp_path / "data")).packed == 0


def test_a_zip_that_cannot_be_read_is_told_also_without_unpacking(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    tiny_scan(tmp_path / "a.nii.gz", "a")
    assert [path.name for path, _ in build_index([tmp_path], IndexOptions()).failures] == ["broken.zip"]


# --- names that become another path where they are joined


@pytest.mark.parametrize("inner", ["...zip", "a/...zip", "..zip", "x/..zip"])
def test_a_zip_in_the_zip_whose_name_without_ending_leads_out_is_refused(tmp_path, inner):
    harm = pack(tmp_path / "harm.zip", {"harm.nii.gz": b"harm", "deep/harm.nii.gz": b"harm"}).read_bytes()
    (tmp_path / "in").mkdir()
    path = pack(tmp_path / "in" / "x.zip", {inner: harm, "fine.nii.gz": b"fine"})
    done = unpack(path, tmp_path / "p" / "q" / "out")
    assert {path.name for path in tmp_path.rglob("*.gz")} <= {"fine.nii.gz", "harm.nii.gz"}
    assert all(file.is_relative_to(tmp_path / "p" / "q" / "out") for file in tmp_path.rglob("*.gz"))
    if inner.endswith("...zip"):
        assert [reason for _, reason in done.refused] == ["has a name that leads out of its folder"] * 2


def test_a_zip_whose_name_is_none_for_a_folder_is_refused_and_the_others_are_unpacked(tmp_path):
    scan = tiny_scan(tmp_path / "scan.nii.gz", "a").read_bytes()
    pack(tmp_path / "in" / "good.zip", {"a.nii.gz": scan})
    pack(tmp_path / "in" / "b\x1b[2J.zip", {"b.nii.gz": scan})
    report = build_index([tmp_path / "in"], IndexOptions(unpack_to=tmp_path / "out"))
    assert "cannot be the name of a file" in report.failures[0][1]
    assert sorted(tree(tmp_path / "out")) == ["good/a.nii.gz"]


def test_a_link_in_the_target_that_leads_out_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scans").symlink_to(tmp_path / "elsewhere")
    done = unpack(pack(tmp_path / "x.zip", {"scans/a.nii.gz": b"x", "b.nii.gz": b"y"}), tmp_path / "out")
    assert "is a link that leads out" in done.refused[0][1]
    assert (done.written, list((tmp_path / "elsewhere").iterdir())) == (1, [])


@pytest.mark.parametrize("name", ["a\x01.nii.gz", "\x1b[31m.nii.gz", "a\nb.nii.gz"])
def test_control_characters_in_a_name_are_refused(tmp_path, name):
    done = unpack(pack(tmp_path / "x.zip", {name: b"x", "b.nii.gz": b"y"}), tmp_path / "out")
    assert done.refused == ((name, "has a name that holds control characters"),)
    assert tree(tmp_path / "out") == {"b.nii.gz": b"y"}


def test_names_that_differ_in_the_coding_of_an_accent_only_are_one_name(tmp_path):
    done = unpack(pack(tmp_path / "x.zip", {"\u00e4.nii.gz": b"x", "A\u0308.nii.gz": b"y"}), tmp_path / "out")
    assert done.refused == (("A\u0308.nii.gz", "has the name of another file in the zip"),)


# --- what a small zip may cost


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
