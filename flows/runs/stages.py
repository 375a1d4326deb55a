"""A stage of the data way as a flow run of its own: batches of its shards are tasks, few and bounded in flight.

A batch that fails does not take the others with it: they are done and committed first, then the stage fails and says
which were left. Those are still pending, for the lake is the memory, not Prefect's cache: the next run does them alone.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any, TypeVar

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from data.engine.pool import Engine
from data.engine.progress import watcher
from data.engine.stage import Plan, Shard, ShardResult, Stage, make_plan
from data.errors import ImagenError, WorkerDied
from data.lake.lake import Lake
from flows.server.artifacts import begin_progress, key_of, show_progress
from flows.server.retry import patiently

MOST_TASKS = 200  # batches a stage, however large the lake: a task run costs milliseconds and memory for ever
MOST_TASKS_OF_MANY = 20  # a plan, where a stage needs many of them
IN_FLIGHT = 2  # batches at once: the engine never idles at the edge of a batch
RETRY_DELAYS = [1.0, 5.0, 30.0]
SHOW_SECONDS = 2.0  # between two looks at the progress, for the page
GIVE_UP = 3  # batches in a row: then it is the stage that does not work

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """A batch that was left undone."""

    stage: str
    batch: str
    shards: int
    rows: int
    error: str
    tried: bool = True


class BatchesFailed(ImagenError):
    """A stage ended with batches undone, after everything else was done."""

    def __init__(self, failures: list[Failure]) -> None:
        first, rows = failures[0], sum(one.rows for one in failures)
        batches = "a batch" if len(failures) == 1 else f"{len(failures)} batches"
        super().__init__(
            f"{batches} of {', '.join(dict.fromkeys(one.stage for one in failures))} failed, {rows:,} rows are left "
            f"undone ({first.batch}: {first.error}). What else there was is done; run it again for the rest"
        )
        self.failures = failures


def by_recipe() -> str:
    """The name of a flow run, by the name of its recipe's file."""
    return f"{runtime.flow_run.flow_name}-{PurePath(runtime.flow_run.parameters['recipe']).stem}"


def run_stage(lake: Lake, stage: Stage, engine: Engine, shard_rows: int, only: int | None = None) -> int:
    """Plan, map, commit, until nothing is pending; a batch is committed while the next ones run. The rows done.

    In all buckets, or in one `only`.
    """
    plan = make_plan(lake, stage, shard_rows, only)
    watcher.get().planned(stage.name, plan.rows)
    if not plan.shards:
        return 0

    def work() -> int:
        rows, todo, failures = 0, plan, list[Failure]()
        while True:
            lost, before = 0, len(failures)
            for written in map_batches(stage, todo.shards, engine, failures, tasks_for(todo)):
                lost += todo.commit(written)
                rows += sum(one.rows for one in written)
            failed = len(failures) > before
            start = todo.start if lost and not failed else todo.next_bucket
            if start is None or (failed and not failures[-1].tried):
                break
            todo = make_plan(lake, stage, shard_rows, only, start)
            watcher.get().planned(stage.name, todo.rows)
        if failures:
            raise BatchesFailed(failures)
        return rows

    name = stage.name if only is None else f"{stage.name}-of-{only}"
    return as_run(name, engine, work, len(plan.shards), plan.rows)


def tasks_for(plan: Plan) -> int:
    return MOST_TASKS if plan.next_bucket is None else MOST_TASKS_OF_MANY


def as_run(name: str, engine: Engine, work: Callable[[], Result], shards: int, rows: int) -> Result:
    """Do the work in a flow run under the one that calls, whose parameters say how much it is."""

    begun: list[bool] = []

    @flow(
        name="stage", flow_run_name=name, task_runner=ThreadPoolTaskRunner(max_workers=IN_FLIGHT), persist_result=False
    )
    def stage(shards: int, rows: int) -> Any:
        begun.append(True)
        try:
            return work()
        except Exception:
            raise
        except BaseException:  # told to stop: the tasks wait for shards, and this run would wait for them
            engine.kill()
            raise

    done: Result = patiently(lambda: stage(shards, rows), again=lambda: not begun)
    return done


def map_batches(
    stage: Any, shards: list[Shard], engine: Engine, failures: list[Failure], most: int = MOST_TASKS
) -> Iterator[list[ShardResult]]:
    """Run shards in few, bounded batches as tasks; yields what each batch wrote, in order, and notes who failed.

    What a person can mend is wrong with every batch, and is raised at once.
    """
    if not shards:
        return
    progress, shown = begin_progress(key_of("progress", stage.name), f"{len(shards):,} shards"), time.monotonic()
    size = max(engine.workers, -(-len(shards) // most))
    batches = [shards[at : at + size] for at in range(0, len(shards), size)]
    named = run_batch.with_options(name=stage.name, task_run_name=f"{stage.name}-{{number:05d}}")
    submitted = (  # one by one; quoted, for Prefect is not to look into them
        (number, named.submit(*(quote(each) for each in (stage, batch, engine)), number))
        for number, batch in enumerate(batches)
    )
    running: deque[tuple[int, PrefectFuture[list[ShardResult]]]] = deque(islice(submitted, IN_FLIGHT))
    in_a_row = tried = 0
    while running:
        number, future = running.popleft()
        tried = number + 1
        try:
            written = future.result()
        except Exception as error:
            if isinstance(error, ImagenError) and not isinstance(error, WorkerDied):
                raise
            failures.append(_failure(stage, number, batches[number], f"{type(error).__name__}: {error}"))
            in_a_row += 1
            if in_a_row == GIVE_UP:
                submitted.close()
            running.extend(islice(submitted, 1))
        else:
            in_a_row = 0
            running.extend(islice(submitted, 1))
            yield written
        if not running or time.monotonic() - shown > SHOW_SECONDS:
            shown = time.monotonic()
            show_progress(progress, round(100 * tried / len(batches), 1))
    if rest := [shard for batch in batches[tried:] for shard in batch]:
        why = f"not tried, as {GIVE_UP} batches in a row had failed"
        failures.append(_failure(stage, tried, rest, why, tried=False))


def _failure(stage: Any, number: int, shards: list[Shard], why: str, tried: bool = True) -> Failure:
    rows = sum(one.rows.num_rows for one in shards)
    return Failure(stage.name, f"{stage.name}-{number:05d}", len(shards), rows, why, tried)


def worth_retrying(_: Any, __: Any, state: Any) -> bool:
    """A store or a network that failed may have recovered; anything else fails again in the same way."""
    try:
        state.result()
    except OSError:
        return True
    except Exception:  # noqa: BLE001 - not swallowed: the task fails with it
        return False
    return False


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=worth_retrying,
)
def run_batch(stage: Any, shards: list[Shard], engine: Engine, number: int) -> list[ShardResult]:
    """Do a batch of shards. Their files are seen by nobody until the flow commits them."""
    written = []
    for one in engine.map(stage.work, shards):
        watcher.get().done(stage.name, one.rows)
        written.append(one)
    return written
