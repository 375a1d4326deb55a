"""Reader states, and how the states of all ranks and workers are merged into one that any number of them can load."""

from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import StateMismatch
from data.reader.order import Spans, join_spans

State = dict[str, Any]

IDENTITY_KEYS = ("dataset", "version", "files", "seed", "shuffle", "mix")  # must be equal in a state and its reader
STATE_KEYS = (*IDENTITY_KEYS, "epoch", "stream", "left")


def spans_left(state: State) -> Spans:
    """The positions that a state has still to be read; JSON turned its tuples into lists."""
    return [(start, stop) for start, stop in state["left"]]


def merge_states(states: Iterable[Any]) -> State:
    """Merge the states of all ranks and workers of one run into the state of the epoch as a whole.

    Load the result into the readers of any number of ranks and workers before they start. Together they then read what
    is left of the epoch, each sample once.

    Args:
        states: one state of each rank: of its reader, or of its `StatefulDataLoader`, which holds those of its workers.

    Raises:
        StateMismatch: the states are of different runs, one is missing, two overlap, or there is none.

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
    """Every reader state inside nested lists and dictionaries, such as the state of a loader.

    Raises:
        StateMismatch: a loader takes snapshots of its workers less often than every step, so its state is too old.
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
