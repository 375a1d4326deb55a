"""What the artifacts of all runs have in common: keys, patience, and how a picture is put into one."""

import base64
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.patience import patiently


def show_table(key: str, table: Sequence[dict[str, Any]], description: str) -> None:
    patiently(lambda: create_table_artifact(key=key, table=list(table), description=description))


def show_markdown(text: str, key: str) -> None:
    patiently(lambda: create_markdown_artifact(text, key=key))


def begin_progress(key: str, description: str) -> UUID:
    made: UUID = patiently(lambda: create_progress_artifact(0.0, key=key, description=description))
    return made


def show_progress(artifact: UUID, percent: float) -> None:
    patiently(lambda: update_progress_artifact(artifact, percent))


def key_of(*words: str) -> str:
    return "-".join(words).replace("_", "-").replace("/", "-")


def picture(words: str, png: bytes) -> str:
    """Markdown that holds the picture."""
    return f"![{words}](data:image/png;base64,{base64.b64encode(png).decode()})"
