"""What was missed while no worker was there is one run, not ten: the first to start stands for all that were due."""

from datetime import UTC, datetime

from prefect import get_client, runtime
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled

SUPERSEDED = "Superseded"


def supersede() -> int:
    """End the runs of this run's deployment that were due by now with the same parameters, and wait. How many."""
    if runtime.deployment.id is None:
        return 0
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(runtime.flow_run.id)
        due = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(not_any_=[own.id]),
                deployment_id=FlowRunFilterDeploymentId(any_=[own.deployment_id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
            )
        )
        same = [one for one in due if one.parameters == own.parameters]
        for one in same:
            state = Cancelled(name=SUPERSEDED, message=f"{own.name} of {own.expected_start_time} does its work")
            client.set_flow_run_state(one.id, state, force=True)
    return len(same)
