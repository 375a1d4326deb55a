"""The flow `approve-model`: a person approves a model in a form, and it is promoted."""

from prefect import flow, get_run_logger

from data.lake.lake import Lake
from flows.runs.promote import promote
from imagen.models.approvals import approve
from imagen.models.table import find_model


@flow(name="approve-model", flow_run_name="approve-{model}", persist_result=False)
def approve_model(model: str, who: str, why: str, lake: str = "lake", workers: int | None = None) -> str:
    """Approve a model whose gate asks for a person, then promote it.

    Args:
        model: NAME/NUMBER; the approval is tied to the digest of its weights
        who: the person who decides
        why: the reason, stored with the approval
        lake: folder or URL of the lake
        workers: worker processes; one per core if not given
    """
    opened = Lake.open(lake)
    approval = approve(opened, find_model(opened, model), why, who)
    get_run_logger().info("%s is approved by %s: %s", approval.model, approval.who, approval.why)
    return str(promote(model, lake, workers))
