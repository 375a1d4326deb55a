"""`imagen status`: the running, scheduled and last failed runs of a lake, with the reasons of failures."""

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

RECENT = 200  # runs read per state, over all lakes of the server
UNDER_WAY = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED)


@dataclass(frozen=True)
class RunSummary:
    """A run that runs now, is scheduled, or failed."""

    name: str
    deployment: str | None
    state: str
    at: datetime | None  # its start, its scheduled start, or its end
    why: str | None = None
    since: datetime | None = None  # for a failed run: when a later run of the same deployment completed


@dataclass
class Status:
    """The runs of a lake on a server: running and scheduled ones sorted by time, failed ones newest first."""

    url: str
    running: list[RunSummary] = field(default_factory=list)
    scheduled: list[RunSummary] = field(default_factory=list)
    failed: list[RunSummary] = field(default_factory=list)


def status(lake: str) -> Status:
    """Read the runs of a lake from the server at PREFECT_API_URL, or else from the server that `imagen up` started.

    Raises:
        ServerError: there is no such server, it does not answer, or it requires a password.
    """
    opened = Lake.open(lake)
    url_file = home_of(opened) / URL
    url = PREFECT_API_URL.value() or (url_file.read_text() if url_file.exists() else None)
    if url is None:
        raise ServerError(f"no platform was ever started for {lake}. Start it: imagen up --lake {lake}")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            pass
    except (urllib.error.URLError, OSError):
        raise ServerError(f"no server answers at {url}. Start it: imagen up --lake {lake}") from None
    with asking(url) as client:
        try:
            deployments = {deployment.id: deployment.name for deployment in client.read_deployments()}
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            raise ServerError(f"the server at {url} requires a password: set {AUTH} to USER:PASSWORD") from None

        def summarize(run: FlowRun, at: datetime | None, **more: Any) -> RunSummary:
            state = (run.state and run.state.name) or "unknown"
            return RunSummary(run.name, deployments.get(run.deployment_id), state, at, **more)

        def runs(order: FlowRunSort, *types: StateType) -> list[FlowRun]:
            return [run for run in _runs(client, order, *types) if of_lake(run, opened)]

        running = runs(FlowRunSort.START_TIME_ASC, *UNDER_WAY)
        scheduled = runs(FlowRunSort.EXPECTED_START_TIME_ASC, StateType.SCHEDULED)
        completed = runs(FlowRunSort.END_TIME_DESC, StateType.COMPLETED)
        failed = runs(FlowRunSort.END_TIME_DESC, StateType.FAILED, StateType.CRASHED)
        failures = []
        for run in _first_of_each(failed):
            why = run.state.message if run.state else None
            failures.append(summarize(run, run.end_time, why=why, since=_completed_after(run, completed)))
        return Status(
            url.removesuffix("/api"),
            [summarize(run, run.start_time) for run in running],
            [summarize(run, run.expected_start_time) for run in _first_of_each(scheduled)],
            failures,
        )


def _runs(client: SyncPrefectClient, order: FlowRunSort, *types: StateType) -> list[FlowRun]:
    matching = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    return client.read_flow_runs(flow_run_filter=matching, sort=order, limit=RECENT)


def _kind(run: FlowRun) -> Any:
    """Return a key that is equal for runs of the same work: the deployment, or the run's name if it has none."""
    return run.deployment_id or run.name


def _first_of_each(runs: list[FlowRun]) -> list[FlowRun]:
    """Return the first run of each kind."""
    firsts: dict[Any, FlowRun] = {}
    for run in runs:
        firsts.setdefault(_kind(run), run)
    return list(firsts.values())


def _completed_after(failed: FlowRun, completed: list[FlowRun]) -> datetime | None:
    """Return when the newest run of the same kind completed, or None if that was before the failure."""
    for run in completed:
        if _kind(run) == _kind(failed) and run.end_time and failed.end_time and run.end_time > failed.end_time:
            return run.end_time
    return None
