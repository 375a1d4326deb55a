"""Find and call the Prefect server of a lake's platform: its folder, its URL, its password."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data.lake import storage
from data.lake.lake import Lake

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

FOLDER = "platform"  # under the lake: the server's database and files
URL = "url"  # the file in it with the URL of the API
AUTH = "PREFECT_SERVER_API_AUTH_STRING"  # USER:PASSWORD; never stored, only in the environment


def home_of(lake: Lake) -> Path:
    """Return the folder of a lake's platform: in the lake if the lake is on a disk, else under the user's home."""
    if storage.is_local(lake.url):
        return Path(lake.url).absolute() / FOLDER
    return Path.home() / ".imagen" / hashlib.sha256(lake.url.encode()).hexdigest()[:12]


def of_lake(run: "FlowRun", lake: Lake) -> bool:
    """Return whether a run's parameters name this lake, by an absolute or a relative path."""
    url = run.parameters.get("lake", "lake")
    if storage.is_local(url) and storage.is_local(lake.url):
        return Path(url).absolute() == Path(lake.url).absolute()
    return bool(url == lake.url)


@contextmanager
def asking(url: str) -> "Iterator[SyncPrefectClient]":
    """Open a client of the server at this URL, with the password of the environment if there is one."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    settings = {PREFECT_API_URL: url}
    if AUTH in os.environ:
        settings[PREFECT_API_AUTH_STRING] = os.environ[AUTH]
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client
