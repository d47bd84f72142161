"""Downloads: what lands under the final name is the whole archive or nothing, and what is there is kept."""

import hashlib
import os
import shutil
import zipfile
from collections import namedtuple

import pytest

import verse3d
from tests.downloads.archives import BODY, HTML, ONE, OTHER, PART, TWO, lock, names
from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.downloads.job import is_archive
from verse3d.downloads.lock import LOCK_FILE
from verse3d.downloads.mirrors import MIRRORS, Source, archives, by_hand, sources
from verse3d.downloads.parts import Origin, Part

# --- the good way


def test_an_archive_lands_whole_and_its_hash_is_recorded(get, server, data):
    seen = []
    report = get(ONE, TWO, progress=lambda *facts: seen.append(facts))
    assert [record.status for record in report.records] == ["downloaded", "downloaded"] and report.failed == ()
    assert (data / ONE.name).read_bytes() == BODY and (data / TWO.name).read_bytes() == OTHER
    assert names(data) == sorted([ONE.name, TWO.name, LOCK_FILE])
    row = lock(data)[ONE.name]
    assert row["sha256"] == hashlib.sha256(BODY).hexdigest() and row["bytes"] == len(BODY)
    assert row["url"] == f"{server.url}/{ONE.name}" and row["etag"] == '"one"'
    assert {what for what, _, _ in seen} == {f"{ONE.name} (MB)", f"{TWO.name} (MB)"}
    assert all(done <= total for _, done, total in seen)


def test_what_is_there_is_not_fetched_again_and_only_verify_reads_it(get, server, data, monkeypatch):
    get()
    server.gets.clear()
    hashed = []
    monkeypatch.setattr("verse3d.downloads.job._sha256", lambda path: hashed.append(path) or "different")
    assert get().records[0].status == "kept" and hashed == []
    record = get(verify=True).records[0]
    assert record.status == "failed" and hashed == [data / ONE.name] and "was changed" in record.reasons[0]
    assert server.gets == []


# --- what lies there, and the list


def test_a_file_that_changed_since_is_kept_and_named_until_overwrite(get, server, data):
    get()
    path = data / ONE.name
    changed = bytearray(BODY)
    changed[5000] ^= 1
    path.write_bytes(changed)
    server.gets.clear()
    record = get().records[0]
    assert record.status == "failed" and "`overwrite`" in record.hint
    assert (
        hashlib.sha256(BODY).hexdigest() in record.reasons[0]
        and hashlib.sha256(changed).hexdigest() in record.reasons[0]
    )
    assert path.read_bytes() == changed and server.gets == []
    assert get(overwrite=True).records[0].status == "downloaded" and path.read_bytes() == BODY


def test_a_changed_file_stays_until_its_replacement_is_whole(get, served, data):
    get()
    (data / ONE.name).write_bytes(b"cut")
    served.breaks = [100, 0, 0, 0]
    record = get(overwrite=True).records[0]
    assert record.status == "failed" and (data / ONE.name).read_bytes() == b"cut"


def test_a_changed_time_with_the_same_bytes_is_no_change(get, server, data):
    get()
    os.utime(data / ONE.name, (1, 1))
    server.gets.clear()
    assert get().records[0].status == "kept" and server.gets == []
    assert lock(data)[ONE.name]["mtime_ns"] == 10**9


def test_overwrite_leaves_alone_what_is_as_it_should_be(get, server):
    get()
    server.gets.clear()
    assert get(overwrite=True, verify=True).records[0].status == "kept" and server.gets == []


def test_an_archive_that_was_put_there_by_hand_is_taken_into_the_list(get, server, data):
    data.mkdir()
    (data / ONE.name).write_bytes(BODY)
    record = get().records[0]
    assert record.status == "kept" and server.gets == []
    assert lock(data)[ONE.name]["sha256"] == hashlib.sha256(BODY).hexdigest() and lock(data)[ONE.name]["url"] == ""


def test_a_file_that_is_no_archive_is_neither_taken_nor_touched(get, server, data):
    data.mkdir()
    (data / ONE.name).write_bytes(HTML)
    record = get().records[0]
    assert record.status == "failed" and "no readable zip" in record.reasons[0] and "`overwrite`" in record.hint
    assert (data / ONE.name).read_bytes() == HTML and server.gets == []


def test_a_folder_in_the_place_of_an_archive_is_reported(get, data):
    (data / ONE.name).mkdir(parents=True)
    report = get(ONE, TWO)
    assert [record.status for record in report.records] == ["failed", "downloaded"]
    assert "cannot be read" in report.records[0].reasons[0]


def test_the_same_address_must_give_the_same_bytes_again(get, served, data):
    get()
    (data / ONE.name).unlink()
    served.body, served.etag = OTHER, '"two"'
    record = get().records[0]
    assert record.status == "failed" and "another file than on" in record.reasons[0]
    assert names(data) == [LOCK_FILE]
    served.body = BODY
    assert get().records[0].status == "downloaded"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 2, "files": []}', b'{"version": 1, "files": [{"file": "a"}]}', b"\xff\xfe"],
)
def test_a_damaged_list_is_named_before_anything_is_fetched(get, server, data, content):
    data.mkdir()
    (data / LOCK_FILE).write_bytes(content)
    with pytest.raises(DataError, match=LOCK_FILE) as caught:
        get()
    assert "move it away" in caught.value.hint and server.gets == []
    assert (data / LOCK_FILE).read_bytes() == content


# --- disk and folder

Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(get, server, data, monkeypatch):
    free = len(BODY) + len(OTHER) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, free))
    with pytest.raises(OutputError, match=r"0\.00 GB are free") as caught:
        get(ONE, TWO)
    assert "unpacking" in caught.value.hint and server.gets == []
    begun_part = data / PART
    begun_part.write_bytes(BODY[:1])  # one byte is there already
    assert get(ONE, TWO).failed == ()


def test_without_a_length_the_rough_size_counts(get, served, server, monkeypatch):
    served.chunked = True
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 5 * 10**9))
    with pytest.raises(OutputError, match=r"6\.60 GB are to come, but only 5\.00 GB are free"):
        get()
    assert server.gets == []


def test_a_disk_that_fills_up_meanwhile_stops_that_archive_only(get, served, server, monkeypatch):
    room = iter([10**12, 10, 10**12])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, next(room)))
    report = get(ONE, TWO, folders=("", "/second"))
    assert [record.status for record in report.records] == ["failed", "downloaded"]
    assert "free" in report.records[0].reasons[0]
    assert server.asked(f"second/{ONE.name}") == [], "another mirror would not help"


def test_a_full_disk_is_an_error_of_its_own(get, data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Part, "_start", full)
    record = get().records[0]
    assert record.status == "failed" and "No space left" in record.reasons[0] and "disk is full" in record.hint


def test_a_folder_that_cannot_be_written_to_is_refused(get, server, data):
    data.write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        get()
    assert server.gets == []


# --- mirrors


def test_the_release_has_six_archives_and_each_its_own_addresses():
    six = archives()
    assert [archive.name for archive in six] == [
        f"dataset-verse{year}{split}.zip" for year in (19, 20) for split in ("training", "validation", "test")
    ]
    assert [source.mirror for source in sources(ONE)] == ["s3", "osf"] == list(MIRRORS)
    urls = {source.url for archive in six for source in sources(archive)}
    assert len(urls) == 12
    assert f"https://s3.bonescreen.de/public/VerSe-complete/{TWO.name}" in urls
    assert all("/jtfa5/" in one.url("osf") if one.year == 19 else "/4skx2/" in one.url("osf") for one in six)
    assert 45e9 < sum(archive.rough_bytes for archive in six) < 52e9


def test_a_base_address_is_asked_instead_of_the_mirrors():
    assert sources(ONE, "https://here.org/verse/") == (Source("base", f"https://here.org/verse/{ONE.name}"),)
    assert [source.mirror for source in sources(ONE, None, ["osf", "s3", "osf"])] == ["osf", "s3"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "here.org",
        "ftp://here.org",
        "file:///etc",
        "htp://here.org",
        "http://",
        "http://a b.org",
        "http://here:port",
        "http://[::1",
        "https://here.org/?zip=",
        "https://here.org/#part",
        "https://me:secret@here.org",
        "/data/verse",
    ],
)
def test_a_mistyped_address_is_refused(url, data):
    with pytest.raises(ConfigError, match="is not the http") as caught:
        verse3d.download(data, base_url=url)
    assert caught.value.exit_code == 2 and not data.exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"years": [2019]}, "no year 2019|has no year 2019"),
        ({"splits": ["train"]}, "split 'train'"),
        ({"years": []}, "without a year"),
        ({"mirrors": ["s4"]}, "mirror 's4'"),
        ({"mirrors": ["s3"], "base_url": "http://here.org"}, "cannot be combined"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wrong, words, data):
    with pytest.raises(ConfigError, match=words):
        verse3d.download(data, **wrong)
    assert not data.exists()


def test_the_way_by_hand_names_the_nodes_of_the_missing_years_only(tmp_path):
    text = by_hand([ONE], tmp_path)
    assert all(node in text for node in ("nqjyw", "923ap", "jtfa5", ONE.name, str(tmp_path))) and "4skx2" not in text
    text = by_hand([TWO], tmp_path)
    assert all(node in text for node in ("t98fz", "4skx2", "b2wxj", TWO.name)) and "jtfa5" not in text


def test_two_files_are_the_same_only_if_something_says_so():
    one = Origin("u", '"a"', "", 10)
    assert one.is_same(Origin("u", '"a"', "yesterday", None)) and one.is_same(Origin("u", "", "", 10))
    assert not one.is_same(Origin("u", '"b"', "", 10)) and not one.is_same(Origin("u", '"a"', "", 11))
    assert not one.is_same(Origin("v", '"a"', "", 10)) and not Origin("u").is_same(Origin("u"))
    assert not one.is_same(Origin("u", "", "yesterday", None)), "nothing that both know"
    assert Origin("u", 'W/"a"', "yesterday").condition == "yesterday" and one.condition == '"a"'


def test_only_a_zip_that_names_a_file_is_an_archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("empty")
    assert not is_archive(path) and not is_archive(tmp_path / "nothing.zip")
    path.write_bytes(BODY)
    assert is_archive(path)
