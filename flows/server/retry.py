"""Retry calls while the Prefect server restarts."""

import time
from collections.abc import Callable
from typing import TypeVar

from httpx import ConnectError

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # seconds; a restart takes less than their sum


def patiently(call: Callable[[], Result], may_retry: Callable[[], bool] = lambda: True) -> Result:
    """Call a function, and retry while the server refuses connections.

    A Prefect client that was connected before retries by itself, but a new client gives up at once. Each run and each
    artifact opens a new client.

    Args:
        call: the function; it must be safe to call again
        may_retry: whether another try is still allowed

    Raises:
        ConnectError: the server did not answer during all the waits.
    """
    for wait in WAITS:
        try:
            return call()
        except ConnectError:
            if not may_retry():
                raise
            time.sleep(wait)
    return call()
