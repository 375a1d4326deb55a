"""What the artifacts of all runs have in common: keys, patience, and how a picture is put into one."""

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
    patiently(lambda: create_table_artifact(key=key, table=list(table), description=description))


def show_markdown(text: str, key: str) -> UUID:
    made: UUID = patiently(lambda: create_markdown_artifact(text, key=key))
    return made


def show_instead(artifact: UUID, text: str) -> None:
    """In the place of what was shown before."""

    def write() -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(artifact, ArtifactUpdate(data=text))

    patiently(write)


def begin_progress(key: str, description: str) -> UUID:
    made: UUID = patiently(lambda: create_progress_artifact(0.0, key=key, description=description))
    return made


def show_progress(artifact: UUID, percent: float) -> None:
    patiently(lambda: update_progress_artifact(artifact, percent))


def key_of(*words: str) -> str:
    """With what Prefect lets a key have."""
    return re.sub(r"[^a-z0-9-]", "-", "-".join(words).lower())


def picture(words: str, content: bytes, kind: str = "png") -> str:
    """Markdown that holds the picture."""
    return f"![{words}](data:image/{kind};base64,{base64.b64encode(content).decode()})"
