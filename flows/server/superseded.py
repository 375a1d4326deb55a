"""Handle runs that became due while there was no worker: the first to start does the work of all of them."""

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
    """Cancel the other runs of this deployment that are due with the same parameters.

    Returns:
        The number of runs that this run replaces; 0 outside a deployment.
    """
    if runtime.deployment.id is None:
        return 0
    with get_client(sync_client=True) as client:
        current = client.read_flow_run(runtime.flow_run.id)
        due = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(not_any_=[current.id]),
                deployment_id=FlowRunFilterDeploymentId(any_=[current.deployment_id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
            )
        )
        same = [run for run in due if run.parameters == current.parameters]
        for run in same:
            state = Cancelled(name=SUPERSEDED, message=f"{current.name} of {current.expected_start_time} does its work")
            client.set_flow_run_state(run.id, state, force=True)
    return len(same)
