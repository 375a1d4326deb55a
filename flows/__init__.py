"""The Prefect flows (order, schedule, retries, events, artifacts) and the `imagen` command. Only flows/ uses Prefect.

Flows, the platform and the terminal belong here; tensors, SQL and pictures do not. Start with `runs/rebuild.py` for
flows and `command.py` for the command.
"""
