"""Downloads that break, lie and stall: what lands under the final name is the whole archive, or nothing does."""

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections import namedtuple

import pytest
import requests

import verse3d
from tests.data.fileserver import Served, serving
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.downloads import transfer
from verse3d.downloads.job import download_archives, is_archive
from verse3d.downloads.lock import LOCK_FILE
from verse3d.downloads.mirrors import MIRRORS, Archive, Source, archives, by_hand, sources
from verse3d.downloads.parts import Origin, Part
from verse3d.downloads.transfer import Patience

ONE = Archive(19, "training")
TWO = Archive(20, "test")
PART = "dataset-verse19training.zip.base.part"


def make_zip(seed, size=300_000):
    """A zip file whose bytes cannot be compressed; its length is odd."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("rawdata/sub-verse004/sub-verse004_ct.nii.gz", random.Random(seed).randbytes(size))
    return buffer.getvalue()


BODY = make_zip(1)
OTHER = make_zip(2, 290_001)
HTML = b"<!DOCTYPE html><html><body>This bucket has moved.</body></html>"


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """No test asks anybody but this machine, and small pieces let transfers break in the middle."""
    send = requests.Session.send

    def send_here(self, request, **options):
        assert request.url.startswith("http://127.0.0.1:"), request.url
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", send_here)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "_CHUNK_BYTES", 10_000)


@pytest.fixture
def server():
    with serving() as state:
        state.files[f"/{ONE.name}"] = Served(BODY)
        state.files[f"/{TWO.name}"] = Served(OTHER)
        yield state


@pytest.fixture
def slept():
    return []


@pytest.fixture
def get(server, tmp_path, slept):
    """Download from the server (or from several folders of it, as if they were mirrors)."""

    def run(*wanted, folders=("",), attempts=3, read_s=5.0, **options):
        def sources_of(archive):
            names = ("base", "second")
            pairs = zip(names, folders, strict=False)
            return [Source(name, f"{server.url}{folder}/{archive.name}") for name, folder in pairs]

        patience = Patience(connect_s=2.0, read_s=read_s, attempts=attempts, sleep=slept.append)
        return download_archives(wanted or (ONE,), tmp_path / "data", sources_of, patience=patience, **options)

    return run


@pytest.fixture
def served(server):
    return server.files[f"/{ONE.name}"]


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def lock(data):
    return {row["file"]: row for row in json.loads((data / LOCK_FILE).read_text())["files"]}


def names(data):
    return sorted(path.name for path in data.iterdir())


def begun(data, size=100_000, body=BODY, **origin):
    """Leave the beginning of a transfer, as a killed process does."""
    data.mkdir()
    (data / PART).write_bytes(body[:size])
    (data / f"{PART}.json").write_text(json.dumps(origin))


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


# --- transfers that break


def test_a_broken_transfer_goes_on_where_it_broke(get, served, server, data, slept):
    served.breaks = [70_000, 90_000]
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY
    assert lock(data)[ONE.name]["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert server.sent == len(BODY), "only the missing bytes are sent again"
    assert server.asked(ONE.name) == ["", "bytes=70000-", "bytes=160000-"]
    assert slept == [1.0, 1.0]


def test_a_break_costs_less_than_a_piece(get, served, server, data):
    served.breaks = [79_999, 3]
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY
    assert server.sent == len(BODY) + 9_999 + 3


def test_a_transfer_that_always_gets_further_is_never_given_up(get, served, data):
    served.breaks = [20_000] * 8
    assert get(attempts=2).records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY


def test_a_transfer_that_gets_no_further_is_given_up_and_its_part_stays(get, served, server, data, slept):
    served.breaks = [50_000, 0, 0, 0, 0]
    record = get(attempts=4).records[0]
    assert record.status == "failed" and "broke off" in record.reasons[0] and "4 attempts" in record.reasons[0]
    assert slept == [1.0, 2.0, 4.0], "the pause doubles"
    assert (data / PART).read_bytes() == BODY[:50_000] and not (data / ONE.name).exists()
    served.breaks, server.sent = [], 0
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY and server.sent == len(BODY) - 50_000
    assert names(data) == [ONE.name, LOCK_FILE]


def test_a_server_that_ignores_ranges_starts_again(get, served, server, data):
    served.breaks, served.ranges = [120_000], False
    assert get().records[0].status == "downloaded"
    assert server.asked(ONE.name) == ["", "bytes=120000-"] and server.sent == len(BODY) + 120_000
    assert (data / ONE.name).read_bytes() == BODY


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("clue", ["etag", "last_modified", "length alone"])
def test_a_file_that_changed_between_two_parts_is_fetched_from_its_beginning(get, server, data, heeds_if_range, clue):
    served = server.files[f"/{ONE.name}"]
    served.heeds_if_range = heeds_if_range
    served.etag, served.last_modified = ('"one"', "") if clue == "etag" else ("", "")
    if clue == "last_modified":
        served.last_modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    served.breaks = [50_000, 0, 0, 0]
    assert get().records[0].status == "failed"
    served.body, served.breaks = OTHER, []
    served.etag = served.etag and '"two"'
    served.last_modified = served.last_modified and "Tue, 02 Jan 2024 00:00:00 GMT"
    server.gets.clear()
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == OTHER
    if heeds_if_range and clue != "length alone":
        assert server.asked(ONE.name) == ["bytes=50000-"], "If-Range makes a second request needless"


def test_a_server_that_sends_another_range_than_asked_for_is_not_believed(get, served, data):
    served.breaks, served.shift = [50_000], 1000
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY


def test_a_part_that_was_complete_already_is_not_sent_again(get, server, data):
    begun(data, len(BODY), url=f"{server.url}/{ONE.name}", etag='"one"', total=len(BODY))
    assert get().records[0].status == "downloaded"
    assert server.sent == 0 and server.asked(ONE.name) == [f"bytes={len(BODY)}-"]
    assert (data / ONE.name).read_bytes() == BODY
    assert lock(data)[ONE.name]["sha256"] == hashlib.sha256(BODY).hexdigest()


def test_a_part_longer_than_the_file_is_thrown_away(get, server, data):
    begun(data, 10**7, BODY + b"and more", url=f"{server.url}/{ONE.name}", etag='"one"', total=len(BODY) + 8)
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY


@pytest.mark.parametrize(
    "note", ["", "{", "[]", '{"url": 1, "more": 2}', '{"url": "http://127.0.0.1/other"}', '{"etag": "\\"one\\""}']
)
def test_a_part_of_unknown_origin_is_never_continued(get, server, data, note):
    begun(data, 1000, OTHER)
    (data / f"{PART}.json").write_text(note)
    assert get().records[0].status == "downloaded"
    assert server.asked(ONE.name) == [""] and (data / ONE.name).read_bytes() == BODY


def test_a_part_from_another_address_is_never_continued(get, server, data):
    begun(data, 1000, OTHER, url=f"{server.url}/elsewhere.zip", etag='"one"', total=len(OTHER))
    assert get().records[0].status == "downloaded"
    assert server.asked(ONE.name) == [""] and (data / ONE.name).read_bytes() == BODY


def test_ctrl_c_leaves_the_part_and_the_next_call_goes_on(get, served, server, data):
    def interrupt(_what, _done, _total):
        if (data / PART).stat().st_size >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(progress=interrupt)
    held = (data / PART).stat().st_size
    assert 50_000 <= held < len(BODY) and BODY.startswith((data / PART).read_bytes())
    assert not (data / ONE.name).exists()
    assert get().records[0].status == "downloaded"
    assert server.asked(ONE.name) == ["", f"bytes={held}-"]
    assert (data / ONE.name).read_bytes() == BODY


def test_two_downloads_do_not_write_to_the_same_part(get, data):
    data.mkdir()
    with Part(data / PART, lambda *_: None):
        record = get().records[0]
    assert record.status == "failed" and "another process" in record.reasons[0]
    assert get().records[0].status == "downloaded"


# --- archives that are packed on the fly: no length, no ranges


def test_an_archive_without_a_length_arrives(get, served, data):
    served.chunked, served.etag, served.ranges = True, "", False
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY


def test_an_archive_without_a_length_is_fetched_from_its_beginning_after_a_break(get, served, server, data):
    served.chunked, served.etag, served.ranges = True, "", False
    served.breaks = [130_000, 40_000]
    assert get().records[0].status == "downloaded"
    assert (data / ONE.name).read_bytes() == BODY and server.sent == len(BODY) + 170_000


def test_an_archive_without_a_length_that_ends_too_early_is_asked_for_again(get, served, server, data):
    served.chunked, served.etag, served.ranges = True, "", False
    served.body = BODY[:200_000]
    record = get().records[0]
    assert record.status == "failed" and "broke off" in record.reasons[0]
    assert len(server.asked(ONE.name)) == 3 and not (data / ONE.name).exists()


# --- servers that refuse, lie or say nothing


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(get, served, slept, data, status):
    served.answers, served.retry_after = [status, status], "7"
    assert get().records[0].status == "downloaded" and slept == [7.0, 7.0]
    assert (data / ONE.name).read_bytes() == BODY


def test_no_pause_is_endless(get, served, slept):
    served.answers, served.retry_after = [503], "86400"
    assert get().records[0].status == "downloaded" and slept == [60.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_server_that_refuses_is_not_asked_again(get, served, server, slept, status):
    served.answers = [status] * 5
    record = get().records[0]
    assert record.status == "failed" and f"answered {status}" in record.reasons[0]
    assert slept == [] and len(server.gets) == 1


@pytest.mark.parametrize("status", [201, 204])
def test_an_answer_that_makes_no_sense_is_refused(get, served, status):
    served.answers = [status]
    assert f"unexpected answer {status}" in get().records[0].reasons[0]


def test_the_next_mirror_is_asked_and_a_refusing_one_costs_no_bytes_that_are_there(get, server, data):
    begun(data, url=f"{server.url}/gone/{ONE.name}", etag='"one"', total=len(BODY))
    report = get(folders=("/gone", ""))
    assert report.records[0].status == "downloaded"
    assert report.records[0].locked.url == f"{server.url}/{ONE.name}"
    assert names(data) == [ONE.name, LOCK_FILE], "parts of all mirrors are gone once one has delivered"


def test_every_mirror_has_its_reason_and_the_part_of_a_dead_one_stays(get, server, data):
    server.files[f"/html/{ONE.name}"] = Served(HTML)
    begun(data, url=f"{server.url}/gone/{ONE.name}", etag='"one"', total=len(BODY))
    record = get(folders=("/gone", "/html")).records[0]
    assert [reason.split(":")[0] for reason in record.reasons] == ["base", "second"]
    assert "404" in record.reasons[0] and "<!DOCTYPE html>" in record.reasons[1]
    assert (data / PART).read_bytes() == BODY[:100_000]


def test_one_archive_that_fails_does_not_stop_the_others(get, server, data):
    del server.files[f"/{ONE.name}"]
    report = get(ONE, TWO)
    assert [record.status for record in report.records] == ["failed", "downloaded"] and report.failed == (ONE,)
    assert list(lock(data)) == [TWO.name] and TWO.name in names(data)


def test_an_error_page_never_replaces_the_beginning_of_an_archive(get, served, server, data):
    begun(data, url=f"{server.url}/{ONE.name}", etag='"one"', total=len(BODY))
    served.body, served.etag = HTML, '"page"'
    record = get().records[0]
    assert record.status == "failed" and "something else than a zip" in record.reasons[0]
    assert (data / PART).read_bytes() == BODY[:100_000] and not (data / ONE.name).exists()
    served.body, served.etag, server.sent = BODY, '"one"', 0
    assert get().records[0].status == "downloaded" and server.sent == len(BODY) - 100_000


@pytest.mark.parametrize("body", [BODY[:4] + b"\0" * 5000, BODY[:-30], BODY[:50] + b"x" * 200_000])
def test_a_whole_transfer_of_wrong_bytes_is_refused_and_deleted(get, served, data, body):
    served.body = body
    record = get().records[0]
    assert record.status == "failed" and "wrong bytes" in record.reasons[0]
    assert names(data) == []


@pytest.mark.parametrize("chunked", [True, False])
def test_an_empty_answer_is_refused(get, served, data, chunked):
    served.body, served.chunked = b"", chunked
    assert "empty file" in get().records[0].reasons[0] and not (data / ONE.name).exists()


@pytest.mark.parametrize(("claims_more", "words"), [(1234, "broke off"), (-100, "wrong bytes")])
def test_a_wrong_length_never_makes_an_archive(get, served, data, claims_more, words):
    served.claims_more = claims_more
    record = get().records[0]
    assert record.status == "failed" and words in record.reasons[0] and not (data / ONE.name).exists()
    served.claims_more = 0
    assert get().records[0].status == "downloaded" and (data / ONE.name).read_bytes() == BODY


def test_a_silent_server_is_left_after_the_time_out(get, served, server, slept, data):
    served.silent_after = 30_000
    record = get(read_s=0.6, attempts=2).records[0]
    assert record.status == "failed" and "fell silent" in record.reasons[0]
    assert server.asked(ONE.name)[:2] == ["", "bytes=30000-"] and slept
    assert BODY.startswith((data / PART).read_bytes())


def test_a_mirror_that_does_not_answer_costs_its_pauses_only_once(server, data, slept):
    with serving() as gone:
        dead = gone.url
    patience = Patience(connect_s=10.0, read_s=10.0, attempts=3, sleep=slept.append)

    def sources_of(archive):
        return [Source("s3", f"{dead}/{archive.name}"), Source("osf", f"{server.url}/{archive.name}")]

    report = download_archives((ONE, TWO), data, sources_of, patience=patience)
    assert [record.locked.url.startswith(server.url) for record in report.records] == [True, True]
    assert slept == [1.0, 2.0]


def test_nobody_at_the_address_is_a_reason(data, slept):
    with serving() as gone:
        url = gone.url
    patience = Patience(connect_s=10.0, read_s=10.0, attempts=2, sleep=slept.append)
    report = download_archives((ONE,), data, lambda _: [Source("s3", f"{url}/a.zip")], patience=patience)
    assert "no connection" in report.records[0].reasons[0] and slept == [1.0]


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


# --- the command


def test_the_command_fetches_tells_the_licence_and_the_next_step(server, data, capsys):
    arguments = ["download", "--year", "19", "--split", "training", "--out", str(data), "--base-url", server.url]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "CC BY-SA 4.0" in shown and "10.1016/j.media.2021.102166" in shown and "verse3d index" in shown
    assert "downloaded" in shown and hashlib.sha256(BODY).hexdigest()[:12] in shown
    assert main(arguments) == 0 and "kept" in capsys.readouterr().out
    assert server.asked(ONE.name) == [""] and len(server.gets) == 1


def test_the_command_ends_with_3_and_instructions_if_an_archive_is_missing(server, data, capsys):
    code = main(["download", "--split", "test", "--split", "training", "--out", str(data), "--base-url", server.url])
    assert code == 3
    shown = capsys.readouterr()
    assert shown.out.count("downloaded") == 2 and "answered 404" in shown.out
    told = " ".join(shown.err.split())
    assert "by hand" in told and "jtfa5" in told and "4skx2" in told and "verse3d index" in told
    assert sorted(lock(data)) == sorted([ONE.name, TWO.name])


def test_the_command_says_where_a_changed_file_is_and_what_to_do(server, data, capsys):
    arguments = ["download", "--year", "20", "--split", "test", "--out", str(data), "--base-url", server.url]
    assert main(arguments) == 0
    (data / TWO.name).write_bytes(BODY)
    capsys.readouterr()
    assert main(arguments) == 3
    shown = capsys.readouterr()
    assert "--overwrite" in shown.out and "by hand" not in shown.err
    assert main([*arguments, "--overwrite"]) == 0 and (data / TWO.name).read_bytes() == OTHER


@pytest.mark.parametrize(
    "wrong",
    [
        ["--year", "21"],
        ["--split", "train"],
        ["--mirror", "s4"],
        ["--base-url", "here.org"],
        ["--base-url", "http://127.0.0.1:9", "--mirror", "s3"],
    ],
)
def test_wrong_usage_of_the_command_exits_with_2(data, capsys, wrong):
    assert main(["download", "--out", str(data), *wrong]) == 2
    assert capsys.readouterr().err and not data.exists()


def test_ctrl_c_in_the_command_exits_with_130(server, data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Part, "finish", interrupted)
    arguments = ["download", "--year", "19", "--split", "training", "--out", str(data), "--base-url", server.url]
    assert main(arguments) == 130
    assert (data / PART).read_bytes() == BODY and not (data / ONE.name).exists()
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.sent = 0
    assert main(arguments) == 0 and server.sent == 0 and (data / ONE.name).read_bytes() == BODY
