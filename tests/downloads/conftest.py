"""A server of this machine, and downloads from it."""

import pytest
import requests

from tests.data.fileserver import Served, serving
from tests.downloads.archives import BODY, ONE, OTHER, TWO
from verse3d.downloads import transfer
from verse3d.downloads.job import download_archives
from verse3d.downloads.mirrors import Source
from verse3d.downloads.transfer import Patience


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
