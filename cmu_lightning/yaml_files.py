"""YAML files, whose size and depth are bounded before their content is built."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.errors import UserError

MAX_DEPTH = 64
"""Nested brackets and indentations that a YAML text may have; configs have 10."""

MAX_NODES = 100_000
"""Values that a YAML text may have after its aliases are expanded; configs have some hundred."""


class TooLargeYAML(yaml.YAMLError):
    """A YAML text that expands to a content too deep or too large to read."""


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Args:
        text: At most one document.

    Raises:
        yaml.YAMLError: The text is not YAML, or too deep or too large.
    """
    return _construct(_compose(text))


def check_yaml(text: str) -> None:
    """Raise unless a YAML text can be read in reasonable time and memory; other mistakes in it are not reported.

    Args:
        text: Text that another reader reads afterwards.

    Raises:
        TooLargeYAML: It is too deep or too large.
    """
    if "*" in text or len(text) > MAX_DEPTH:  # most texts are a number or a word
        with suppress(yaml.reader.ReaderError, yaml.MarkedYAMLError):
            _compose(text)


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What PyYAML raises for a tag that does not fit its value, such as `!!bool maybe`, and for a day that is none."""


def _construct(node: yaml.Node | None) -> Any:
    """Return the value of a node; None for an empty text."""
    try:
        # A loader constructs any node, whatever its own text is.
        return None if node is None else yaml.SafeLoader("").construct_document(node)
    except UNREADABLE as error:
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error


def _compose(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text, in which each alias is the node that it means; raise if they are too many.

    libyaml, if available, reads ten times as fast as PyYAML's own parser.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Nodes are composed by recursion, so the depth is bounded first, by what the parser reads one after the other.
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise TooLargeYAML(f"has more than {MAX_DEPTH} brackets or indentations within each other")
    node: yaml.Node | None = yaml.compose(text, Loader=loader)
    _check_nodes(node)
    return node


def _check_nodes(node: yaml.Node | None) -> None:
    """Refuse aliases that expand a text endlessly, or make it deeper or larger than any config."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Return the number of values in a node and their depth, with every alias expanded."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        if id(node) not in measured:
            measured[id(node)] = MAX_NODES, MAX_DEPTH  # met again inside itself, it has no end
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes, depths = zip((1, 0), *map(measure, parts), strict=True)
            measured[id(node)] = sum(sizes), 1 + max(depths)
        return measured[id(node)]

    size, depth = (0, 0) if node is None else measure(node)
    if size > MAX_NODES or depth > MAX_DEPTH:
        raise TooLargeYAML(f"has aliases that stand for more than {MAX_NODES:,} values, or for themselves")


def read_mapping(path: Path, description: str, hint: str) -> dict[str, Any]:
    """Return the content of a YAML file that holds one mapping.

    Args:
        path: Path of the file.
        description: Kind of file, as error messages name it.
        hint: What to write into a file that holds no mapping.

    Raises:
        UserError: The file cannot be read, is not YAML, is no mapping, or has a key twice.
    """
    try:
        node = _compose(path.read_text())
        repeated = next(_repeated_keys(node), None)  # before the keys that `<<` merges in are among them
        content = _construct(node)
    except OSError as error:
        raise UserError(f"the {description} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {description} {path} is not text: give a YAML file") from error
    except TooLargeYAML as error:
        raise UserError(f"the {description} {path} {error}: write fewer, or none") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(
            f"the {description} {path} is not YAML ({problem}): correct that place, without tabs or special characters"
        ) from error
    if content is None:
        raise UserError(f"the {description} {path} is empty: {hint}")
    if not isinstance(content, dict):
        raise UserError(f"the {description} {path} holds no mapping: {hint}")
    if repeated is not None:
        key, line = repeated
        raise UserError(f"the {description} {path} says {key} twice, again in line {line}: leave one")
    return content


def _repeated_keys(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Yield each repeated key of any mapping with its line; YAML itself takes the last value silently."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    known: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in known:
                yield str(key.value), key.start_mark.line + 1
            known.add(key.value)
        yield from _repeated_keys(value)
