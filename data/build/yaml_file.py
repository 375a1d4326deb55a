"""Reads YAML that a person wrote. Each error message is one sentence with file, line and field."""

from typing import Any

import yaml
from pydantic import ValidationError

from data.errors import ImagenError


def parse_yaml(
    text: str, name: str, expected: str, error_class: type[ImagenError]
) -> tuple[dict[str, Any], yaml.Node | None]:
    """Parse a YAML mapping.

    Args:
        text: the YAML.
        name: the name of the file, for error messages.
        expected: a description for error messages, such as "recipe: it must be a mapping with ...".
        error_class: the error to raise.

    Returns:
        The values, and the YAML nodes, which `first_error_message` needs to find lines.

    Raises:
        ImagenError: the text is not YAML or not a mapping. The error has the class `error_class`.
    """
    try:
        values, nodes = yaml.safe_load(text), yaml.compose(text)
    except yaml.YAMLError as error:
        raise error_class(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise error_class(f"{name} is not a valid {expected}")
    return values, nodes


def first_error_message(
    error: ValidationError, name: str, nodes: yaml.Node | None, hidden: tuple[str, ...] = ()
) -> str:
    """Return the first validation error as one sentence.

    Args:
        error: the error from pydantic.
        name: the name of the file.
        nodes: the YAML nodes of the file, from `parse_yaml`.
        hidden: fields of the model that don't occur in the YAML. They are left out of the field's path.

    Example:
        The sentence has this form: `mine.yaml, line 4: download.timeout: Input should be a valid number`
    """
    first = error.errors()[0]
    path = tuple(part for part in first["loc"] if part not in hidden)
    field = ".".join(map(str, path)) or "all of it"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "there is no such field"
    return f"{name}, line {_line_of(nodes, path)}: {field}: {message}"


def _line_of(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """Return the line, counted from 1, of the innermost part of a path that the YAML contains."""
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            entries = {key.value: (key, value) for key, value in reversed(node.value)}  # the first of equal keys
            if str(part) not in entries:
                break
            key, node = entries[str(part)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
