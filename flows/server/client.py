"""A lake's platform as others find and ask it: where its server is noted, and the password that it wants."""

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

FOLDER = "platform"  # under the lake, where the server keeps its runs
URL = "url"  # file in it: of the API
AUTH = "PREFECT_SERVER_API_AUTH_STRING"  # USER:PASSWORD, in the environment alone


def home_of(lake: Lake) -> Path:
    """Beside the tables of a lake on a disk; for one on a store, in the user's folder."""
    if storage.is_local(lake.url):
        return Path(lake.url).absolute() / FOLDER
    return Path.home() / ".imagen" / hashlib.sha256(lake.url.encode()).hexdigest()[:12]


def of_lake(run: "FlowRun", lake: Lake) -> bool:
    """Whether a run's parameters name this lake, by whatever path."""
    named = run.parameters.get("lake", "lake")
    if storage.is_local(named) and storage.is_local(lake.url):
        return Path(named).absolute() == Path(lake.url).absolute()
    return bool(named == lake.url)


@contextmanager
def asking(url: str) -> "Iterator[SyncPrefectClient]":
    """A client of the server at this address, which says the password that the environment has for one."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    settings = {PREFECT_API_URL: url}
    if AUTH in os.environ:
        settings[PREFECT_API_AUTH_STRING] = os.environ[AUTH]
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client
