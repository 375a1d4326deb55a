"""The flow `train`: a process that dies is started again, and SIGTERM ends a stage with a checkpoint."""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.flows.flow_process import (
    checkpoint_steps,
    kill_tree,
    start_flow,
    wait_for_training,
    write_config,
)
from tests.lakes.drawn import make_drawn_lake


@dataclass(frozen=True)
class Stopped:
    """A training whose process was killed and replaced, and which then got SIGTERM."""

    step: int  # of its last checkpoint before that
    last_step: int  # of the last one
    returncode: int
    output: str
    trains: bool  # whether its process is left


@pytest.fixture(scope="module")
def stopped_flow(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Iterator[Stopped]:
    folder = tmp_path_factory.mktemp("train")
    make_drawn_lake(folder, 24)
    config = write_config(folder, "long", steps=100_000)
    process = start_flow("train", folder, prefect_server, config=config, dataset="drawn")
    try:
        first = wait_for_training(process, folder)
        first.kill()
        second = wait_for_training(process, folder, other_than=first.pid)
        step = checkpoint_steps(folder)[-1]
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        yield Stopped(step, checkpoint_steps(folder)[-1], process.returncode, output, second.is_running())
    finally:
        if process.poll() is None:
            kill_tree(process)


def test_a_stage_whose_process_is_killed_continues_in_another(stopped_flow: Stopped) -> None:
    assert re.search(r"stage 1 ended with exit code -9; it resumes from .*\d", stopped_flow.output), stopped_flow.output
    assert stopped_flow.step > 3


def test_a_flow_that_gets_sigterm_leaves_no_process(stopped_flow: Stopped) -> None:
    assert stopped_flow.returncode != 0
    assert not stopped_flow.trains


def test_a_flow_that_gets_sigterm_writes_a_checkpoint(stopped_flow: Stopped) -> None:
    reported = re.search(r"stopped after step (\d+) of stage 1; a checkpoint is written", stopped_flow.output)
    assert reported, stopped_flow.output
    assert int(reported[1]) == stopped_flow.last_step > stopped_flow.step
