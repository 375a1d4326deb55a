"""Order, schedule, retries, events and artifacts, and the `imagen` command. The only room that knows Prefect.

Belongs here: flows, the platform, the terminal. Not: tensors, SQL, pictures. Start with `runs/rebuild.py` for flows and
`command.py` for the command.
"""
