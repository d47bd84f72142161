"""Loops over many short operations of PyTorch, in which threads do not wait for Python's lock.

After each operation a thread of Python asks for the lock that the others have. Where operations take some 50 µs, two
threads get no more done than one. As TorchScript a whole loop is one call, which lets go of the lock.
"""

import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])
_compiling = threading.Lock()


def scripted(function: _Function, device: torch.device) -> _Function:
    """The function as TorchScript, compiled when it is first asked for; itself where PyTorch cannot do that.

    On a GPU it is itself, too: one thread gives the work away there, and TorchScript would make kernels of its own,
    anew for one shape after another.

    Args:
        function: of tensors, lists and numbers, by position, with annotations that TorchScript knows. What it calls is
            compiled, too.
        device: of the tensors.
    """
    if device.type != "cpu":
        return function
    with _compiling:  # threads ask at once; each would compile it, and they would mix up which warnings are shown
        compiled: _Function = _compiled(function)
    return compiled


@cache
def _compiled(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - TorchScript has no types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; what replaces it needs a compiler for C++ on the user's machine
        try:
            return torch.jit.script(function)
        except Exception:  # a PyTorch that has done away with it: as Python it is the same function, and slower
            return function
