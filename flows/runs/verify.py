"""The flow `verify`: is every dataset what its lineage says it is? Its selection again, and its files again."""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from data.errors import ImagenError
from data.lake.lake import Lake
from data.publish.versions import datasets
from data.upkeep.verify import Verified
from data.upkeep.verify import verify as find_verified
from flows.server.artifacts import show_table


class VersionDiffers(ImagenError):
    """A version is not what its lineage says."""


@flow(name="verify", flow_run_name="verify", persist_result=False)
def verify(lake: str = "lake", dataset: str | None = None) -> list[str]:
    """Verify the newest version of each dataset. What was verified comes back; the run fails if anything differs.

    Args:
        lake: folder or URL of the lake
        dataset: only this one
    """
    opened, found = Lake.open(lake), dict[str, Verified]()
    for name in [dataset] if dataset else datasets(opened):
        one = found[name] = verify_one.with_options(task_run_name=f"verify-{name}")(name, opened.url)
        get_run_logger().info("%s@%d: %s", name, one.version, "as it was made" if one.same else "differs")
    show_table(
        key="verified", table=[_row(name, one) for name, one in found.items()], description=f"Newest versions of {lake}"
    )
    if wrong := [f"{name}@{one.version}" for name, one in found.items() if not one.same]:
        raise VersionDiffers(f"{', '.join(wrong)} of {lake} is not what was made: imagen verify {wrong[0]} says how")
    return [f"{name}@{one.version}" for name, one in found.items()]


@task(cache_policy=NO_CACHE, persist_result=False)
def verify_one(dataset: str, lake: str) -> Verified:
    return find_verified(Lake.open(lake), dataset)


def _row(name: str, found: Verified) -> dict[str, object]:
    counts = {kind: len(getattr(found, kind)) for kind in ("missing", "extra", "damaged", "absent", "rewritten")}
    return {"version": f"{name}@{found.version}", "rows": found.rows, "files": found.files, **counts}
