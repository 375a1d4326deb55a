"""Run a data stage as a flow run: its tasks are batches of shards, at most a few hundred, two in flight.

A failed batch does not stop the others: they finish and are committed, then the stage fails and names what is left. The
state is in the lake, not in Prefect's cache, so exactly those rows are pending for the next run.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
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

MOST_TASKS = 200  # batches a stage, however large the lake: each task run costs time, memory and database rows
MOST_TASKS_OF_MANY = 20  # batches a plan, if a stage needs many plans
IN_FLIGHT = 2  # batches at once, so that the engine stays busy between two batches
RETRY_DELAYS = [1.0, 5.0, 30.0]
SHOW_SECONDS = 2.0  # between two updates of the progress artifact
GIVE_UP = 3  # failed batches in a row after which the stage is given up

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """A batch that failed, or that was not tried."""

    stage: str
    batch: str
    shards: int
    rows: int
    error: str
    tried: bool = True


class BatchesFailed(ImagenError):
    """A stage ended with failed batches, after all others were committed."""

    def __init__(self, failures: list[Failure]) -> None:
        first, rows = failures[0], sum(failure.rows for failure in failures)
        batches = "a batch" if len(failures) == 1 else f"{len(failures)} batches"
        super().__init__(
            f"{batches} of {', '.join(dict.fromkeys(failure.stage for failure in failures))} failed, {rows:,} rows are "
            f"left ({first.batch}: {first.error}). The other batches are committed; run it again for the rest"
        )
        self.failures = failures


def by_recipe() -> str:
    """Return the name of a flow run: the flow and the recipe's file name."""
    return f"{runtime.flow_run.flow_name}-{PurePath(runtime.flow_run.parameters['recipe']).stem}"


def run_stage(lake: Lake, stage: Stage, engine: Engine, shard_rows: int, only: int | None = None) -> int:
    """Run a stage until nothing is pending; each batch is committed while the next ones run.

    Args:
        lake: the lake
        stage: the stage
        engine: maps shards over workers
        shard_rows: number of rows in a shard
        only: a single bucket; all buckets if not given

    Returns:
        The number of rows done.

    Raises:
        BatchesFailed: some batches failed; their rows are still pending.
    """
    plan = make_plan(lake, stage, shard_rows, only)
    watcher.get().planned(stage.name, plan.rows)
    if not plan.shards:
        return 0

    def work() -> int:
        rows, pending, failures = 0, plan, list[Failure]()
        while True:
            lost, before = 0, len(failures)
            for results in map_batches(stage, pending.shards, engine, failures, most_tasks(pending)):
                lost += pending.commit(results)  # shards whose rows another build committed first
                rows += sum(result.rows for result in results)
            failed = len(failures) > before
            start = pending.start if lost and not failed else pending.next_bucket
            if start is None or (failed and not failures[-1].tried):
                break
            pending = make_plan(lake, stage, shard_rows, only, start)
            watcher.get().planned(stage.name, pending.rows)
        if failures:
            raise BatchesFailed(failures)
        return rows

    name = stage.name if only is None else f"{stage.name}-of-{only}"
    return as_run(name, engine, work, len(plan.shards), plan.rows)


def most_tasks(plan: Plan) -> int:
    """Return the largest number of batches for a plan. It is smaller if a stage needs several plans."""
    return MOST_TASKS if plan.next_bucket is None else MOST_TASKS_OF_MANY


def as_run(name: str, engine: Engine, work: Callable[[], Result], shards: int, rows: int) -> Result:
    """Run `work` in a subflow of the current run. The subflow's parameters show the amount of work.

    If the run is cancelled, the engine is killed, so that no task waits for its shards.
    """
    started: list[bool] = []

    @flow(
        name="stage", flow_run_name=name, task_runner=ThreadPoolTaskRunner(max_workers=IN_FLIGHT), persist_result=False
    )
    def stage(shards: int, rows: int) -> Any:
        started.append(True)
        try:
            return work()
        except Exception:
            raise
        except BaseException:  # cancelled: the tasks wait for their shards, and this run would wait for the tasks
            engine.kill()
            raise

    done: Result = patiently(lambda: stage(shards, rows), may_retry=lambda: not started)
    return done


def map_batches(
    stage: Any, shards: list[Shard], engine: Engine, failures: list[Failure], most: int = MOST_TASKS
) -> Iterator[list[ShardResult]]:
    """Run shards in batches as tasks, two in flight.

    Args:
        stage: the stage whose `work` turns a shard into files
        shards: all shards
        engine: maps the shards of a batch over workers
        failures: failed batches are added here
        most: the largest number of batches

    Yields:
        The results of each batch, in order.

    Raises:
        ImagenError: an error that a person has to correct. It would fail every batch, so it is raised at once.
    """
    if not shards:
        return
    progress = begin_progress(key_of("progress", stage.name), f"{len(shards):,} shards")
    shown_at = time.monotonic()
    size = max(engine.workers, -(-len(shards) // most))
    batches = [shards[at : at + size] for at in range(0, len(shards), size)]
    batch_task = run_batch.with_options(name=stage.name, task_run_name=f"{stage.name}-{{number:05d}}")
    submitted = (  # lazily; quoted, so that Prefect does not search the arguments for futures
        (number, batch_task.submit(quote(stage), quote(batch), quote(engine), number))
        for number, batch in enumerate(batches)
    )
    running: deque[tuple[int, PrefectFuture[list[ShardResult]]]] = deque(islice(submitted, IN_FLIGHT))
    failed_in_a_row = tried = 0
    while running:
        number, future = running.popleft()
        tried = number + 1
        try:
            results = future.result()
        except Exception as error:
            if isinstance(error, ImagenError) and not isinstance(error, WorkerDied):
                raise
            failures.append(_failure(stage, number, batches[number], f"{type(error).__name__}: {error}"))
            failed_in_a_row += 1
            if failed_in_a_row == GIVE_UP:
                submitted.close()
            running.extend(islice(submitted, 1))
        else:
            failed_in_a_row = 0
            running.extend(islice(submitted, 1))
            yield results
        if not running or time.monotonic() - shown_at > SHOW_SECONDS:
            shown_at = time.monotonic()
            show_progress(progress, round(100 * tried / len(batches), 1))
    if untried := list(chain.from_iterable(batches[tried:])):
        why = f"not tried, because {GIVE_UP} batches in a row had failed"
        failures.append(_failure(stage, tried, untried, why, tried=False))


def _failure(stage: Any, number: int, shards: list[Shard], why: str, tried: bool = True) -> Failure:
    rows = sum(shard.rows.num_rows for shard in shards)
    return Failure(stage.name, f"{stage.name}-{number:05d}", len(shards), rows, why, tried)


def worth_retrying(_: Any, __: Any, state: Any) -> bool:
    """Return whether to retry a task: a store or network may recover, other errors would occur again."""
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
    """Work on a batch of shards. The files stay invisible until the flow commits them."""
    results = []
    for result in engine.map(stage.work, shards):
        watcher.get().done(stage.name, result.rows)
        results.append(result)
    return results
