"""Artifacts of flow runs: tables, Markdown, progress, and pictures inside Markdown.

Every call waits for a server that is restarting (`retry.py`).
"""

import base64
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.actions import ArtifactUpdate

from flows.server.retry import patiently


def show_table(key: str, table: Sequence[dict[str, Any]], description: str) -> None:
    """Create a table artifact in the current run."""
    patiently(lambda: create_table_artifact(key=key, table=list(table), description=description))


def show_markdown(text: str, key: str) -> UUID:
    """Create a Markdown artifact in the current run; returns its id."""
    artifact: UUID = patiently(lambda: create_markdown_artifact(text, key=key))
    return artifact


def show_instead(artifact: UUID, text: str) -> None:
    """Replace the text of a Markdown artifact."""

    def write() -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(artifact, ArtifactUpdate(data=text))

    patiently(write)


def begin_progress(key: str, description: str) -> UUID:
    """Create a progress artifact at 0 %; returns its id."""
    artifact: UUID = patiently(lambda: create_progress_artifact(0.0, key=key, description=description))
    return artifact


def show_progress(artifact: UUID, percent: float) -> None:
    """Update a progress artifact."""
    patiently(lambda: update_progress_artifact(artifact, percent))


def key_of(*words: str) -> str:
    """Make an artifact key from words: lower case, digits and dashes, as Prefect requires."""
    return re.sub(r"[^a-z0-9-]", "-", "-".join(words).lower())


def picture(title: str, content: bytes, kind: str = "png") -> str:
    """Return Markdown that contains the picture as a data URI.

    Prefect removes SVG from artifacts unless it is embedded as an image.
    """
    return f"![{title}](data:image/{kind};base64,{base64.b64encode(content).decode()})"
