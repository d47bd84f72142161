"""YAML with the scalar rules of YAML 1.2: ``1e-4`` is a number, ``off`` is a word and ``1:30`` is a text, not 90.

An alias stands for all that its anchor holds, so nine lines can stand for a billion values. Values are therefore
counted as if every alias were written out:

    a: &a [x, x, x]      1 + 3        = 4
    b: &b [*a, *a]       1 + 4 + 4    = 9
    c: [*b, *b]          1 + 9 + 9    = 19
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from verse3d.core.errors import ConfigError
from verse3d.core.wording import brief, clipped

MAX_CHARACTERS = 2**17
"""PyYAML takes about a second for so many; a complete config has 2,000."""
MAX_DEPTH = 20
MAX_VALUES = 10_000
_LONGEST_MESSAGE = 600
_LONGEST_NUMBER = 40


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, bounded, without tags and without silent duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values_of: dict[int, int] = {}  # by the identity of a finished node: what it holds, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if tag := getattr(event, "tag", None):
            raise _refusal(f"the tag {clipped(tag)} is not allowed", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"it nests more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._values_of:  # what it stands for is not finished
                raise _refusal("an alias stands for something that holds it", event)
        elif node is not None:
            self._count(node, event)
        return node

    def _count(self, node: yaml.Node, event: yaml.Event) -> None:
        # The items of a list; the keys and values of a mapping; nothing of a word
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        count = 1 + sum(self._values_of[id(child)] for child in children)
        self._values_of[id(node)] = count
        if count > MAX_VALUES:
            raise _refusal(f"it stands for more than {MAX_VALUES} values", event)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{brief(key)} is no key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{brief(key)} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refusal(words: str, event: Any) -> yaml.composer.ComposerError:  # noqa: ANN401 - its mark has two types
    return yaml.composer.ComposerError(None, None, words, event.start_mark)


def _scalar(loader: Any, node: yaml.Node) -> str:  # noqa: ANN401 - any of PyYAML's loaders
    assert isinstance(node, yaml.ScalarNode)  # the resolvers below match scalars only
    return str(loader.construct_scalar(node))


def _whole(digits: str, node: yaml.Node) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise yaml.constructor.ConstructorError(
            None, None, f"the number {clipped(digits, _LONGEST_NUMBER)} is too large", node.start_mark
        )
    return int(digits)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _whole(_scalar(loader, node), node))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(_scalar(loader, node)))


def parse_yaml(text: str, source: str) -> Any:  # noqa: ANN401 - whatever YAML can hold
    """The value of a YAML text: mappings, lists, numbers, words, true, false and null.

    Raises:
        ConfigError: it is not valid YAML, holds a tag, gives a key twice, or is too long, too deep or (aliases written
            out) too much; ``source`` says where it came from.

    Example:
        >>> parse_yaml("{lr: 1e-4, amp: off, ratio: 1:30}", "here")
        {'lr': 0.0001, 'amp': 'off', 'ratio': '1:30'}
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{source} is too long: {len(text)} characters, at most {MAX_CHARACTERS} are read")
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter two: a huge number, deep brackets
        raise ConfigError(f"{source} is not valid YAML: {clipped(str(error), _LONGEST_MESSAGE)}") from error
