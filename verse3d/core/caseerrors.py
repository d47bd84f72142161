"""What a case can raise stays with the case: one list of such errors for every command that works on many.

    for case in cases:
        try:
            ...                                  # read, prepare, segment, score, draw, write
        except CASE_ERRORS as error:
            keep_or_raise(error)                 # only where a full disk must end the batch
            failures.append((case.case, reason_of(error)))

What is not in the list is a mistake of the program itself (a name that is not there, an assertion) and ends it.
"""

import errno
import struct
import zlib

from verse3d.core.errors import OutputError, Verse3dError
from verse3d.core.wording import clipped

CASE_ERRORS: tuple[type[Exception], ...] = (
    Verse3dError,
    ArithmeticError,  # absurd spacings and shapes overflow
    EOFError,
    LookupError,
    MemoryError,
    OSError,  # names that are too long, folders that may not be read, disks that fail
    RuntimeError,  # PyTorch, MONAI; RecursionError is one
    TypeError,  # NumPy and nibabel about headers that make no sense
    ValueError,  # NUL or a lone surrogate in a path; UnicodeError is one
    struct.error,
    zlib.error,
)
"""What a scan, a mask, their names and their headers make the libraries below us raise."""

_NAMES_FAULT = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
_LONGEST_REASON = 2000


def reason_of(error: BaseException) -> str:
    """Why a case failed, for its record: our own words as they are, others with the kind of error before them."""
    if isinstance(error, Verse3dError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}".removesuffix(": ")
    if isinstance(error, OSError) and error.strerror:
        return clipped(f"{error.strerror}: {error.filename}" if error.filename else error.strerror, _LONGEST_REASON)
    return clipped(f"{type(error).__name__}: {error}".removesuffix(": "), _LONGEST_REASON)


def keep_or_raise(error: Exception) -> None:
    """Raise an error again that all the other cases would meet, too: the output cannot be written.

    Where only the name of this one file is at fault (too long, not of that file system), it is the case's own.
    """
    # The errno is the system's own word; ours only repeats it.
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(error, OutputError) and getattr(cause, "errno", None) not in _NAMES_FAULT:
        raise error
