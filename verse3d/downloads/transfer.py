"""One file over HTTP: asked for again where it broke off, with time-outs, pauses and an end to patience."""

import contextlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import requests
from requests import exceptions

from verse3d.core.logs import logger
from verse3d.downloads.parts import NoAnswerError, Origin, Part, TransferError
from verse3d.version import __version__

_log = logger(__name__)
NO_NETWORK = "there is no connection to the internet"
_CHUNK_BYTES = 2**18
"""A break costs what was received of the last piece."""
_WORTH_ASKING_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_HOPELESS = (
    exceptions.InvalidURL,
    exceptions.InvalidSchema,
    exceptions.MissingSchema,
    exceptions.TooManyRedirects,
)


class _StalePartError(Exception):
    """The server's file is not the one that the part is the beginning of."""


class _CompleteError(Exception):
    """The part is the whole file already."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask it again.

    Attributes:
        connect_s: longest wait for a connection.
        read_s: longest silence while the server should be sending.
        attempts: how often to ask in a row without getting any further.
        first_pause_s: pause after the first failure; it doubles with every further one.
        longest_pause_s: no pause is longer, whatever the server asks for.
        sleep: called with every pause.
    """

    connect_s: float = 15.0
    read_s: float = 60.0
    attempts: int = 4
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def pause_s(self, failures: int, asked_s: float = 0.0) -> float:
        """How long to wait after that many failures in a row, if the server asked for ``asked_s``."""
        return min(self.longest_pause_s, max(self.first_pause_s * 2.0 ** (failures - 1), asked_s))


def fetch(
    url: str, part: Part, *, patience: Patience, has_room: Callable[[int], None], is_whole: Callable[[Path], bool]
) -> None:
    """Fill a part with the file at ``url``, going on where it ends if it is the beginning of the same file.

    Args:
        url: an http(s) address.
        part: what is there already, possibly nothing.
        patience: time-outs, attempts and pauses.
        has_room: called with the number of bytes that are to come, before they do; raises if the disk is too small.
        is_whole: whether a file is what it should be; asked where the server did not say how long the file is.

    Raises:
        TransferError: the server refuses, is silent, breaks off too often, or sends something else than a zip file
            (``NoAnswerError`` if no attempt was answered).
        OutputError: the part cannot be written.
    """
    resume = part.origin is not None and part.origin.url == url
    failures, furthest, heard = 0, part.size if resume else 0, False
    while True:
        attempt, asked_s = _Attempt(url, part, patience, has_room, is_whole), 0.0
        try:
            return attempt.run(resume=resume)
        except _StalePartError:
            resume, reason = False, "its file has changed since the transfer began"
        except exceptions.RequestException as error:
            # The pause that a busy server asked for
            asked = "" if error.response is None else error.response.headers.get("Retry-After", "")
            resume, asked_s, reason = True, (float(asked) if asked.isdigit() else 0.0), _reason(error)
            if _is_hopeless(error):
                raise TransferError(f"{url}: {reason}") from error
        heard = heard or attempt.response is not None
        # Whoever gets further, however slowly, is asked again for ever; only standing still counts.
        failures = 1 if part.size > furthest else failures + 1
        furthest = max(furthest, part.size)
        if failures >= patience.attempts:
            kind = TransferError if heard else NoAnswerError
            raise kind(f"{url}: {reason} ({failures} attempts in a row without getting any further)")
        pause_s = patience.pause_s(failures, asked_s)
        level = logging.WARNING if heard else logging.DEBUG  # of a server that was never there one hears at the end
        at_byte = part.size if resume else 0
        _log.log(level, "%s: %s; asking again in %.0f s at byte %d", url, reason, pause_s, at_byte)
        patience.sleep(pause_s)


@dataclass
class _Attempt:
    """One request and its answer."""

    url: str
    part: Part
    patience: Patience
    has_room: Callable[[int], None]
    is_whole: Callable[[Path], bool]
    response: requests.Response | None = None

    def run(self, *, resume: bool) -> None:
        timeout_s = (self.patience.connect_s, self.patience.read_s)
        headers = self._headers(resume=resume)
        # A part that turns out to be complete is no error: there is only nothing to read.
        with (
            contextlib.suppress(_CompleteError),
            requests.get(self.url, headers=headers, timeout=timeout_s, stream=True) as self.response,
        ):
            self._judge(self.response)
            for chunk in self.response.iter_content(_CHUNK_BYTES):
                self.part.write(chunk)
        self.part.finish()
        self._require_everything()

    def _headers(self, *, resume: bool) -> dict[str, str]:
        # identity: a compressed answer would have other lengths and other ranges.
        headers = {"Accept-Encoding": "identity", "User-Agent": f"verse3d/{__version__}"}
        origin = self.part.origin
        if resume and self.part.size and origin is not None:
            headers["Range"] = f"bytes={self.part.size}-"
            if origin.condition:
                headers["If-Range"] = origin.condition
        return headers

    def _judge(self, response: requests.Response) -> None:
        """Decide what an answer means before any of its body is read."""
        continues = "Range" in response.request.headers
        length = response.headers.get("Content-Length", "")
        # "bytes 100-199/200" or "bytes */200": the length of the whole file stands behind the slash.
        ranged = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("Content-Range", "").strip())
        total = int(ranged[1]) if ranged else int(length) if length.isdigit() and response.status_code == 200 else None
        said = Origin(self.url, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""), total)
        # 416: nothing behind this byte; 206: the rest; 200: all of it, whatever was asked for.
        if response.status_code == 416 and continues:
            # There is nothing after the part: it is complete if it is as long as the server's unchanged file
            mine = self.part.origin
            if mine is not None and said.total == self.part.size and said.is_same(replace(mine, total=said.total)):
                self.part.origin = replace(mine, total=said.total)
                raise _CompleteError
            raise _StalePartError
        response.raise_for_status()
        if response.status_code == 206 and continues:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", "").strip())
            is_next = start is not None and int(start[1]) == self.part.size
            if self.part.origin is None or not said.is_same(self.part.origin) or not is_next:
                raise _StalePartError
            self.has_room((said.total or self.part.size) - self.part.size)
        elif response.status_code == 200:
            self.part.begin_anew(said)
            self.has_room(max(0, (said.total or 0) - self.part.size))
        else:
            raise TransferError(f"{self.url}: unexpected answer {response.status_code} {response.reason}")

    def _require_everything(self) -> None:
        origin = self.part.origin
        if self.part.waits_for_bytes or origin is None:
            raise TransferError(f"{self.url} sent an empty file")
        # Without a length the end of the answer proves nothing: it may have broken off.
        whole = self.is_whole(self.part.path) if origin.total is None else self.part.size >= origin.total
        if not whole:
            raise exceptions.ChunkedEncodingError


def _is_hopeless(error: exceptions.RequestException) -> bool:
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return error.response.status_code not in _WORTH_ASKING_AGAIN
    return isinstance(error, _HOPELESS)


def _reason(error: exceptions.RequestException) -> str:
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"it answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, exceptions.ConnectTimeout):
        return "it did not accept the connection in time"
    if isinstance(error, exceptions.Timeout) or "Read timed out" in str(error):
        return "it fell silent"
    if isinstance(error, exceptions.ChunkedEncodingError) or "IncompleteRead" in str(error):
        return "the transfer broke off"
    # requests wraps these twice and keeps only their text.
    if "Failed to resolve" in str(error) or "Network is unreachable" in str(error):
        return NO_NETWORK
    return f"there is no connection ({error})"
