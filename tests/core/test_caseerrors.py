"""What belongs to a case is told as its reason; what would meet every case ends the batch."""

import errno
import struct
import zlib

import pytest

from verse3d.core.caseerrors import CASE_ERRORS, keep_or_raise, reason_of
from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import output_error


def overflow_the_stack(depth=0):
    return overflow_the_stack(depth + 1)


def too_wide():
    return (10**400) / 3


RAISERS = {
    "RecursionError": overflow_the_stack,
    "OverflowError": too_wide,
    "UnicodeEncodeError": "\ud800".encode,
    "ValueError": lambda: open("a\0b"),  # noqa: SIM115, PTH123
    "KeyError": lambda: {}["x"],
    "error": lambda: struct.unpack("i", b""),
    "TypeError": lambda: int(None),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("name", RAISERS)
def test_what_strange_data_raise_belongs_to_their_case(name):
    with pytest.raises(CASE_ERRORS) as caught:
        RAISERS[name]()
    assert type(caught.value).__name__ == name
    assert reason_of(caught.value).startswith(f"{name}: ")
    keep_or_raise(caught.value)


@pytest.mark.parametrize("error", [NameError("x"), AssertionError("x"), AttributeError("x"), ImportError("x")])
def test_mistakes_of_the_program_belong_to_no_case(error):
    assert not isinstance(error, CASE_ERRORS)


def test_interrupting_belongs_to_no_case():
    assert not issubclass(KeyboardInterrupt, CASE_ERRORS) and not issubclass(SystemExit, CASE_ERRORS)


def test_reasons_are_short_and_in_words():
    assert reason_of(MemoryError()) == "not enough memory"
    assert reason_of(MemoryError("Unable to allocate 3 TiB")) == "not enough memory: Unable to allocate 3 TiB"
    assert reason_of(OSError(errno.EIO, "Input/output error", "a.nii")) == "Input/output error: a.nii"
    assert reason_of(DataError("bad", hint="do this")) == "bad\n  hint: do this"
    assert (
        reason_of(zlib.error("x" * 10**6)).startswith("error: xxx") and len(reason_of(ValueError("x" * 10**6))) <= 2000
    )


@pytest.mark.parametrize(("code", "stays"), [(errno.ENOSPC, False), (errno.EACCES, False), (errno.ENAMETOOLONG, True)])
def test_an_output_that_no_case_could_be_written_to_ends_the_batch(tmp_path, code, stays):
    with pytest.raises(OutputError) as caught:
        try:
            raise OSError(code, "no")
        except OSError as error:
            raise output_error(tmp_path / "x", error) from error
    if stays:
        keep_or_raise(caught.value)
    else:
        with pytest.raises(OutputError):
            keep_or_raise(caught.value)
