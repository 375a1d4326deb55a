"""Communication with a Prefect server: temporary server, clients, retries, artifacts, assets, events.

The flows themselves are in flows/runs. Start with `temporary.py`.
"""
