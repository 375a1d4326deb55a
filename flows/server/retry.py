"""Retrying calls while the Prefect server restarts."""

import time
from collections.abc import Callable
from typing import TypeVar

from httpx import ConnectError

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # seconds; a restart takes less than their sum


def patiently(call: Callable[[], Result], may_retry: Callable[[], bool] = lambda: True) -> Result:
    """Call, and retry while the server refuses connections.

    A Prefect client retries by itself once it was connected, but a new client gives up at once, and each run and
    artifact opens a new one.

    Args:
        call: what to do; it must be safe to repeat
        may_retry: whether another try is still allowed

    Raises:
        ConnectError: the server stayed away for as long as all waits together.
    """
    for wait in WAITS:
        try:
            return call()
        except ConnectError:
            if not may_retry():
                raise
            time.sleep(wait)
    return call()
