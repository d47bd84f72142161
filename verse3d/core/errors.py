"""The errors that users can meet. Each names the thing, what it got, what it wanted and what to do next.

Messages and hints speak to callers of the Python functions, in backticks: an option is `` `max_ram_gb` `` or
`` `max_ram_gb=8` ``, a setting `` `optim.lr=3e-4` ``, another job
`` `verse3d.index(DATA, folds=5)` ``. The command line shows all of them as one types them there.
"""

import copy
from typing import ClassVar


class Verse3dError(Exception):
    """Base of every error that verse3d raises on purpose.

    Args:
        message: what is wrong, where, and what was expected.
        hint: what the user can do about it, one sentence.
        option: the option that is wrong, or that would help, by the name of the argument; "" if it is none of them.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", option: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.option = option

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def without_frames(error: BaseException) -> BaseException:
    """An error as a copy that does not hold the frames it came through, and so not what these worked on.

    Only one that was raised on purpose: of others the frames say what went wrong, and they stay what they are.
    """
    return copy.copy(error) if isinstance(error, Verse3dError) else error


class ConfigError(Verse3dError, ValueError):
    """A setting is unknown, of the wrong type, or contradicts another one."""

    exit_code = 2


class DataError(Verse3dError, ValueError):
    """A scan, a mask, an index or a folder is not what it should be."""

    exit_code = 3


class GeometryError(DataError):
    """An affine or a shape makes no sense, or two of them do not fit together."""


class MemoryLimitError(DataError):
    """A scan needs more memory than there is, or than the user allows. Nothing was started."""


class NotFiniteError(DataError):
    """A network answered with NaN or infinity about a scan. No mask is made of it."""


class OutputError(DataError, OSError):
    """Something could not be written. Nothing is left under the final name."""

    def __str__(self) -> str:  # OSError brings a __str__ of its own
        return Verse3dError.__str__(self)


class CheckpointError(Verse3dError, RuntimeError):
    """A model file is damaged, unsafe, from another version or for another job."""

    exit_code = 4


class TrainingError(Verse3dError, RuntimeError):
    """Training cannot go on, for example because the loss is not a number."""
