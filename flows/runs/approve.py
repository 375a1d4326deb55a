"""The flow `approve-model`: a person's word, given in a form, and the promotion that waited for it."""

from prefect import flow, get_run_logger

from data.lake.lake import Lake
from flows.runs.promote import promote
from imagen.models.approvals import approve
from imagen.models.table import find_model


@flow(name="approve-model", flow_run_name="approve-{model}", persist_result=False)
def approve_model(model: str, who: str, why: str, lake: str = "lake", workers: int | None = None) -> str:
    """Say that a model may become champion where its gate asks for a person; then its promotion is asked for again.

    Args:
        model: NAME/NUMBER; your word is for the weights that it has now
        who: decides
        why: kept with your word
        lake: folder or URL of the lake
        workers: of the engine; as many as there are cores unless told otherwise
    """
    opened = Lake.open(lake)
    given = approve(opened, find_model(opened, model), why, who)
    get_run_logger().info("%s is approved by %s: %s", given.model, given.who, given.why)
    return str(promote(model, lake, workers))
