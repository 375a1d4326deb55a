"""The flow `verify`: check the newest version of each dataset against its lineage."""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from data.errors import ImagenError
from data.lake.lake import Lake
from data.publish.versions import datasets
from data.upkeep.verify import VerifyResult
from data.upkeep.verify import verify as run_verification
from flows.server.artifacts import show_table


class VersionDiffers(ImagenError):
    """A version differs from what its lineage describes."""


@flow(name="verify", flow_run_name="verify", persist_result=False)
def verify(lake: str = "lake", dataset: str | None = None) -> list[str]:
    """Verify the newest version of each dataset; the run fails if one differs.

    Args:
        lake: folder or URL of the lake
        dataset: only this dataset

    Returns:
        The versions that were verified.
    """
    opened, checks = Lake.open(lake), dict[str, VerifyResult]()
    for name in [dataset] if dataset else datasets(opened):
        check = checks[name] = verify_one.with_options(task_run_name=f"verify-{name}")(name, opened.url)
        get_run_logger().info("%s@%d: %s", name, check.version, "as published" if check.same else "differs")
    show_table(
        key="verified",
        table=[_row(name, check) for name, check in checks.items()],
        description=f"Newest versions of {lake}",
    )
    if wrong := [f"{name}@{check.version}" for name, check in checks.items() if not check.same]:
        raise VersionDiffers(
            f"{', '.join(wrong)} of {lake} differs from its lineage; see how: imagen verify {wrong[0]}"
        )
    return [f"{name}@{check.version}" for name, check in checks.items()]


@task(cache_policy=NO_CACHE, persist_result=False)
def verify_one(dataset: str, lake: str) -> VerifyResult:
    """Verify one dataset, in a task."""
    return run_verification(Lake.open(lake), dataset)


def _row(name: str, verified: VerifyResult) -> dict[str, object]:
    counts = {kind: len(getattr(verified, kind)) for kind in ("missing", "extra", "damaged", "absent", "rewritten")}
    return {"version": f"{name}@{verified.version}", "rows": verified.rows, "files": verified.files, **counts}
