"""The pool of processes: workers that die, and workers that are ended amid a shard."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from data.engine import Killed, LocalEngine, PoolEngine
from data.errors import WorkerDied


def double(number: int) -> int:
    return 2 * number


def sleep(note: Path) -> None:
    (note / str(os.getpid())).touch()
    time.sleep(120)


def die(number: int) -> int:
    return os._exit(number)


def test_every_item_comes_back() -> None:
    with LocalEngine(2) as engine:
        assert sorted(engine.map(double, range(20))) == list(range(0, 40, 2))


def test_an_item_that_kills_its_workers_is_named() -> None:
    with LocalEngine(1) as engine, pytest.raises(WorkerDied, match="a worker died 4 times on 3"):
        list(engine.map(die, [3]))


def killed_amid(engine: PoolEngine, folder: Path) -> None:
    """Kill an engine whose workers are all at work; whoever waits for it, or asks it again, is told."""
    ended = list[BaseException]()

    def run() -> None:
        try:
            list(engine.map(sleep, [folder] * 5))
        except Killed as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while len(list(folder.iterdir())) < engine.workers:
        time.sleep(0.1)
    began = time.monotonic()
    engine.kill()
    thread.join(20)
    assert time.monotonic() - began < 5
    assert len(ended) == 1
    with pytest.raises(Killed):
        list(engine.map(double, [1]))
    engine.close()


def test_an_engine_that_is_killed_ends_its_workers_amid_their_items(tmp_path: Path) -> None:
    killed_amid(LocalEngine(2), tmp_path)
    assert not [note.name for note in tmp_path.iterdir() if psutil.pid_exists(int(note.name))]


def test_ctrl_c_waits_for_no_item(tmp_path: Path) -> None:
    engine = LocalEngine(1)

    def run() -> None:
        with pytest.raises(Killed):
            list(engine.map(sleep, [tmp_path]))

    thread = threading.Thread(target=run)
    thread.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.1)
    began = time.monotonic()
    engine.__exit__(KeyboardInterrupt)
    thread.join(20)
    assert time.monotonic() - began < 5
