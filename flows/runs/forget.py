"""The flow `forget`: pairs leave every table and storage for good; who had seen them is a table on the run's page."""

from typing import Literal

from prefect import flow

from data.lake.lake import Lake
from data.upkeep.forget import forget as run_forget
from flows.server.artifacts import show_table


@flow(name="forget", flow_run_name="forget-{kind}", persist_result=False)
def forget(
    kind: Literal["url", "pair", "domain", "sha256"], what: str, reason: str = "asked to", lake: str = "lake"
) -> list[str]:
    """Forget pairs for good, and never let them in again. The versions and models that had seen them come back.

    Args:
        kind: what names them: a url, a pair's id, a domain, or the sha256 of what the origin sent
        what: the URL, id, domain or SHA-256
        reason: kept on the blocklist
        lake: folder or URL of the lake
    """
    found = run_forget(Lake.open(lake), kind, what, reason)
    seen = [{"seen by": one, "is a": "version"} for one in found.seen_by]
    seen += [{"seen by": one, "is a": "model, trained on it"} for one in found.models]
    show_table(
        key="forgotten",
        table=seen,
        description=f"{len(found.pairs)} pairs were forgotten, {sum(found.rows.values())} rows, {found.files} files of "
        f"older versions written again: {reason}",
    )
    return [*found.seen_by, *found.models]
