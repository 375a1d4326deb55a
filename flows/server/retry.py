"""What to do while the server is gone for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from httpx import ConnectError

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # until it has been started again


def patiently(ask: Callable[[], Result], again: Callable[[], bool] = lambda: True) -> Result:
    """Ask again while nobody listens.

    Prefect's clients do so where they were connected before. A new one gives up at once, and runs and artifacts have
    one each.
    """
    for wait in WAITS:
        try:
            return ask()
        except ConnectError:
            if not again():
                raise
            time.sleep(wait)
    return ask()
