"""YAML files that a person wrote, read with one sentence for what is wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.errors import UserError


def read_mapping(path: Path, what: str, needs: str) -> dict[str, Any]:
    """What a file says.

    Args:
        path: Path of the file.
        what: Is in it.
        needs: What to write into one that says nothing.

    Raises:
        UserError: It cannot be read, is no YAML, no mapping, or says something twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text())
        node = loader.get_single_node()
        said = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} {path} is not text: give a YAML file") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"the {what} {path} is not YAML ({where}): mend it, without tabs and odd signs") from error
    if said is None:
        raise UserError(f"the {what} {path} is empty: {needs}")
    if not isinstance(said, dict):
        raise UserError(f"the {what} {path} holds no mapping: {needs}")
    for key, line in _twice(node):
        raise UserError(f"the {what} {path} says {key} twice, again in line {line}: leave one")
    return said


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has more than once, of which YAML takes the last without a word; and their lines."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)
    if not isinstance(node, yaml.MappingNode):
        return
    known: set[str] = set()
    for key, value in node.value:
        if key.value in known:
            yield str(key.value), key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            known.add(key.value)
        yield from _twice(value)
