"""The pool of processes: workers that die, that hang, and that are killed while they run a shard."""

import os
import re
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from data.engine.local import LocalEngine
from data.engine.pool import EngineKilled, PoolEngine
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


def hang(note: Path, where: str) -> str:
    """Hang as a decoder may: in one call that holds the interpreter's lock, so that only SIGKILL ends it."""
    tries = len(list(note.glob(f"{where}-*")))
    (note / f"{where}-{os.getpid()}").touch()
    if where == "always" or (where == "once" and not tries):
        re.match("(a+)+$", 40 * "a" + "b")
    return where


def check_that_hanging_items_are_retried(engine: PoolEngine, folder: Path) -> None:
    """An item that hangs once is retried; one that hangs again is named in the error, after all others are done."""
    items = ["before", "once", *(f"beside {number}" for number in range(4))]
    assert sorted(engine.map(partial(hang, folder), items)) == sorted(items)
    done = list[str]()
    with pytest.raises(WorkerDied, match="2 times; always was running"):
        done.extend(engine.map(partial(hang, folder), ["one", "always", "two", "three"]))
    assert sorted(done) == ["one", "three", "two"]
    assert list(engine.map(double, [21])) == [42]
    hanged = [int(note.name.rpartition("-")[2]) for note in folder.glob("always-*")]
    assert len(hanged) == 2
    for _ in range(100):
        if not any(map(psutil.pid_exists, hanged)):
            break
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, hanged))


@pytest.mark.slow
def test_what_hangs_is_tried_once_more_and_then_named(tmp_path: Path) -> None:
    with LocalEngine(2, stall_timeout=10) as engine:
        check_that_hanging_items_are_retried(engine, tmp_path)


def check_that_kill_ends_workers(engine: PoolEngine, folder: Path) -> None:
    """Kill an engine while all its workers run: a map that waits, and the next map, raise EngineKilled."""
    ended = list[BaseException]()

    def run() -> None:
        try:
            list(engine.map(sleep, [folder] * 5))
        except EngineKilled as error:
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
    with pytest.raises(EngineKilled):
        list(engine.map(double, [1]))
    engine.close()


def test_an_engine_that_is_killed_ends_its_workers_in_the_middle_of_their_items(tmp_path: Path) -> None:
    check_that_kill_ends_workers(LocalEngine(2), tmp_path)
    assert not [note.name for note in tmp_path.iterdir() if psutil.pid_exists(int(note.name))]


def test_ctrl_c_waits_for_no_item(tmp_path: Path) -> None:
    engine = LocalEngine(1)

    def run() -> None:
        with pytest.raises(EngineKilled):
            list(engine.map(sleep, [tmp_path]))

    thread = threading.Thread(target=run)
    thread.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.1)
    began = time.monotonic()
    engine.__exit__(KeyboardInterrupt)
    thread.join(20)
    assert time.monotonic() - began < 5
