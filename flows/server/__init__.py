"""Talking with a Prefect server: a temporary one, clients, retries, artifacts, assets, events.

Not here: the flows themselves. Start with `temporary.py`.
"""
