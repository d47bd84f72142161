"""A SHA-256 over nested plain values and tensors that does not depend on how a file stores them.

Every value is hashed with its place and its type, mappings in the order of their keys:

    network/conv.weight   tensor float32 (8, 1, 3, 3, 3) <sha-256 of its bytes, little-endian, last axis fastest>
    epoch                 int 7
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

_Place = tuple[str | int, ...]
_DEEPEST = 32
_MOST_VALUES = 1_000_000
_LONGEST_TEXT = 2**20
_LARGEST_INTEGER = 2**64
_in_one_line = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each value
_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip


def content_sha256(content: Mapping[str, Any]) -> str:
    """The hexadecimal SHA-256 of a mapping of None, booleans, numbers, texts, tensors, and lists and mappings of them.

    Raises:
        ValueError: something else is in it, it is nested deeper than 32 levels, holds more than a million values, or
            a tensor is not a plain one (see ``require_plain_tensor``). The place is named.
    """
    _require_bounded(content)
    digest = hashlib.sha256()
    tensors = _TensorHashes()
    for place, value in _values(content):
        line = _in_one_line([place, *_described(value, tensors, ".".join(map(str, place)))])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def require_plain_tensor(tensor: torch.Tensor, place: str) -> None:
    """Check that a tensor is real numbers in memory of its own, so that its size is what the file really holds.

    A view can have 10^12 elements in a storage of one (strides of 0), which a copy or a hash would then make room for.

    Raises:
        ValueError: it is complex, quantised or sparse, or does not lie densely in the whole of its storage.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in _DTYPES:
        raise ValueError(f"{place} is a tensor of {tensor.dtype}, {tensor.layout}; expected plain real numbers")
    held = tensor.untyped_storage().nbytes()
    needed = tensor.numel() * tensor.element_size()
    if not tensor.is_contiguous() or tensor.storage_offset() or held != needed:
        raise ValueError(
            f"{place} is a view of shape {list(tensor.shape)} into {held} bytes; expected memory of its own"
        )


def as_plain(value: Any) -> Any:  # noqa: ANN401 - plain data of any kind
    """The same values with mappings as dicts, and tensors on the CPU as dense as ``require_plain_tensor`` wants them.

    State dicts are mappings with hidden attributes, and a parameter can be a view: neither is put into a file. Tensors
    that share all their memory go on sharing it, so that a file holds them once.
    """
    return _Plain().of(value)


@dataclass
class _Plain:
    """Plain copies of values; a tensor that comes again is not copied again."""

    dense: dict[tuple[Any, ...], torch.Tensor] = field(default_factory=dict)

    def of(self, value: Any) -> Any:  # noqa: ANN401 - plain data of any kind
        if isinstance(value, Mapping):
            return {key: self.of(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.of(one) for one in value]
        if isinstance(value, tuple):
            return tuple(self.of(one) for one in value)
        return self._tensor(value) if isinstance(value, torch.Tensor) else value

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if key not in self.dense:
            dense = tensor.detach().cpu().contiguous()
            whole = dense.untyped_storage().nbytes() == dense.numel() * dense.element_size()
            self.dense[key] = dense if whole else dense.clone()
        return self.dense[key]


def _require_bounded(content: Mapping[str, Any]) -> None:
    """Lists in a file can hold one another many times over, or themselves: count before every value is looked at."""
    waiting: list[tuple[Any, int]] = [(content, 1)]
    values = 0
    while waiting:
        container, depth = waiting.pop()
        values += len(container)
        if depth > _DEEPEST or values > _MOST_VALUES:
            raise ValueError(f"its content has more than {_DEEPEST} levels or {_MOST_VALUES} values")
        inside = container.values() if isinstance(container, Mapping) else container
        waiting += [(one, depth + 1) for one in inside if isinstance(one, Mapping | list | tuple)]


def _values(content: Mapping[str, Any]) -> Iterator[tuple[_Place, Any]]:
    """Every value with its place, mappings and lists before what they hold; in the same order for the same content."""
    waiting: list[tuple[_Place, Any]] = [((), content)]
    while waiting:
        place, value = waiting.pop()
        yield place, value
        inside: Sequence[tuple[str | int, Any]] = ()
        if isinstance(value, Mapping):
            if strange := [key for key in value if type(key) not in (str, int)]:
                raise ValueError(f"a key is {type(strange[0]).__name__}; expected text or a whole number")
            inside = sorted(value.items(), key=lambda item: (type(item[0]).__name__, item[0]))
        elif isinstance(value, list | tuple):
            inside = list(enumerate(value))
        # The last one in is the first one out.
        waiting += [((*place, key), one) for key, one in reversed(inside)]


@dataclass
class _TensorHashes:
    """The hash of each piece of memory, found once however many names it has."""

    known: dict[tuple[int, int], str] = field(default_factory=dict)

    def of(self, tensor: torch.Tensor) -> str:
        key = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        if key not in self.known:
            values = tensor.detach().reshape(-1).view(torch.uint8).numpy()
            if sys.byteorder == "big":
                values = values.reshape(-1, tensor.element_size())[:, ::-1].copy()
            self.known[key] = hashlib.sha256(values.data).hexdigest()
        return self.known[key]


def _described(value: Any, tensors: _TensorHashes, place: str) -> tuple[Any, ...]:  # noqa: ANN401
    """What is hashed of a value: its type, and enough to tell it from any other; of containers their length."""
    if isinstance(value, torch.Tensor):
        require_plain_tensor(value, place)
        return "tensor", str(value.dtype), list(value.shape), tensors.of(value)
    if isinstance(value, Mapping | list | tuple):
        return "mapping" if isinstance(value, Mapping) else type(value).__name__, len(value)
    if value is None or type(value) is bool or (type(value) is int and abs(value) <= _LARGEST_INTEGER):
        return type(value).__name__, value
    if type(value) is float:
        return "float", "nan" if math.isnan(value) else value.hex()
    if type(value) is str and len(value) <= _LONGEST_TEXT:
        return "str", value
    raise ValueError(f"{place} is {type(value).__name__}; expected a number, a text of bounded length or a tensor")
