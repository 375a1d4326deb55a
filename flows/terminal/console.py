"""The console that every verb writes to."""

from rich.console import Console

# Everything a person reads goes to stderr; stdout is for results.
console = Console(stderr=True)
