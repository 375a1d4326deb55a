"""The flow `reconcile`: compare the lake with what was trained and judged, and do what is missing.

It makes up for lost events and killed runs. It does nothing while another run trains or judges in the same lake.
"""

from prefect import flow, get_client, get_run_logger
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from data.lake.lake import Lake
from flows.runs.evaluate import evaluate
from flows.runs.promote import promote
from flows.runs.retrain import retrain
from flows.runs.train import train
from flows.server.client import of_lake
from imagen.champion.reconcile import Step, next_step
from imagen.champion.retrain import RetrainPolicy
from imagen.config.training import load_config

MAX_STEPS = 3  # between a dataset version and a judged model
MODEL_FLOWS = ("retrain", "train", "promote")
ACTIVE_STATES = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


@flow(name="reconcile", flow_run_name="reconcile-{dataset}", persist_result=False)
def reconcile(
    dataset: str,
    config: str = "tiny",
    lake: str = "lake",
    name: str | None = None,
    minutes: float | None = None,
    processes: int = 1,
    workers: int | None = None,
    policy: RetrainPolicy | None = None,
) -> list[Step]:
    """Do the missing steps between the newest version of a dataset and a judged model trained on it.

    Args:
        dataset: the dataset's name
        config: a configuration (.yaml), or a preset: tiny, small, imagen-2b
        lake: folder or URL of the lake
        name: name of the model; the configuration's if not given
        minutes: minutes of training per stage, instead of the configuration's steps
        processes: training processes on this machine
        workers: worker processes of the evaluation
        policy: when a version is worth a training

    Returns:
        The steps that were done.
    """
    opened, model_name = Lake.open(lake), name or load_config(config).name
    if busy := active_runs(opened):
        get_run_logger().info("nothing to do while %s runs", busy[0])
        return []
    done: list[Step] = []
    while (missing := next_step(opened, model_name, dataset)) and len(done) < MAX_STEPS:
        step, number = missing
        get_run_logger().info("%s: %s %d is missing", model_name, step, number)
        if step == "retrain":
            retrain(dataset, config, number, lake, name, minutes, processes, workers, policy)
        elif step == "train":
            train(config, dataset, number, lake, name, minutes, processes)
        else:
            evaluate(f"{model_name}/{number}", lake, workers=workers)
            promote(f"{model_name}/{number}", lake, workers)
        done.append(step)
    return done


def active_runs(lake: Lake) -> list[str]:
    """Return the names of runs that train or judge models of this lake now."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(MODEL_FLOWS))),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ACTIVE_STATES)))
            ),
        )
    return [run.name for run in runs if of_lake(run, lake)]
