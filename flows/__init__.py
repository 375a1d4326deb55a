"""Order, schedule, retries, events and artifacts, and the `imagen` command. The only room that knows Prefect."""
