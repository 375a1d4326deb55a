"""What the platform does: the runs of a lake that are under way, those to come, and who failed last and why."""

import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from data.errors import ServerError
from data.lake.lake import Lake
from flows.server.client import AUTH, URL, asking, home_of, of_lake

RECENT = 200  # runs of a kind that are looked at, of all lakes that the server knows
UNDER_WAY = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED)


@dataclass(frozen=True)
class Ran:
    """A run that is under way, to come, or failed."""

    name: str
    deployment: str | None
    state: str
    at: datetime | None  # when it began, is to begin, or ended
    why: str | None = None
    since: datetime | None = None  # of a failed one: when the same came to a good end later


@dataclass
class Status:
    url: str
    running: list[Ran] = field(default_factory=list)
    scheduled: list[Ran] = field(default_factory=list)
    failed: list[Ran] = field(default_factory=list)


def status(lake: str) -> Status:
    """Of the server that is configured, else of the one that `imagen up` started for the lake."""
    opened = Lake.open(lake)
    noted = home_of(opened) / URL
    url = PREFECT_API_URL.value() or (noted.read_text() if noted.exists() else None)
    if url is None:
        raise ServerError(f"no platform was ever started for {lake}: imagen up --lake {lake}")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            pass
    except (urllib.error.URLError, OSError):
        raise ServerError(f"no server answers at {url}: imagen up --lake {lake}") from None
    with asking(url) as client:
        try:
            deployments = {one.id: one.name for one in client.read_deployments()}
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            raise ServerError(f"the server at {url} asks for a password: set {AUTH} to USER:PASSWORD") from None

        def ran(run: FlowRun, at: datetime | None, **more: Any) -> Ran:
            state = (run.state and run.state.name) or "unknown"
            return Ran(run.name, deployments.get(run.deployment_id), state, at, **more)

        def runs(order: FlowRunSort, *types: StateType) -> list[FlowRun]:
            return [run for run in _runs(client, order, *types) if of_lake(run, opened)]

        ended = runs(FlowRunSort.END_TIME_DESC, StateType.COMPLETED)
        failed = runs(FlowRunSort.END_TIME_DESC, StateType.FAILED, StateType.CRASHED)
        return Status(
            url.removesuffix("/api"),
            [ran(one, one.start_time) for one in runs(FlowRunSort.START_TIME_ASC, *UNDER_WAY)],
            [
                ran(one, one.expected_start_time)
                for one in _firsts(runs(FlowRunSort.EXPECTED_START_TIME_ASC, StateType.SCHEDULED))
            ],
            [
                ran(one, one.end_time, why=one.state.message if one.state else None, since=_since(one, ended))
                for one in _firsts(failed)
            ],
        )


def _runs(client: SyncPrefectClient, order: FlowRunSort, *types: StateType) -> list[FlowRun]:
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    return client.read_flow_runs(flow_run_filter=wanted, sort=order, limit=RECENT)


def _kind(run: FlowRun) -> Any:
    """Runs of one deployment are of a kind, or of one name where somebody ran them by hand."""
    return run.deployment_id or run.name


def _firsts(runs: list[FlowRun]) -> list[FlowRun]:
    """The first of each kind."""
    found: dict[Any, FlowRun] = {}
    for run in runs:
        found.setdefault(_kind(run), run)
    return list(found.values())


def _since(failed: FlowRun, ended: list[FlowRun]) -> datetime | None:
    same = (one.end_time for one in ended if _kind(one) == _kind(failed))
    return next((at for at in same if at and failed.end_time and at > failed.end_time), None)
