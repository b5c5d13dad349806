"""YAML 1.2 as data, within limits: what run files, train files and ``--set`` are read with.

ruamel.yaml reads and writes it. No tag makes an object, and dates stay text.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from ..errors import DescantError, quoted

SIZE, NODES, DEPTH = 2**22, 50_000, 50  # characters, values once aliases are followed, nesting


class YamlError(DescantError, ValueError):
    """Text that is not YAML, or above a limit; the message follows the name of the file."""


class _Composer(Composer):
    """Counts values and nesting while they are read: the rest of a long file stays unread."""

    nodes = depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        if self.nodes > NODES:
            raise YamlError(f"holds more than {NODES} values")
        if self.depth > DEPTH:
            mark = self.parser.peek_event().start_mark
            raise YamlError(f"is more than {DEPTH} deep at {_position(mark)}")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Constructor(SafeConstructor):
    """Plain data alone; the limits are checked before any of it is built."""

    def get_single_data(self) -> Any:
        node = self.composer.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return self.construct_document(node)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (YamlError, YAMLError):
            raise
        except Exception as error:  # of a scalar that its tag does not fit: !!bool maybe, !!int ''
            kind = str(node.tag).rpartition(":")[2]
            reason = f" ({error})" if isinstance(error, ValueError) else ""
            problem = f"{_position(node.start_mark)}: {quoted(node.value)} is no {kind}{reason}"
            raise YamlError(f"is not YAML: {problem}") from None


for _tag in ("timestamp", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_yaml_str)
for _tag in ("binary", "omap", "pairs", "set"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_undefined)


class _Representer(SafeRepresenter):
    """Plain data; a text with U+0085, which a plain scalar would lose, is in double quotes."""

    def represent_text(self, text: str) -> Any:
        style = '"' if "\x85" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Representer.add_representer(str, _Representer.represent_text)


_OPEN = (0, 0)  # of a node whose parts are being counted


def _count(node: Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node has, and how deep it is; an alias counts as often as it is used."""
    if id(node) in known:
        if known[id(node)] is _OPEN:
            raise YamlError(f"holds itself at {_position(node.start_mark)}")
        return known[id(node)]
    known[id(node)] = _OPEN
    inner: list[Node] = node.value if isinstance(node, SequenceNode) else []
    if isinstance(node, MappingNode):
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                where = _position(key.start_mark)
                raise YamlError(f"has a key that is a list or a mapping at {where}: write a name")
        inner = [part for pair in node.value for part in pair]
    sizes = [_count(part, known) for part in inner]
    count = 1 + sum(values for values, _ in sizes)
    depth = 1 + max((below for _, below in sizes), default=0)
    if count > NODES:
        raise YamlError(f"holds more than {NODES} values, counted as often as aliases repeat them")
    if depth > DEPTH + 1:
        raise YamlError(f"is more than {DEPTH} deep at {_position(node.start_mark)}")
    known[id(node)] = count, depth
    return count, depth


def load_yaml(text: str) -> Any:
    """The content of a YAML document.

    Raises:
        YamlError: not YAML, a key that is there twice, or above a limit.

    >>> load_yaml("{adapter: org/arm, on: base, weight: 1e-3, name: 1:30}")
    {'adapter': 'org/arm', 'on': 'base', 'weight': 0.001, 'name': '1:30'}
    """
    if len(text) > SIZE:
        raise YamlError(f"has {len(text)} characters, and may have {SIZE}")
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _Composer, _Constructor
    try:
        return yaml.load(text)
    except YamlError:
        raise
    except MarkedYAMLError as error:
        where = f"{_position(error.problem_mark)}: " if error.problem_mark else ""
        raise YamlError(f"is not YAML: {where}{error.problem or error.context}") from None
    except (YAMLError, ValueError) as error:
        raise YamlError(f"is not YAML: {' '.join(str(error).split())}") from None


def dump_yaml(content: Any) -> str:
    """Data as YAML, keys in their order.

    >>> print(dump_yaml({"b": [1, 0.5], "a": {"on": "yes"}}), end="")
    b:
    - 1
    - 0.5
    a:
      on: yes
    """
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
