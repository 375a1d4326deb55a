"""The states of a reader: merging those of all ranks and workers into one."""

from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import StateMismatch
from data.reader.order import join

State = dict[str, Any]

SAME = ("dataset", "version", "files", "seed", "shuffle", "mix")  # what a state and its reader must agree on
PARTS = (*SAME, "epoch", "stream", "left")  # of a state


def merge_states(states: Iterable[Any]) -> State:
    """What all ranks and workers together have still to give out, from the state of each: a loader's or a reader's.

    Load it into the readers of any other number of ranks and workers before they begin.
    """
    found = list(_reader_states(list(states)))
    if not found:
        raise StateMismatch("there is no state of a reader to merge")
    first = found[0]
    for state in found:
        for name in (*SAME, "epoch"):
            if state[name] != first[name]:
                raise StateMismatch(f"states of {name} {first[name]!r} and {name} {state[name]!r} can't be merged")
    if all(state == first for state in found) and first["stream"] is None:
        return first
    if len({state["stream"] and state["stream"]["deal"] for state in found}) > 1:
        raise StateMismatch("the states are not of the same run: after a resume, merge only states saved after it")
    streams = {(state["stream"]["rank"], state["stream"]["worker"]): state for state in found}
    workers = {rank: state["stream"]["workers"] for (rank, _), state in streams.items()}
    for rank in range(first["stream"]["world"]):
        missing = [worker for worker in range(workers.get(rank, 1)) if (rank, worker) not in streams]
        if missing:
            raise StateMismatch(f"the state of worker {missing[0]} of rank {rank} is missing: merge those of all ranks")
    try:
        left = join([(start, stop) for start, stop in state["left"]] for state in found)
    except ValueError as error:
        raise StateMismatch(f"the states overlap ({error}): merge one state of each rank") from None
    return {**first, "stream": None, "left": [list(span) for span in left]}


def _reader_states(state: Any) -> Iterator[State]:
    """Every reader's state inside others', whatever loader holds them."""
    if isinstance(state, list | tuple):
        for part in state:
            yield from _reader_states(part)
    elif isinstance(state, dict):
        if state.get("_steps_since_snapshot"):
            raise StateMismatch("the loader's state lags behind what it gave: set snapshot_every_n_steps=1 to merge")
        if set(PARTS) <= set(state):
            yield state
            return
        for part in state.values():
            yield from _reader_states(part)
