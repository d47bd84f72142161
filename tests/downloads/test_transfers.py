"""Transfers that break, lie and stall: they go on where they broke, or begin anew, or name their reason."""

import hashlib

import pytest

from tests.data.fileserver import Served, serving
from tests.downloads.archives import BODY, HTML, ONE, OTHER, PART, TWO, begun, lock, names
from verse3d.downloads.job import download_archives
from verse3d.downloads.lock import LOCK_FILE
from verse3d.downloads.mirrors import Source
from verse3d.downloads.parts import Part
from verse3d.downloads.transfer import Patience


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
