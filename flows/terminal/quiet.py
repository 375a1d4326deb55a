"""Environment variables that a command sets before it imports Prefect."""

import os


def quiet_prefect() -> None:
    """Turn off Prefect's analytics, and its log lines between the progress bars. Call this before importing Prefect."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the server stores all log lines
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
