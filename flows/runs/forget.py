"""The flow `forget`: erase pairs from the lake for good, and show which versions and models contained them."""

from typing import Literal

from prefect import flow

from data.lake.lake import Lake
from data.upkeep.forget import forget as run_forget
from flows.server.artifacts import show_table


@flow(name="forget", flow_run_name="forget-{kind}", persist_result=False)
def forget(
    kind: Literal["url", "pair", "domain", "sha256"], what: str, reason: str = "asked to", lake: str = "lake"
) -> list[str]:
    """Erase pairs from the lake for good and block them.

    Args:
        kind: what identifies them: a URL, a pair's id, a domain, or the SHA-256 of the bytes that the origin sent
        what: the URL, id, domain or SHA-256
        reason: stored in the blocklist
        lake: folder or URL of the lake

    Returns:
        The dataset versions and models that had seen them.
    """
    forgotten = run_forget(Lake.open(lake), kind, what, reason)
    affected = [{"seen by": version, "is a": "version"} for version in forgotten.seen_by]
    affected += [{"seen by": model, "is a": "model trained on it"} for model in forgotten.models]
    show_table(
        key="forgotten",
        table=affected,
        description=f"{len(forgotten.pairs)} pairs were erased, {sum(forgotten.rows.values())} rows, "
        f"{forgotten.files} files of older versions rewritten: {reason}",
    )
    return [*forgotten.seen_by, *forgotten.models]
