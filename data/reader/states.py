"""Merges the reader states of all ranks and workers into one, which any number of ranks and workers can load."""

from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import StateMismatch
from data.reader.order import Spans, join_spans

State = dict[str, Any]

IDENTITY_KEYS = ("dataset", "version", "files", "seed", "shuffle", "mix")  # must be equal in a state and its reader
STATE_KEYS = (*IDENTITY_KEYS, "epoch", "stream", "left")


def spans_left(state: State) -> Spans:
    """Return the positions in a state that have not been read yet, as tuples, which JSON had turned into lists."""
    return [(start, stop) for start, stop in state["left"]]


def merge_states(states: Iterable[Any]) -> State:
    """Merge the states of all ranks and workers of one run into one state for the whole epoch.

    Load the result into the readers of any number of ranks and workers before they start. Together they then read the
    rest of the epoch, each sample once.

    Args:
        states: one state per rank: the state of its reader, or of its `StatefulDataLoader`, which contains the states
            of its workers.

    Raises:
        StateMismatch: the states are from different runs, one is missing, two overlap, or there is none.

    Example:
        >>> reader.load_state_dict(merge_states([torch.load(path) for path in state_files]))
    """
    reader_states = list(_find_reader_states(list(states)))
    if not reader_states:
        raise StateMismatch("there is no reader state to merge: pass one state of each rank")
    first = reader_states[0]
    for state in reader_states:
        for key in (*IDENTITY_KEYS, "epoch"):
            if state[key] != first[key]:
                raise StateMismatch(f"states of {key} {first[key]!r} and {key} {state[key]!r} can't be merged")
    if all(state == first for state in reader_states) and first["stream"] is None:
        return first
    if len({state["stream"] and state["stream"]["deal"] for state in reader_states}) > 1:
        raise StateMismatch("the states are not of the same run: after a resume, merge only states saved after it")
    _check_complete(reader_states)
    try:
        left = join_spans(map(spans_left, reader_states))
    except ValueError as error:
        raise StateMismatch(f"the states overlap ({error}): merge one state of each rank") from None
    return {**first, "stream": None, "left": [list(span) for span in left]}


def _check_complete(reader_states: list[State]) -> None:
    """Raise StateMismatch if the state of any worker of any rank is missing."""
    streams = [state["stream"] for state in reader_states]
    present = {(stream["rank"], stream["worker"]) for stream in streams}
    workers_of_rank = {stream["rank"]: stream["workers"] for stream in streams}
    for rank in range(streams[0]["world"]):
        for worker in range(workers_of_rank.get(rank, 1)):
            if (rank, worker) not in present:
                raise StateMismatch(
                    f"the state of worker {worker} of rank {rank} is missing: merge the states of all ranks"
                )


def _find_reader_states(state: Any) -> Iterator[State]:
    """Find every reader state in nested lists and dictionaries, such as the state of a loader.

    Raises:
        StateMismatch: a loader's state is too old, because it does not take a snapshot of its workers at every step.
    """
    if isinstance(state, list | tuple):
        for item in state:
            yield from _find_reader_states(item)
    elif isinstance(state, dict):
        if state.get("_steps_since_snapshot"):
            raise StateMismatch(
                "the loader's state is older than its last batch: set snapshot_every_n_steps=1 to merge states"
            )
        if set(STATE_KEYS) <= set(state):
            yield state
            return
        for item in state.values():
            yield from _find_reader_states(item)
