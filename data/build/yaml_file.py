"""Values that a person wrote as YAML, and what is wrong with them: the file, the line, the field, one sentence."""

from typing import Any

import yaml
from pydantic import ValidationError

from data.errors import ImagenError


def read_values(
    text: str, name: str, must_be: str, wrong: type[ImagenError]
) -> tuple[dict[str, Any], yaml.Node | None]:
    """A mapping, and the nodes that know their lines."""
    try:
        values, nodes = yaml.safe_load(text), yaml.compose(text)
    except yaml.YAMLError as error:
        raise wrong(f"{name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise wrong(f"{name} is no {must_be}")
    return values, nodes


def first_wrong(error: ValidationError, name: str, nodes: yaml.Node | None, inside: tuple[str, ...] = ()) -> str:
    """The first thing that is wrong. Parts of a place named in `inside` are the model's own and were never written."""
    first = error.errors()[0]
    where = tuple(part for part in first["loc"] if part not in inside)
    place = ".".join(map(str, where)) or "all of it"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "there is no such field"
    return f"{name}, line {_line_of(nodes, where)}: {place}: {message}"


def _line_of(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """The line, from 1, of the innermost part of a place that the text really has."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
