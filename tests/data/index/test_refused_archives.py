"""What a zip could do harm with is refused with its name and reason."""

import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tests.data.index.zips import pack, tree
from tests.releases import tiny_mask, tiny_scan
from verse3d.core import zips
from verse3d.core.errors import DataError, OutputError
from verse3d.data.index import archives
from verse3d.data.index.archives import find_archives, list_members, unpack
from verse3d.data.index.build import IndexOptions, build_index


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
