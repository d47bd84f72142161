"""A small HTTP server on loopback that serves files from memory and misbehaves on demand."""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file and how it is served.

    Attributes:
        body: its bytes.
        etag: sent as ETag and compared with If-Range; empty: none is sent.
        last_modified: the same for Last-Modified.
        ranges: whether Range is understood.
        heeds_if_range: whether a changed ETag makes the server send everything.
        shift: how many bytes too early a part begins.
        chunked: sent without a length, as a zip that is packed on the fly.
        breaks: after how many bytes of each of the next transfers the connection is cut.
        answers: status codes of the next requests, before it serves.
        retry_after: sent with those.
        silent_after: stop sending before this byte of the file and say nothing more.
        claims_more: how much too large (or small) Content-Length is.
    """

    body: bytes
    etag: str = '"one"'
    last_modified: str = ""
    ranges: bool = True
    heeds_if_range: bool = True
    shift: int = 0
    chunked: bool = False
    breaks: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    retry_after: str = ""
    silent_after: int | None = None
    claims_more: int = 0


class FileServer:
    """Files by path, and what was asked and sent."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.gets: list[tuple[str, str]] = []
        """Path and Range of every GET."""
        self.sent = 0
        """Bytes of bodies."""
        self.stopping = threading.Event()
        self.url = ""

    def asked(self, name: str) -> list[str]:
        """The Range headers of the GETs for a file."""
        return [asked for path, asked in self.gets if path == f"/{name}"]


@contextlib.contextmanager
def serving() -> Iterator[FileServer]:
    """Run a server until the block ends."""
    state = FileServer()

    class Handler(_Handler):
        files = state

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_) -> None:
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    files: FileServer
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        served = self.files.files.get(self.path)
        self.send_response(200 if served else 404)
        if served is None or not served.chunked:
            self.send_header("Content-Length", str(len(served.body) if served else 0))
        self.end_headers()

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.files.gets.append((self.path, asked))
        served = self.files.files.get(self.path)
        if served is None or served.answers:
            return self._refuse(404 if served is None else served.answers.pop(0), served)
        start = self._start(served, asked)
        if start and start >= len(served.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._serve(served, start)

    def _start(self, served: Served, asked: str) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        condition = self.headers.get("If-Range")
        changed = served.heeds_if_range and condition and condition not in (served.etag, served.last_modified)
        return max(0, int(found[1]) - served.shift) if found and served.ranges and not changed else 0

    def _refuse(self, status: int, served: Served | None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if served and served.retry_after:
            self.send_header("Retry-After", served.retry_after)
        self.end_headers()

    def _serve(self, served: Served, start: int) -> None:
        body = served.body[start:]
        self.send_response(206 if start else 200)
        if start:
            last = len(served.body) + served.claims_more - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        for name, value in (("ETag", served.etag), ("Last-Modified", served.last_modified)):
            if value:
                self.send_header(name, value)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) + served.claims_more))
        self.end_headers()
        end = served.breaks.pop(0) if served.breaks else None
        if served.silent_after is not None:
            end = max(0, served.silent_after - start)
        self._send(body if end is None else body[:end], chunked=served.chunked)
        if served.silent_after is not None:
            self.files.stopping.wait(10)
        if end is not None or served.claims_more:
            self.close_connection = True
        elif served.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, body: bytes, *, chunked: bool) -> None:
        for place in range(0, len(body), 50_000):
            piece = body[place : place + 50_000]
            self.files.sent += len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        self.wfile.flush()
