"""What the environment must say before Prefect is imported by a command."""

import os


def quiet_prefect() -> None:
    """Prefect's settings must stand before it is imported: no calls home, no log lines between the bars."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the server has them all
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
